"""Metrics that need no threshold: average precision and the area under the ROC curve.

Images with equal scores enter a curve together, in all of them: no order inside a tie is more
right than another, so none is made up, and the order of the records never matters. (Programs that
sort and go on, such as the VOC development kit, give ties whatever order the sort leaves.)
"""

from collections.abc import Callable

import numpy as np


def average_precisions(
    scores: np.ndarray, targets: np.ndarray, kind: str = "11-point"
) -> np.ndarray:
    """Returns the average precision of every class: float64[K], NaN for one without positives.

    Args:
      scores: float[n, K]; only their order within a class counts.
      targets: bool[n, K] or 0 and 1; an image may have any number of classes.
      kind: how precision is averaged over recall, a key of ``KINDS``: "11-point" is PASCAL VOC's
        before 2010, what the CLIP paper reports for VOC2007 (Table 9); "step" is scikit-learn's
        and CLIP_benchmark's; "area" is PASCAL VOC's from 2010 on.

    Raises:
      ValueError: no such kind, shapes that do not fit, targets other than 0 and 1, or a score that
        is not finite.
    """
    scores, targets = _checked(scores, targets, 2)
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not one of {tuple(KINDS)}")
    area = KINDS[kind]
    return np.array(
        [
            area(*_counts(scores[:, k], targets[:, k])) if targets[:, k].any() else np.nan
            for k in range(scores.shape[1])
        ]
    )


def mean_average_precision(
    scores: np.ndarray, targets: np.ndarray, kind: str = "11-point"
) -> float:
    """Returns the mean of ``average_precisions`` over the classes that have a positive.

    A class without is left out (scikit-learn counts it as 0); ValueError if all are.
    """
    by_class = average_precisions(scores, targets, kind)
    if np.isnan(by_class).all():
        raise ValueError("mean average precision needs a class with at least one positive")
    return float(np.nanmean(by_class))


def roc_auc(scores: np.ndarray, targets: np.ndarray) -> float:
    """Returns the area under the ROC curve, the paper's metric for Hateful Memes (Table 9).

    It is the chance that a positive scores higher than a negative, a tie counting one half, and
    comes exactly from midranks (Mann-Whitney).

    Args:
      scores: float[n], larger for more likely positive. Of two classes give the difference of the
        logits: the softmax probability has the same order, but saturates at a scale of 100.
      targets: bool[n] or 0 and 1.

    Raises:
      ValueError: shapes that do not fit, targets other than 0 and 1, a score that is not finite,
        or only one of the two classes.
    """
    scores, targets = _checked(scores, targets, 1)
    positives = int(targets.sum())
    negatives = len(targets) - positives
    if not positives or not negatives:
        raise ValueError(f"ROC AUC needs positives and negatives, got {positives} and {negatives}")
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    twice_the_midrank = 2 * np.cumsum(sizes) - sizes + 1
    ranks = int(twice_the_midrank[group][targets].sum())
    return (ranks - positives * (positives + 1)) / (2 * positives * negatives)


def _eleven_points(hits: np.ndarray, taken: np.ndarray) -> float:
    """Mean of the best precision at recall 0, 0.1, ..., 1 or more (py-faster-rcnn, ``voc_ap``).

    Recalls are compared as whole numbers. With floats a recall of 0.3 falls short of
    ``np.arange(0, 1.1, 0.1)[3]``, and the reference then takes the next precision.
    """
    first = np.searchsorted(10 * hits, np.arange(11) * hits[-1])
    return float(_envelope(hits / taken)[first].mean())


def _steps(hits: np.ndarray, taken: np.ndarray) -> float:
    """Sum of the precisions, each times the recall gained there."""
    return float((np.diff(hits, prepend=0) * (hits / taken)).sum() / hits[-1])


def _area(hits: np.ndarray, taken: np.ndarray) -> float:
    """As the sum of steps, of the best precision at this recall or more."""
    return float((np.diff(hits, prepend=0) * _envelope(hits / taken)).sum() / hits[-1])


KINDS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "11-point": _eleven_points,
    "step": _steps,
    "area": _area,
}


def _envelope(precision: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(precision[::-1])[::-1]


def _counts(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives and images down to every distinct score, from the highest: int64[d] each."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    return np.cumsum(targets[order])[last], last + 1


def _checked(
    scores: np.ndarray, targets: np.ndarray, dimensions: int
) -> tuple[np.ndarray, np.ndarray]:
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != dimensions or scores.shape != targets.shape or not scores.size:
        shape = "[n]" if dimensions == 1 else "[n, K]"
        raise ValueError(
            f"scores and targets must both be {shape}, got {list(scores.shape)} and "
            f"{list(targets.shape)}"
        )
    if not np.isin(targets, (0, 1)).all():
        raise ValueError("targets must be True and False, or 1 and 0")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity; the model has diverged")
    return scores.astype(np.float64), targets.astype(bool)
