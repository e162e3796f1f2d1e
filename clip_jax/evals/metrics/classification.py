"""Metrics of a classification dataset, their intervals, and what happens class by class.

The labels decide what is measured: accuracies where an image has one class, labels int[n]; mean
average precision where it may have several, labels bool[n, K]. ``PAPER_METRICS`` are those that the
paper ranks datasets by (Table 9). Other arguments, and errors, are those of ``zero_shot``.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from clip_jax.evals.metrics import average_precision, intervals, zero_shot
from clip_jax.evals.metrics.validation import indices

_CHUNK = 4096


class PaperMetric(NamedTuple):
    """A metric: its key in ``measure``, and its function of logits float[n, K] and labels.

    Labels are int[n] or, for mean average precision, bool[n, K].
    """

    key: str
    of: Callable[[np.ndarray, np.ndarray], float]


class ClassRow(NamedTuple):
    """The results of one class. A share of nothing is NaN.

    Attributes:
      index: of the class.
      n: images of it.
      recall: share of its images that are taken for it.
      precision: share of the images taken for it that are of it.
      taken_for: the other class that most of its images are taken for; -1 if none is.
      taken_for_n: how many.
    """

    index: int
    n: int
    recall: float
    precision: float
    taken_for: int
    taken_for_n: int


def measure(
    image_emb: np.ndarray, class_emb: np.ndarray, labels: np.ndarray, *, chunk: int = _CHUNK
) -> dict[str, float]:
    """Returns every metric that the labels allow, each from 0 to 1.

    For int labels ``top1``, ``top5``, ``mean_per_class_recall``, ``mean_top1_top5`` and, if there
    are two classes and images of both, ``roc_auc``. For bool labels ``mean_average_precision`` as
    VOC2007 and the paper have it (11 points), and ``mean_average_precision_step`` as scikit-learn
    and CLIP_benchmark have it.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 or _has_roc(len(class_emb), labels):
        return measure_scores(zero_shot.scores(image_emb, class_emb), labels)
    return _accuracies(zero_shot.expected_hits(image_emb, class_emb, labels, chunk=chunk), labels)


