"""The linear probe: scikit-learn's numbers, the paper's search, one answer on every process."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.evals.metrics import average_precision, classification
from clip_jax.evals.probes import linear_probe, logistic
from clip_jax.runtime import mesh as mesh_lib


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True).astype("f8"))
    return p / p.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def golden(goldens):
    folder = goldens / "D_zeroshot"
    arrays = np.load(folder / "probe.npz")
    numbers = json.loads((folder / "numbers.json").read_text())["linear_probe"]
    splits = [(arrays[f"{s}_x"], arrays[f"{s}_y"]) for s in ("train", "val", "test")]
    return SimpleNamespace(splits=splits, numbers=numbers, arrays=arrays)


@pytest.fixture(scope="module")
def probe():
    """``linear_probe.probe`` on one device, whatever else is there, with few programs."""
    solver = logistic.Solver(mesh_lib.create_mesh({}, jax.devices()[:1]), padded_rows=360)

    def run(train, val, test, **settings):
        settings = linear_probe.ProbeSettings(solver=solver, **settings)
        return linear_probe.probe(train, val, test, settings)

    return run


def test_equals_scikit_learn(golden, probe):
    result, want = probe(*golden.splits), golden.numbers
    # The grid there goes by C = 1 / lambda, which grows as lambda falls.
    index = {round(-8 * np.log10(lam)): score for lam, score in result.visited}
    assert sorted(i + 48 for i in index) == want["search_visited"]
    assert result.lam == pytest.approx(1 / want["search_best_C"])
    for i, score in index.items():
        assert score == pytest.approx(want["val_accuracy_on_grid"][i + 48], abs=1e-9 + 1 / 120)
    assert index[want["search_best_index"] - 48] == max(index.values())
    assert result.metrics["top1"] == pytest.approx(want["best"]["test_accuracy_exact"])
    np.testing.assert_allclose(softmax(result.scores), golden.arrays["proba_best"], atol=1e-3)
    assert result.converged and result.unconverged == () and result.gradient_norm < 2e-4
    assert 0 < result.iterations < 100
    assert result.scores.dtype == result.weights.dtype == np.float32
    np.testing.assert_allclose(
        golden.splits[2][0] @ result.weights.T + result.intercept, result.scores, atol=1e-4
    )


@pytest.mark.parametrize("name", ["C0.316", "C1e-4", "C100"])
def test_equals_the_exact_minimum_at_given_penalties(golden, probe, name):
    want = golden.numbers[name]
    result = probe(*golden.splits, lam=1 / want["C"])
    assert result.visited == () and result.lam == 1 / want["C"]
    np.testing.assert_allclose(softmax(result.scores), golden.arrays[f"proba_{name}"], atol=1e-3)
    assert result.metrics["top1"] == pytest.approx(want["test_accuracy_exact"])
    norm = np.linalg.norm(result.weights.astype("f8"))
    assert norm == pytest.approx(want["coef_l2_exact"], rel=1e-3)
    rows = np.concatenate([split[0] for split in golden.splits[:2]])
    labels = np.concatenate([split[1] for split in golden.splits[:2]])
    p = softmax(rows @ result.weights.T + result.intercept)
    value = -want["C"] * np.log(p[np.arange(len(p)), labels]).sum() + norm**2 / 2
    assert value == pytest.approx(want["objective_exact"], rel=1e-5)


@settings(deadline=None)
@given(st.integers(0, 96))
def test_the_search_finds_a_single_peak(peak):
    asked = []

    def scores_of(indices, best):
        assert best is None or best == linear_probe.best(dict(asked))
        asked.extend((i, -abs(i - peak)) for i in indices)
        return [-abs(i - peak) for i in indices]

    found = linear_probe.search(scores_of)
    assert linear_probe.best(found) == peak
    assert len(found) == len(asked) <= 15 and set(range(0, 97, 16)) <= set(found)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_the_search_ends_beside_a_neighbour(seed, levels):
    """Whatever the scores: the choice is the best tried, of tied ones the strongest penalty."""
    scores = np.random.default_rng(seed).integers(0, levels, 97).tolist()
    found = linear_probe.search(lambda indices, best: [scores[i] for i in indices])
    choice = linear_probe.best(found)
    assert found == {i: scores[i] for i in found}
    assert all(scores[i] < scores[choice] for i in found if i > choice)
    assert all(scores[i] <= scores[choice] for i in found)
    assert {choice - 1, choice + 1} & set(found)
    assert len(found) <= 15


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=60), st.floats(0.05, 0.9), st.integers(0, 9)
)
def test_the_split_is_stratified(labels, share, seed):
    labels = np.array(labels)
    counts = np.bincount(labels)
    if counts.max() < 2:
        with pytest.raises(ValueError, match="no class has two rows"):
            linear_probe.split(labels, share, seed)
        return
    first, second = linear_probe.split(labels, share, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(len(labels)))
    for k, count in enumerate(counts):
        taken = int((labels[second] == k).sum())
        assert taken <= max(count - 1, 0)
        assert taken >= min(1, count - 1) and abs(taken - share * count) <= 1
    again = linear_probe.split(labels, share, seed)
    np.testing.assert_array_equal(second, again[1])


def test_the_split_depends_on_the_seed_alone():
    labels = np.repeat(np.arange(3), 40)
    first = linear_probe.split(labels, 0.25, 1)[1]
    assert len(first) == 30 and not np.array_equal(first, linear_probe.split(labels, 0.25, 2)[1])
    several = linear_probe.split(np.ones((40, 3), bool), 0.25, 1)
    assert len(several[0]) == 30 and len(several[1]) == 10
    for share in (0, 1, -0.5):
        with pytest.raises(ValueError, match="val_share"):
            linear_probe.split(labels, share)


def test_without_a_validation_split_train_gives_some(golden, probe):
    train, _, test = golden.splits
    result = probe(train, None, test, seed=3)
    fitted, held_out = linear_probe.split(train[1], 0.2, 3)
    same = probe(
        (train[0][fitted], train[1][fitted]), (train[0][held_out], train[1][held_out]), test
    )
    assert result.visited == same.visited
    np.testing.assert_allclose(result.scores, same.scores, atol=0.05)


def test_the_caller_says_what_is_maximised(golden, probe):
    splits = [(x, y // 4) for x, y in golden.splits]
    seen = []

    def metric(scores, labels):
        seen.append((scores.shape, labels))
        return classification.roc_auc(scores[:, :2], labels)

    result = probe(*splits, metric=metric, refit_on_val=False, classes=8)
    assert {shape for shape, _ in seen} == {(120, 8)} and len(seen) == len(result.visited)
    np.testing.assert_array_equal(seen[0][1], splits[1][1])
    best = max(score for _, score in result.visited)
    assert result.lam == max(lam for lam, score in result.visited if score == best)
    val = logistic.scores(splits[1][0], result.weights, result.intercept)
    assert classification.roc_auc(val[:, :2], splits[1][1]) == pytest.approx(best, abs=1e-3)


def test_two_classes_have_a_roc(golden, probe):
    splits = [(x, y // 4) for x, y in golden.splits]
    result = probe(*splits, lam=1.0)
    assert result.metrics["roc_auc"] == classification.roc_auc(result.scores, splits[2][1])
    assert set(result.metrics) == {
        "top1", "top5", "mean_per_class_recall", "mean_top1_top5", "roc_auc"
    }  # fmt: skip
    one = splits[2][1] == 1
    assert (
        "roc_auc" not in probe(*splits[:2], (splits[2][0][one], splits[2][1][one]), lam=1.0).metrics
    )


def test_several_classes_a_row(golden, probe):
    """One penalty for all classes, chosen by mean average precision."""
    splits = [(x, np.stack([x[:, 0] > 0, y > 3, y % 3 == 0], axis=1)) for x, y in golden.splits]
    result = probe(*splits, refit_on_val=False)
    assert set(result.metrics) == {"mean_average_precision", "mean_average_precision_step"}
    assert result.metrics[
        "mean_average_precision_step"
    ] == average_precision.mean_average_precision(result.scores, splits[2][1], "step")
    assert result.metrics["mean_average_precision"] == average_precision.mean_average_precision(
        result.scores, splits[2][1]
    )
    assert result.metrics["mean_average_precision"] > 0.8
    assert result.scores.shape == (300, 3) and result.converged
    best = max(score for _, score in result.visited)
    assert result.lam == max(lam for lam, score in result.visited if score == best)


def test_classes_that_are_not_in_train(golden, probe):
    (x, y), _, test = golden.splits
    keep = y != 5
    result = probe((x[keep], y[keep]), None, test, lam=1.0)
    assert np.isfinite(result.scores).all() and (result.scores.argmax(axis=1) != 5).all()
    assert result.metrics["top1"] > 0.4


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("val", lambda x, y: (x[:, :5], y), "val and train differ"),
        ("test", lambda x, y: (x, np.eye(8, dtype=bool)[y]), "test and train differ"),
        ("train", lambda x, y: (x, y - 1), "train labels go from -1"),
        ("test", lambda x, y: (x, y[:-1]), "test labels must be 300 integers"),
        ("val", lambda x, y: (x * np.nan, y), "val features: row 0 holds NaN"),
        ("train", lambda x, y: (x, y * 0), "have one class"),
    ],
)
def test_refuses_splits_that_do_not_fit(golden, probe, name, change, message):
    splits = dict(zip(("train", "val", "test"), golden.splits, strict=True))
    splits[name] = change(*splits[name])
    with pytest.raises(ValueError, match=message):
        probe(**splits)


def test_refuses_a_search_with_one_row_a_class(golden, probe):
    (x, y), _, test = golden.splits
    first = np.unique(y, return_index=True)[1]
    with pytest.raises(ValueError, match="no class has two rows in train"):
        probe((x[first], y[first]), None, test)
