"""Logistic regression: the minimum that Newton's method finds in float64, whatever the layout."""

import jax
import numpy as np
import pytest

from clip_jax.evals.probes import logistic, logistic_loss
from clip_jax.runtime import mesh as mesh_lib

N, D, K = 90, 6, 4
CLASSES = K + 1  # the last one has no rows
LAMBDAS = (1e4, 1.0, 1e-2)


def clusters(n=N, classes=K, seed=0):
    """Overlapping classes around a common mean that is far from 0, on axes of unequal width."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = np.random.default_rng(9).normal(size=(classes, D))
    rows = 5 + (centres[labels] + 1.2 * rng.normal(size=(n, D))) * np.geomspace(1, 0.05, D)
    return rows.astype("f4"), labels.astype("i4")


def softmax_loss(logits, targets):
    """Mean cross entropy and its gradient, for targets bool[n, K] with one class a row."""
    logits = logits - logits.max(axis=1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(p[targets]).sum() / len(p), (p - targets) / len(p)


def binary_loss(logits, targets):
    p = 1 / (1 + np.exp(-logits))
    return -np.log(np.where(targets, p, 1 - p)).sum() / len(p), (p - targets) / len(p)


def gradient(loss, features, targets, lam, weights, intercept):
    """Value and gradient of the objective divided by n, in float64: [K, D + 1], intercept last."""
    x = np.asarray(features, np.float64)
    weights = np.asarray(weights, np.float64)
    value, residual = loss(x @ weights.T + np.asarray(intercept, np.float64), targets)
    value += 0.5 * lam / len(x) * (weights**2).sum()
    by_weight = residual.T @ x + lam / len(x) * weights
    return value, np.concatenate([by_weight, residual.sum(axis=0)[:, None]], axis=1)


def minimum(loss, features, targets, lam):
    """Weights [K, D] and intercepts [K] by Newton's method, the Hessian from differences."""
    classes = targets.shape[1]
    point = np.zeros(classes * (D + 1))

    def f(flat):
        table = flat.reshape(classes, D + 1)
        value, g = gradient(loss, features, targets, lam, table[:, :-1], table[:, -1])
        return value, g.ravel()

    for _ in range(60):
        value, g = f(point)
        if np.abs(g).max() < 1e-12:
            break
        steps = 1e-6 * np.eye(len(point))
        hessian = np.stack([(f(point + s)[1] - f(point - s)[1]) / 2e-6 for s in steps])
        step = np.linalg.lstsq(hessian, g, rcond=1e-12)[0]
        length = 1.0
        while f(point - length * step)[0] > value + 1e-14:
            length /= 2
        point = point - length * step
    table = point.reshape(classes, D + 1)
    return table[:, :-1], table[:, -1]


def one_hot(labels, classes=K):
    return labels[:, None] == np.arange(classes)


@pytest.fixture(scope="module")
def data():
    return clusters()


def regression(features, labels, classes=CLASSES, **options):
    """On one device, whatever else is there."""
    options = {"mesh": mesh_lib.create_mesh({}, jax.devices()[:1])} | options
    return logistic.LogisticRegression(features, labels, classes, logistic.Solver(**options))


@pytest.fixture(scope="module")
def solved(data):
    return regression(*data).solve(LAMBDAS)


def test_finds_the_minimum(data, solved):
    features, labels = data
    assert solved.converged.all() and (solved.iterations < 60).all()
    for i, lam in enumerate(LAMBDAS):
        weights, intercept = minimum(softmax_loss, features, one_hot(labels), lam)
        got = logistic.scores(features, solved.weights[i], solved.intercepts[i])[:, :K]
        # Logits of a softmax count up to a constant.
        expected = features @ weights.T + intercept
        np.testing.assert_allclose(
            got - got.mean(axis=1, keepdims=True),
            expected - expected.mean(axis=1, keepdims=True), atol=5e-3,
        )  # fmt: skip
        value, g = gradient(
            softmax_loss, features, one_hot(labels, CLASSES), lam,
            solved.weights[i], solved.intercepts[i],
        )  # fmt: skip
        assert solved.objectives[i] == pytest.approx(value, rel=1e-5)
        assert np.linalg.norm(g) < 1e-3
        assert solved.gradient_norms[i] == pytest.approx(np.linalg.norm(g), rel=0.05, abs=2e-6)
    assert solved.weights.dtype == solved.intercepts.dtype == np.float32
    assert solved.weights.shape == (3, CLASSES, D)