def measure_scores(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns what ``measure`` does, of scores float[n, K] of any scale."""
    if labels.ndim == 2:
        return {metric.key: metric.of(scores, labels) for metric in _OF_SEVERAL}
    metrics = _accuracies(zero_shot.hits_of_scores(scores, labels, (1, 5)), labels)
    if _has_roc(scores.shape[1], labels):
        metrics["roc_auc"] = roc_auc(scores, labels)
    return metrics


def _accuracies(hits: dict[int, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    top1, top5 = float(hits[1].mean()), float(hits[5].mean())
    return {
        "top1": top1,
        "top5": top5,
        "mean_per_class_recall": zero_shot.mean_over_classes(hits[1], labels),
        "mean_top1_top5": (top1 + top5) / 2,
    }


def confidence_intervals(
    image_emb: np.ndarray,
    class_emb: np.ndarray,
    labels: np.ndarray,
    *,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Returns the 95% interval (low, high) of every metric of ``measure``.

    Wilson's for top-1 and top-5; for the others the bootstrap over images, which for mean per
    class recall and ROC AUC draws within each class, as these weigh classes and not images. A class
    with a single image then varies by nothing.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2:
        scores = zero_shot.scores(image_emb, class_emb)
        return {
            m.key: resampled(m.of, scores, labels, samples=samples, seed=seed) for m in _OF_SEVERAL
        }
    hits = zero_shot.expected_hits(image_emb, class_emb, labels)
    top1, top5 = hits[1], hits[5]
    draws = {"samples": samples, "seed": seed}
    bounds = {
        "top1": intervals.wilson(float(top1.mean()), len(labels)),
        "top5": intervals.wilson(float(top5.mean()), len(labels)),
        "mean_top1_top5": intervals.bootstrap(np.mean, (top1 + top5) / 2, **draws),
        "mean_per_class_recall": intervals.bootstrap(
            zero_shot.mean_over_classes, top1, labels, strata=labels, **draws
        ),
    }
    if _has_roc(len(class_emb), labels):
        scores = zero_shot.scores(image_emb, class_emb)
        bounds["roc_auc"] = intervals.bootstrap(roc_auc, scores, labels, strata=labels, **draws)
    return bounds


def top1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns top-1 accuracy, as ``zero_shot.accuracy`` does."""
    return zero_shot.accuracy(logits, labels, (1,))["top1"]


def mean_top1_top5(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of top-1 and top-5 accuracy, the paper's metric for Kinetics-700."""
    return float(np.mean(list(zero_shot.accuracy(logits, labels, (1, 5)).values())))


def roc_auc(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the ROC AUC of two classes, by the second one's logit less the first one's."""
    logits = np.asarray(logits)
    if logits.ndim != 2 or logits.shape[1] != 2:
        raise ValueError(f"ROC AUC needs logits [n, 2], got {list(logits.shape)}")
    return average_precision.roc_auc(logits[:, 1] - logits[:, 0], labels)


def resampled(
    metric: Callable[[np.ndarray, np.ndarray], float],
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the 95% bootstrap interval of a metric of scores float[n, K] and labels.

    Rows are drawn within each class. Where a row may have several, within those that have any class
    and those that have none: a draw without a positive would have no precision.
    """
    strata = labels.any(axis=1) if labels.ndim == 2 else labels
    return intervals.bootstrap(metric, scores, labels, samples=samples, seed=seed, strata=strata)


# What scikit-learn and CLIP_benchmark call average precision.
STEP_METRIC = PaperMetric(
    "mean_average_precision_step",
    functools.partial(average_precision.mean_average_precision, kind="step"),
)
PAPER_METRICS: dict[str, PaperMetric] = {
    "accuracy": PaperMetric("top1", top1),
    "mean per class": PaperMetric("mean_per_class_recall", zero_shot.mean_per_class_recall),
    "11-point mAP": PaperMetric("mean_average_precision", average_precision.mean_average_precision),
    "ROC AUC": PaperMetric("roc_auc", roc_auc),
    "mean(top1, top5)": PaperMetric("mean_top1_top5", mean_top1_top5),
}
_OF_SEVERAL = (PAPER_METRICS["11-point mAP"], STEP_METRIC)  # where an image has several classes


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Counts how often an image of one class (row) is taken for another (column): int64[K, K].

    A tie goes to one class; with ties the diagonal need not add up to ``measure``'s top-1.

    Args:
      predicted: int[n], such as ``zero_shot.predict(..., k=1)[0][:, 0]``.
      labels: int[n].
      classes: K.
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape or predicted.ndim != 1:
        raise ValueError(
            f"predicted and labels must both be [n], got {list(predicted.shape)} and "
            f"{list(labels.shape)}"
        )
    predicted = indices(predicted, len(predicted), classes, "predicted")
    labels = indices(labels, len(labels), classes)
    cells = np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes**2)
    return cells.reshape(classes, classes)


def per_class(confusion: np.ndarray) -> list[ClassRow]:
    """Returns a row for every class of a ``confusion_matrix`` int64[K, K], in their order."""
    confusion = np.asarray(confusion)
    right, of_class, taken = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    others = confusion - np.diag(right)
    wrong = others.argmax(axis=1)
    with np.errstate(invalid="ignore"):
        recall, precision = right / of_class, right / taken
    return [
        ClassRow(
            k, int(of_class[k]), float(recall[k]), float(precision[k]),
            int(wrong[k]) if others[k, wrong[k]] else -1, int(others[k, wrong[k]]),
        )
        for k in range(len(confusion))
    ]  # fmt: skip


def _has_roc(classes: int, labels: np.ndarray) -> bool:
    return classes == 2 and len(np.unique(labels)) == 2
