"""Few-shot curves, and what zero-shot is worth in labels."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.evals.metrics import zero_shot
from clip_jax.evals.probes import few_shot, linear_probe, logistic
from clip_jax.runtime import mesh as mesh_lib

CLASSES = 3


def clusters(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % CLASSES).astype("i4")
    centres = np.random.default_rng(9).normal(size=(CLASSES, 8))
    return (centres[labels] + 1.5 * rng.normal(size=(n, 8))).astype("f4"), labels


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.create_mesh({}, jax.devices()[:1])


@pytest.fixture(scope="module")
def splits():
    return clusters(90, 0), clusters(60, 1), clusters(600, 2)


def test_more_rows_are_better(splits, mesh):
    train, _, test = splits
    programs = logistic._solve._cache_size()
    solver = logistic.Solver(mesh)
    curve = few_shot.few_shot(
        train, None, test, few_shot.FewShotSettings(seeds=range(4), solver=solver)
    )
    assert logistic._solve._cache_size() == programs + 1, "one compilation for all shots"
    assert curve.shots == (1, 2, 4, 8, 16)
    assert curve.values.shape == curve.lambdas.shape == (5, 4)
    assert (curve.lambdas == few_shot.LAMBDA).all() and few_shot.LAMBDA == 1 / 0.316
    assert curve.mean[-1] > curve.mean[0] + 0.05
    np.testing.assert_allclose(curve.mean, curve.values.mean(axis=1))
    np.testing.assert_allclose(curve.standard_deviation, curve.values.std(axis=1, ddof=1))
    # One of them from its parts.
    rows = few_shot.draw(train[1], 16, CLASSES, 2)[:, :4].ravel()
    probe = linear_probe.probe(
        (train[0][rows], train[1][rows]), None, test,
        linear_probe.ProbeSettings(
            lam=few_shot.LAMBDA, solver=logistic.Solver(mesh, padded_rows=48)
        ),
    )  # fmt: skip
    assert curve.values[2, 2] == pytest.approx(probe.metrics["top1"], abs=2 / 600)


def test_validation_chooses_the_penalty_and_is_not_fitted(splits, mesh):
    train, val, test = splits
    metric = zero_shot.mean_per_class_recall
    curve = few_shot.few_shot(
        train, val, test,
        few_shot.FewShotSettings((8, 4), (5,), metric=metric, solver=logistic.Solver(mesh)),
    )  # fmt: skip
    assert curve.shots == (4, 8) and np.isnan(curve.standard_deviation).all()
    rows = few_shot.draw(train[1], 8, CLASSES, 5)[:, :4].ravel()
    probe = linear_probe.probe(
        (train[0][rows], train[1][rows]), val, test,
        linear_probe.ProbeSettings(
            metric=metric, refit_on_val=False, solver=logistic.Solver(mesh, padded_rows=24)
        ),
    )  # fmt: skip
    assert curve.lambdas[0, 0] == probe.lam
    assert curve.values[0, 0] == pytest.approx(probe.metrics["mean_per_class_recall"], abs=0.01)
    assert curve.lambdas[0, 0] != few_shot.LAMBDA


@settings(deadline=None)
@given(st.data())
def test_draws_rows_of_each_class(data):
    counts = data.draw(st.lists(st.integers(4, 9), min_size=1, max_size=5))
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = labels[data.draw(st.permutations(range(len(labels))))]
    seed = data.draw(st.integers(0, 3))
    rows = few_shot.draw(labels, 4, len(counts), seed)
    assert rows.shape == (len(counts), 4) and len(np.unique(rows)) == rows.size
    np.testing.assert_array_equal(labels[rows], np.arange(len(counts))[:, None].repeat(4, 1))
    np.testing.assert_array_equal(few_shot.draw(labels, 2, len(counts), seed), rows[:, :2])


def test_draws_differ_by_seed():
    labels = np.arange(200) % 2
    assert not np.array_equal(few_shot.draw(labels, 5, 2, 0), few_shot.draw(labels, 5, 2, 1))
    # All rows have their chance.
    drawn = {int(i) for seed in range(200) for i in few_shot.draw(labels, 5, 2, seed).ravel()}
    assert len(drawn) > 190


def curve_of(*means, shots=(1, 2, 4, 8, 16)):
    values = np.array(means, float)[:, None] + [[-0.01, 0.01]]
    return few_shot.Curve(shots[: len(means)], values, values)


@pytest.mark.parametrize(
    ("score", "rows", "bound"),
    [
        (0.4, 2.0, ""),
        (0.35, np.sqrt(2), ""),
        (0.5, 4 * 2**0.25, ""),  # a quarter of the way from 0.48 to 0.56, in logarithms
        (0.3, 1.0, "<="),
        (0.1, 1.0, "<="),
        (0.7, 16.0, ""),
        (0.71, 16.0, ">"),
    ],
)
def test_data_efficiency(score, rows, bound):
    found = few_shot.data_efficiency(curve_of(0.3, 0.4, 0.48, 0.56, 0.7), score)
    assert found.rows == pytest.approx(rows) and found.bound == bound


def test_the_first_crossing_counts():
    """A dip does not matter once the curve has been there."""
    dip = curve_of(0.3, 0.5, 0.4, 0.6, 0.7)
    assert few_shot.data_efficiency(dip, 0.45).rows == pytest.approx(2**0.75)
    with pytest.raises(ValueError, match="must be finite"):
        few_shot.data_efficiency(dip, float("nan"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(shots=()), "shots="),
        (dict(shots=(0, 1)), "shots="),
        (dict(shots=(2, 2)), "shots="),
        (dict(seeds=()), "not empty"),
        (dict(shots=(31,)), "class 0 has 30 rows in train, fewer than 31 shots"),
        (dict(classes=4), "class 3 has 0 rows in train"),
        (dict(train=(np.zeros((4, 8)), np.zeros((4, 3), bool))), "one class a row"),
    ],
)
def test_refuses_what_cannot_be_drawn(splits, change, message):
    arguments = dict(zip(("train", "val", "test"), splits, strict=True))
    settings = {name: value for name, value in change.items() if name not in arguments}
    arguments |= {name: value for name, value in change.items() if name in arguments}
    with pytest.raises(ValueError, match=message):
        few_shot.few_shot(**arguments, settings=few_shot.FewShotSettings(**settings))