def test_no_penalty_changes_what_another_finds(data, solved):
    """Alone, beside one that takes long, in another place: up to the order of float32 sums."""
    programs = logistic._solve._cache_size()
    for order in ((2,), (0,), (1, 2), (2, 1, 0)):
        found = regression(*data).solve([LAMBDAS[i] for i in order], lanes=3)
        for lane, i in enumerate(order):
            np.testing.assert_allclose(found.weights[lane], solved.weights[i], atol=1e-3)
            assert abs(found.iterations[lane] - solved.iterations[i]) <= 2
    assert logistic._solve._cache_size() == programs, "lanes= must not compile again"
    # One that has arrived stays where it is: begun at the minimum there is nothing to do.
    again = regression(*data, tolerance=2e-4).solve(LAMBDAS[1:2], start=solved.lane(1), lanes=3)
    assert again.iterations[0] == 0
    np.testing.assert_allclose(again.weights[0], solved.weights[1], atol=1e-5)


def test_devices_chunks_and_padding_change_nothing(data, solved, monkeypatch):
    monkeypatch.setattr(logistic, "_CHUNK", 32)
    mesh = mesh_lib.create_mesh({"data": -1, "fsdp": 2}, jax.devices()[:8])
    sharded = regression(*data, mesh=mesh, padded_rows=200)
    rows = sharded._problem.rows.features
    assert rows.shape[0] > 1 and rows.shape[1] % 8 == 0 and np.prod(rows.shape[:2]) >= 200
    assert len(rows.sharding.device_set) == 8 and not rows.sharding.is_fully_replicated
    found = sharded.solve(LAMBDAS)
    assert found.converged.all()
    np.testing.assert_allclose(found.weights, solved.weights, atol=1e-3)
    np.testing.assert_allclose(found.objectives, solved.objectives, rtol=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "binary"])
def test_objective_and_gradient_far_from_the_minimum(kind):
    features, labels = clusters()
    targets = one_hot(labels) if kind == "softmax" else clusters(seed=3)[0][:, :K] > 5
    given = labels if kind == "softmax" else targets
    held = regression(features, given, K)
    problem = held._problem
    axes, mean = np.asarray(problem.axes, np.float64), np.asarray(problem.mean, np.float64)
    rng = np.random.default_rng(5)
    for size in (0.5, 5.0):
        table = size * rng.normal(size=(1, D + 1, K)).astype("f4")
        values, gradients = logistic_loss.objective(
            problem, table, np.array([0.1], np.float32), held.mesh
        )
        weights = (axes @ table[0, :-1]).T
        value, g = gradient(
            softmax_loss if kind == "softmax" else binary_loss,
            features, targets, 0.1 * N, weights, table[0, -1] - weights @ mean,
        )  # fmt: skip
        turned = g[:, :-1] - g[:, -1:] * mean  # back to centred features, then onto the axes
        expected = np.concatenate([turned @ axes, g[:, -1:]], axis=1).T
        assert float(values[0]) == pytest.approx(value, rel=1e-4)
        np.testing.assert_allclose(gradients[0], expected, atol=1e-4 * np.abs(expected).max())


def test_loss_keeps_its_digits_where_all_rows_are_right():
    """The cross entropy of p = 1 - 1e-9 is 1e-9, where float32's 1 - p is 0."""
    logits = np.array([[[0.0, 20.7, 0.0]], [[30.0, 0.0, -5.0]]], np.float32)
    loss, residual = logistic_loss._softmax(logits, np.array([1, 0]))
    expected = np.log1p(2 * np.exp(-20.7)), np.log1p(np.exp(-30.0) + np.exp(-35.0))
    np.testing.assert_allclose(np.ravel(loss), expected, rtol=1e-5)
    p = np.exp(logits[:, 0].astype("f8"))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(residual[0, 0, [0, 2]], p[0, [0, 2]], rtol=1e-5)
    np.testing.assert_allclose(residual[0, 0, 1], -p[0, [0, 2]].sum(), rtol=1e-5)
    loss, residual = logistic_loss._binary(np.full((1, 1, 1), 40, "f4"), np.array([[True]]))
    np.testing.assert_allclose([loss[0, 0], -residual[0, 0, 0]], np.exp(-40), rtol=1e-5)


def test_two_classes_are_a_binary_regression(data):
    """scikit-learn's penalty for two classes: of one weight vector, not of two opposite ones."""
    features, labels = data[0], data[1] % 2
    found = regression(features, labels).solve([0.3], lanes=3)
    weights, intercept = minimum(binary_loss, features, labels[:, None] == 1, 0.3)
    np.testing.assert_allclose(found.weights[0, 1] - found.weights[0, 0], weights[0], atol=2e-3)
    margin = logistic.scores(features, found.weights[0], found.intercepts[0])
    np.testing.assert_allclose(
        margin[:, 1] - margin[:, 0], features @ weights[0] + intercept, atol=2e-3
    )


