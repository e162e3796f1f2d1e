"""Average precision and ROC AUC: the recorded reference, and the definitions in fractions."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.evals.metrics import average_precision

KINDS = ("11-point", "step", "area")


def average_precision_of(scores, targets, kind="11-point"):
    """Average precision of one class."""
    columns = np.reshape(scores, (-1, 1)), np.reshape(targets, (-1, 1))
    return average_precision.mean_average_precision(*columns, kind)


@pytest.fixture
def golden(goldens):
    folder = goldens / "D_zeroshot"
    numbers = json.loads((folder / "numbers.json").read_text())
    return numbers, np.load(folder / "multilabel.npz"), np.load(folder / "auc.npz")


def test_equals_the_reference_numbers(golden):
    numbers, arrays, auc = golden
    scores, targets = arrays["scores"], arrays["targets"]
    kinds = {
        "11-point": ("ap_11point", "mAP_11point"),
        "step": ("ap_step", "mAP_step_sum"),
        "area": ("ap_voc_area", "mAP_voc2010_area"),
    }
    for kind, (column, mean) in kinds.items():
        got = average_precision.average_precisions(scores, targets, kind)
        np.testing.assert_allclose(got, arrays[column], atol=1e-12)
        one = average_precision_of(scores[:, 3], targets[:, 3], kind)
        assert one == pytest.approx(arrays[column][3], abs=1e-12)
        got = average_precision.mean_average_precision(scores, targets, kind)
        assert got == pytest.approx(numbers["multilabel"][mean], abs=1e-12)
    # CLIP_benchmark computes in float32.
    got = average_precision.mean_average_precision(scores, targets, "step")
    assert got == pytest.approx(numbers["multilabel"]["mAP_clip_benchmark"], abs=1e-7)
    got = average_precision.roc_auc(auc["scores"], auc["labels"])
    assert got == pytest.approx(numbers["roc_auc"]["roc_auc"], abs=1e-12)


def points(scores, targets):
    """(recall, precision) at every threshold, from the definition, in fractions."""
    found = []
    for threshold in sorted(set(scores), reverse=True):
        chosen = [t for s, t in zip(scores, targets, strict=True) if s >= threshold]
        hits = sum(chosen)
        found.append((Fraction(hits, sum(targets)), Fraction(hits, len(chosen))))
    return found


def by_definition(scores, targets, kind):
    found = points(scores, targets)
    if kind == "11-point":
        levels = [Fraction(i, 10) for i in range(11)]
        return sum(max(p for r, p in found if r >= level) for level in levels) / 11
    total, before = Fraction(0), Fraction(0)
    for i, (recall, precision) in enumerate(found):
        best = precision if kind == "step" else max(p for _, p in found[i:])
        total, before = total + (recall - before) * best, recall
    return total


@settings(deadline=None)
@given(st.data())
def test_equals_the_definition_with_ties(data):
    n = data.draw(st.integers(1, 25))
    scores = data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n))
    targets = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    order = data.draw(st.permutations(range(n)))
    shuffled = np.array(scores, float)[order], np.array(targets)[order]
    if any(targets):
        for kind in KINDS:
            got = average_precision_of(*shuffled, kind)
            assert got == pytest.approx(float(by_definition(scores, targets, kind)), abs=1e-12)
    if 0 < sum(targets) < n:
        pairs = [
            Fraction((a > b) - (a < b) + 1, 2)
            for a, s in zip(scores, targets, strict=True) if s
            for b, t in zip(scores, targets, strict=True) if not t
        ]  # fmt: skip
        assert average_precision.roc_auc(*shuffled) == pytest.approx(float(sum(pairs) / len(pairs)))


@pytest.mark.reference
def test_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="needs pip install '.[reference]'")
    rng = np.random.default_rng(0)
    targets = rng.random((400, 6)) < 0.2
    scores = (rng.normal(size=(400, 6)) + targets).round(1)  # with ties
    got = average_precision.mean_average_precision(scores, targets, "step")
    assert got == pytest.approx(metrics.average_precision_score(targets, scores), abs=1e-12)
    got = average_precision.roc_auc(scores[:, 0], targets[:, 0])
    assert got == pytest.approx(metrics.roc_auc_score(targets[:, 0], scores[:, 0]), abs=1e-12)


def test_a_recall_of_exactly_three_tenths_counts_as_that():
    # 10 positives: three first, then seven negatives, then the other positives. At recall 0.3 the
    # best precision is still 1, at 0.4 it is the last one, 10 of 17.
    targets = np.array([1] * 3 + [0] * 7 + [1] * 7)
    got = average_precision_of(-np.arange(17.0), targets)
    assert got == pytest.approx((4 + 7 * 10 / 17) / 11)


def test_classes_without_positives_are_left_out_and_perfect_ones_score_one():
    scores = np.array([[3.0, 1, 5], [2, 2, 6], [1, 3, 7]])
    targets = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1]], bool)
    for kind in KINDS:
        np.testing.assert_array_equal(
            average_precision.average_precisions(scores, targets, kind), [1.0, np.nan, 1.0]
        )
        assert average_precision.mean_average_precision(scores, targets, kind) == 1.0


def test_constant_scores_say_nothing():
    targets = np.arange(20) < 5
    assert average_precision.roc_auc(np.zeros(20), targets) == 0.5
    for kind in KINDS:
        assert average_precision_of(np.zeros(20), targets, kind) == 0.25


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        ([1.0, np.nan], [0, 1], "scores hold NaN"),
        ([1.0, np.inf], [0, 1], "scores hold NaN or infinity"),
        ([1.0, 2.0], [0, 2], "True and False, or 1 and 0"),
        ([1.0, 2.0], [0, -1], "True and False, or 1 and 0"),
        ([1.0, 2.0], [0], r"\[n(, K)?\], got \[2(, 1)?\] and \[1(, 1)?\]"),
        ([], [], r"got \[0(, 1)?\] and \[0(, 1)?\]"),
        ([1.0, 2.0], [0, 0], "positive"),
    ],
)
def test_refuses(scores, targets, message):
    for metric in (average_precision_of, average_precision.roc_auc):
        with pytest.raises(ValueError, match=message):
            metric(np.array(scores), np.array(targets))


def test_refuses_what_has_no_mean():
    with pytest.raises(ValueError, match="a class with at least one positive"):
        average_precision.mean_average_precision(np.ones((3, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="got 2 and 0"):
        average_precision.roc_auc(np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match=r"kind='voc' is not one of \('11-point', 'step', 'area'"):
        average_precision.mean_average_precision(np.ones((2, 1)), np.ones((2, 1)), "voc")
    with pytest.raises(ValueError, match=r"\[n, K\]"):
        average_precision.average_precisions(np.ones(3), np.ones(3))
