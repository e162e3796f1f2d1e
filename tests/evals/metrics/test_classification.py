"""Figures of a classification dataset: the recorded reference, scikit-learn, and by hand."""

import json

import numpy as np
import pytest

from clip_jax.evals.metrics import average_precision, classification, zero_shot


def embedded(logits):
    """Images and classes of unit length whose cosines are ``logits`` / 10."""
    cosines = np.asarray(logits, float) / 10
    rest = np.sqrt(1 - (cosines**2).sum(axis=1, keepdims=True))
    return np.concatenate([cosines, rest], axis=1), np.eye(cosines.shape[1], cosines.shape[1] + 1)


@pytest.fixture
def golden(goldens):
    folder = goldens / "D_zeroshot"
    numbers = json.loads((folder / "numbers.json").read_text())
    return numbers, np.load(folder / "zeroshot.npz"), np.load(folder / "multilabel.npz")


def test_the_papers_metrics_equal_the_reference_numbers(golden):
    numbers, zero, multi = golden
    want = numbers["zeroshot"]
    metrics, logits, labels = classification.PAPER_METRICS, zero["logits"], zero["labels"]
    assert metrics["accuracy"].of(logits, labels) == pytest.approx(want["top1"], abs=1e-12)
    got = metrics["mean per class"].of(logits, labels)
    assert got == pytest.approx(want["mean_per_class_recall"], abs=1e-12)
    got = metrics["mean(top1, top5)"].of(logits, labels)
    assert got == pytest.approx((want["top1"] + want["top5"]) / 2, abs=1e-12)
    got = metrics["11-point mAP"].of(multi["scores"], multi["targets"])
    assert got == pytest.approx(numbers["multilabel"]["mAP_11point"], abs=1e-12)


def test_every_data_set_of_the_paper_has_its_metric(golden, goldens):
    data_sets = json.loads((goldens / "D_zeroshot" / "datasets.json").read_text())
    data_sets = data_sets.get("datasets", data_sets)
    named = {entry["paper_metric"] for entry in data_sets.values() if "paper_metric" in entry}
    assert named == set(classification.PAPER_METRICS)


def test_measure_holds_every_metric_of_the_paper_under_its_key():
    rng = np.random.default_rng(0)
    images, classes = rng.normal(size=(60, 8)), rng.normal(size=(7, 8))
    labels = rng.integers(0, 7, 60)
    logits = zero_shot.scores(images, classes)
    found = classification.measure(images, classes, labels, chunk=11)
    for name in ("accuracy", "mean per class", "mean(top1, top5)"):
        metric = classification.PAPER_METRICS[name]
        assert found[metric.key] == pytest.approx(metric.of(logits, labels), abs=1e-12)
    assert "roc_auc" not in found

    binary = classification.measure(images, classes[:2], labels % 2)
    metric = classification.PAPER_METRICS["ROC AUC"]
    assert binary[metric.key] == metric.of(logits[:, :2], labels % 2)
    assert "roc_auc" not in classification.measure(images, classes[:2], np.zeros(60, int))

    several = rng.random((60, 7)) < 0.3
    found = classification.measure(images, classes, several)
    metric = classification.PAPER_METRICS["11-point mAP"]
    assert found[metric.key] == metric.of(logits, several)
    assert found["mean_average_precision_step"] == average_precision.mean_average_precision(
        logits, several, "step"
    )


def test_roc_auc_ranks_by_the_difference_of_the_logits():
    # By the second logit alone the images would be ranked the other way round.
    logits = np.array([[0.0, 1.0], [5.0, 2.0], [0.5, 1.5], [9.0, 3.0]])
    assert classification.roc_auc(logits, np.array([1, 0, 1, 0])) == 1.0
    # A probability computed in float32 at scale 100 could no longer tell the first two apart.
    assert classification.roc_auc(100 * np.array([[0, 2.0], [0, 3.0]]), np.array([0, 1])) == 1.0
    with pytest.raises(ValueError, match=r"\[n, 2\], got \[2, 3\]"):
        classification.roc_auc(np.ones((2, 3)), np.array([0, 1]))


def test_intervals_hold_the_figures_and_shrink_with_the_pictures():
    rng = np.random.default_rng(1)
    for labels, classes in ((rng.integers(0, 2, 300), 2), (rng.random((300, 6)) < 0.3, 6)):
        weights = rng.normal(size=(classes, 12))
        of_class = labels @ weights if labels.ndim == 2 else weights[labels]
        images = of_class + 2.5 * rng.normal(size=(300, 12))
        measured = classification.measure(images, weights, labels)
        found = classification.confidence_intervals(images, weights, labels, samples=100)
        assert set(found) == set(measured)
        few = classification.confidence_intervals(images[:40], weights, labels[:40], samples=100)
        for metric, (low, high) in found.items():
            assert low <= measured[metric] <= high, metric
            assert high - low < few[metric][1] - few[metric][0] or metric == "top5"
        again = classification.confidence_intervals(images, weights, labels, samples=100)
        assert again == found


def test_confusion_counts_by_class():
    logits = np.array([[3.0, 2, 1], [1, 3, 2], [1, 3, 2], [2, 2, 1], [0, 0, 1], [5, 1, 1]])
    labels = np.array([0, 0, 0, 1, 2, 0])
    for chunk in (1, 4, 100):
        predicted = zero_shot.predict(*embedded(logits), k=1, chunk=chunk)[0][:, 0]
        np.testing.assert_array_equal(predicted, [0, 1, 1, 0, 2, 0])
    matrix = classification.confusion_matrix(predicted, labels, 4)
    want = [[2, 2, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(matrix, want)
    assert matrix.dtype == np.int64

    rows = classification.per_class(matrix)
    assert rows[0] == (0, 4, 0.5, 2 / 3, 1, 2)
    assert rows[1] == (1, 1, 0.0, 0.0, 0, 1)
    assert rows[2] == (2, 1, 1.0, 1.0, -1, 0)
    assert rows[3].n == 0 and np.isnan(rows[3].recall) and np.isnan(rows[3].precision)


@pytest.mark.reference
def test_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="needs pip install '.[reference]'")
    rng = np.random.default_rng(2)
    labels, predicted = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    matrix = classification.confusion_matrix(predicted, labels, 5)
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(labels, predicted))
    precision, recall, _, support = metrics.precision_recall_fscore_support(labels, predicted)
    for row in classification.per_class(matrix):
        got = (row.precision, row.recall, row.n)
        assert got == pytest.approx((precision[row.index], recall[row.index], support[row.index]))


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        ([0, 1], [0], r"\[2\] and \[1\]"),
        ([0, 3], [0, 1], "predicted go from 0 to 3, .* legal are 0 to 2"),
        ([0, 1], [0, -1], "labels go from -1 to 0, .* legal are 0 to 2"),
        ([0.0, 1.0], [0, 1], "predicted must be 2 integers"),
    ],
)
def test_confusion_refuses(predicted, labels, message):
    with pytest.raises(ValueError, match=message):
        classification.confusion_matrix(np.array(predicted), np.array(labels), 3)


def test_predictions_refuse_nan():
    with pytest.raises(ValueError, match="holds NaN"):
        zero_shot.predict(np.array([[1.0, np.nan]]), np.eye(2), k=1)