def test_several_classes_a_row_are_regressions_of_their_own(data):
    features = data[0]
    targets = clusters(seed=3)[0][:, :CLASSES] > 5
    targets[:, 3], targets[:, 4] = False, True
    found = regression(features, targets).solve([0.5])
    assert found.converged.all()
    scores = logistic.scores(features, found.weights[0], found.intercepts[0])
    for k in range(3):
        weights, intercept = minimum(binary_loss, features, targets[:, k : k + 1], 0.5)
        np.testing.assert_allclose(found.weights[0, k], weights[0], atol=2e-3)
        np.testing.assert_allclose(scores[:, k], features @ weights[0] + intercept, atol=2e-3)
    # Classes that no row has, or every row.
    np.testing.assert_array_equal(found.weights[0, 3:], 0)
    np.testing.assert_array_equal(found.intercepts[0, 3:], [-logistic.FAR, logistic.FAR])


def test_a_class_without_rows_is_never_predicted(data, solved):
    features, labels = data
    np.testing.assert_array_equal(solved.weights[:, K], 0)
    np.testing.assert_array_equal(solved.intercepts[:, K], -logistic.FAR)
    scores = logistic.scores(features, solved.weights[1], solved.intercepts[1])
    assert np.isfinite(scores).all() and (scores.argmin(axis=1) == K).all()
    # It may turn up later: its intercept does not start from minus a million then.
    later = regression(features, np.where(np.arange(N) < 9, K, labels))
    there = later.solve(LAMBDAS[1:2], start=solved.lane(1), lanes=3)
    assert there.converged.all() and abs(there.intercepts[0, K]) < 100
    fresh = later.solve(LAMBDAS[1:2], lanes=3)
    np.testing.assert_allclose(there.weights, fresh.weights, atol=2e-3)


def test_iterations_are_limited(data):
    found = regression(*data, max_iterations=2).solve(LAMBDAS)
    assert found.iterations.max() == 2
    assert not found.converged[2]
    assert found.converged[0], "a strong penalty needs fewer"


def test_rounding_of_many_rows_hides_no_step():
    """One float32 that runs over 60,000 losses is off by more than a good step gains."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 60_000).astype(np.int32)
    rows = (rng.normal(size=(10, 32))[labels] * 0.5 + rng.normal(size=(60_000, 32))).astype("f4")
    mesh = mesh_lib.create_mesh({"data": 1}, jax.devices()[:1])
    regression = logistic.LogisticRegression(rows, labels, 10, logistic.Solver(mesh))
    found = regression.solve([1e-6, 1e-2, 1, 100])
    assert found.converged.all(), (found.iterations, found.gradient_norms)


def test_sums_in_two_levels():
    for rows in (1, 2, 3, 10, 4099):
        terms = np.random.default_rng(rows).normal(size=(rows, 2)).astype("f4")
        got = jax.jit(logistic_loss._sum)(terms)
        np.testing.assert_allclose(got, terms.sum(0, dtype=np.float64), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(labels=np.full(N, 2)), "all 90 rows have one class"),
        (dict(labels=np.arange(N) % 6), "labels go from 0 to 5, but there are 5 classes"),
        (dict(labels=np.arange(N) - 1), "labels go from -1"),
        (dict(labels=np.zeros(N)), "labels must be 90 integers"),
        (dict(labels=np.zeros(N - 1, int)), "labels must be 90 integers"),
        (dict(labels=np.zeros((N, 3), bool)), r"or bool\[90, 5\]"),
        (dict(features=np.zeros(N)), "features must have the shape"),
        (dict(features=np.zeros((0, D))), "features must have the shape"),
        (dict(features=np.where(np.arange(N)[:, None] == 7, np.nan, 1)), "row 7 holds NaN"),
        (dict(features=np.where(np.arange(N)[:, None] == 8, np.inf, 1)), "row 8 holds NaN"),
    ],
)
def test_refuses_arrays_that_do_not_fit(change, message):
    arguments = dict(zip(("features", "labels"), clusters(), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        regression(**arguments)


def test_refuses_penalties_and_starts_that_make_no_sense(data, solved):
    for lambdas in ([], [0.0], [-1.0], [np.nan], [np.inf], 1.0):
        with pytest.raises(ValueError, match="must be positive numbers"):
            regression(*data).solve(lambdas)
    for start in (solved, logistic.Solution(*[x[:1, :3] if x.ndim > 1 else x[:1]
                                              for x in vars(solved).values()])):  # fmt: skip
        with pytest.raises(ValueError, match="start has weights"):
            regression(*data).solve([1.0], start=start)
