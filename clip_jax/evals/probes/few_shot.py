"""Few-shot curves: linear probes of 1, 2, 4, 8, 16 rows a class (CLIP paper, section 3.1.5)."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clip_jax.evals.metrics import classification
from clip_jax.evals.probes import linear_probe, logistic
from clip_jax.evals.probes.linear_probe import Metric, Split

SHOTS = (1, 2, 4, 8, 16)
# Where there is no validation split: C = 0.316, from a sweep of OpenAI's (README of CLIP).
LAMBDA = 1 / 0.316


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Test scores by the number of training rows a class.

    Attributes:
      shots: S numbers of rows, ascending.
      values: float64[S, number of seeds], the metric on the test split.
      lambdas: float64[S, number of seeds], the penalties of the probes.
    """

    shots: tuple[int, ...]
    values: np.ndarray
    lambdas: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Over seeds: float64[S]."""
        return self.values.mean(axis=1)

    @property
    def standard_deviation(self) -> np.ndarray:
        """Over seeds, of a sample (n - 1): float64[S]; NaN for one seed."""
        if self.values.shape[1] == 1:
            return np.full(len(self.shots), np.nan)
        return self.values.std(axis=1, ddof=1)


class Efficiency(NamedTuple):
    """Rows a class at which the probe is as good as zero-shot.

    Attributes:
      rows: float. Where the curve does not reach or undercut the score, its end.
      bound: "" where ``rows`` is the answer, "<=" where the probe with the fewest rows is at least
        as good already, ">" where no probe of the curve is.
    """

    rows: float
    bound: str


@dataclasses.dataclass(frozen=True)
class FewShotSettings:
    """What decides a curve besides the rows.

    Attributes:
      shots: rows of each class.
      seeds: a draw each.
      classes: K; None: one more than the highest label of the three splits.
      metric: on the test split, and what the search maximises; None: top-1 accuracy.
      lam: the penalty where there is no validation split.
      solver: of every fit; ``padded_rows`` is the number of rows of the most shots.

    Raises:
      ValueError: no shots or seeds, or shots that are not different positive numbers.
    """

    shots: Sequence[int] = SHOTS
    seeds: Sequence[int] = (0, 1, 2)
    classes: int | None = None
    metric: Metric | None = None
    lam: float = LAMBDA
    solver: logistic.Solver = dataclasses.field(default_factory=logistic.Solver)

    def __post_init__(self):
        object.__setattr__(self, "shots", tuple(sorted(self.shots)))
        different = len(set(self.shots)) == len(self.shots)
        if not self.shots or self.shots[0] < 1 or not different or not len(self.seeds):
            raise ValueError(
                f"shots={self.shots} must be different positive numbers and "
                f"seeds={tuple(self.seeds)} not empty"
            )


def few_shot(
    train: Split, val: Split | None, test: Split, settings: FewShotSettings | None = None
) -> Curve:
    """Fits probes to few rows of each class. Runs on every process with the same arguments.

    For one seed the rows of fewer shots are among those of more. The probe is fitted to these rows
    alone; the validation split, where there is one, only chooses its penalty.

    Args:
      train: features float[n, D] and labels int[n] to draw from.
      val: features and labels for the search of each probe's penalty, or None: no search.
      test: features and labels to measure.
      settings: see ``FewShotSettings``.

    Raises:
      ValueError: a class with fewer rows than the most shots, or what ``linear_probe.probe``
        raises.
    """
    s = settings or FewShotSettings()
    features, labels = (np.asarray(array) for array in train)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"few-shot needs one class a row, labels int[n]; got {labels.dtype}{list(labels.shape)}"
        )
    classes = s.classes
    if classes is None:
        given = [labels, test[1]] + ([] if val is None else [val[1]])
        classes = 1 + max(int(np.max(array, initial=0)) for array in given)
    metric = s.metric or classification.top1
    of_probe = linear_probe.ProbeSettings(
        classes=classes,
        metric=metric,
        lam=s.lam if val is None else None,
        refit_on_val=False,
        solver=dataclasses.replace(s.solver, padded_rows=classes * s.shots[-1]),
    )
    values, lambdas = np.empty((2, len(s.shots), len(s.seeds)))
    for column, seed in enumerate(s.seeds):
        drawn = draw(labels, s.shots[-1], classes, seed)
        for row, count in enumerate(s.shots):
            rows = np.sort(drawn[:, :count].ravel())
            result = linear_probe.probe((features[rows], labels[rows]), val, test, of_probe)
            values[row, column] = metric(result.scores, np.asarray(test[1]))
            lambdas[row, column] = result.lam
    return Curve(s.shots, values, lambdas)


def draw(labels: np.ndarray, shots: int, classes: int, seed: int) -> np.ndarray:
    """Draws rows of each class at random, the same for the same seed: indices int64[K, shots].

    The first of a class are what fewer shots would draw; ValueError if it has fewer rows.
    """
    counts = np.bincount(labels, minlength=classes)
    if counts.min() < shots:
        raise ValueError(
            f"class {int(counts.argmin())} has {counts.min()} rows in train, fewer than {shots} "
            "shots; take fewer shots, or leave the dataset out as the paper does"
        )
    # A generator for each class: a class that is added changes nothing for the others.
    return np.stack(
        [
            np.random.default_rng((seed, k)).permutation(np.flatnonzero(labels == k))[:shots]
            for k in range(classes)
        ]
    )


def data_efficiency(curve: Curve, zero_shot_score: float) -> Efficiency:
    """Returns how many rows a class a probe needs to match zero-shot classification (figure 7).

    The mean curve is interpolated on a straight line in the logarithm of the rows, as the paper
    does. Where it crosses the score more than once, the first time counts.

    Args:
      curve: of ``few_shot``.
      zero_shot_score: the same metric, of zero-shot classification with the same features.
    """
    points = list(zip(map(float, curve.shots), curve.mean.tolist(), strict=True))
    if not np.isfinite([zero_shot_score, *(score for _, score in points)]).all():
        raise ValueError(f"scores must be finite, got {zero_shot_score} and {points}")
    if points[0][1] >= zero_shot_score:
        return Efficiency(points[0][0], "<=")
    for (fewer, low), (more, high) in zip(points, points[1:], strict=False):
        if high >= zero_shot_score:
            share = (zero_shot_score - low) / (high - low)
            return Efficiency(math.exp(math.log(fewer) + share * math.log(more / fewer)), "")
    return Efficiency(points[-1][0], ">")
