"""Robustness to natural distribution shift (CLIP paper, section 3.3; Taori et al. 2020).

Accuracy under shift rises with ImageNet accuracy, and among models of one kind the two lie on a
line once both are logit-transformed. Effective robustness is how far a model lies above the line
of some baseline models; relative robustness is how much of the shifted accuracy itself an
intervention gains.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

# The seven shifts, and the accuracies that make up each, named as in the catalog (which lacks the
# videos). Videos have two settings: right in the anchor frame (PM0), or in all near it (PM10).
SHIFTS: dict[str, tuple[str, ...]] = {
    "ImageNet-V2": ("ImageNetV2",),
    "ImageNet-A": ("ImageNetA",),
    "ImageNet-R": ("ImageNetR",),
    "ObjectNet": ("ObjectNet",),
    "ImageNet-Sketch": ("ImageNetSketch",),
    "ImageNet-Vid": ("ImageNetVidPM0", "ImageNetVidPM10"),
    "Youtube-BB": ("YoutubeBBPM0", "YoutubeBBPM10"),
}
REFERENCE = "ImageNet"

# The CLIP paper's Table 16, transcribed; checked only where section 3.3 states it in words. Show it
# beside other results as the paper's. The two models trained on ImageNet make a line, but through
# two near points: without an interval, and worth little far from them. Measure more baselines.
with open(Path(__file__).with_name("table_16.csv"), encoding="utf-8", newline="") as _file:
    PAPER_TABLE_16: dict[str, dict[str, float]] = {
        row.pop("model"): {name: float(value) for name, value in row.items()}
        for row in csv.DictReader(_file)
    }
PAPER_BASELINES = ("NS EfficientNet-L2", "FixResNeXt101-32x48d V2")


class Line(NamedTuple):
    """Logit of the accuracy under shift as a linear function of the logit of the reference's."""

    slope: float
    intercept: float

    def predict(self, accuracy: np.ndarray | float) -> np.ndarray:
        """Returns the accuracy under shift expected of a model with this reference accuracy."""
        z = self.slope * logit(accuracy) + self.intercept
        return 0.5 * (1 + np.tanh(z / 2))  # the logistic function, which never overflows so


class Robustness(NamedTuple):
    """How far a model lies above the baselines' line.

    Attributes:
      effective: its accuracy under shift less the predicted one; may be negative.
      low, high: 95% bounds, over the choice of the baseline models.
      predicted: the line's accuracy under shift at its reference accuracy.
    """

    effective: float
    low: float
    high: float
    predicted: float


class ShiftRow(NamedTuple):
    """A model in the table of shifts.

    Attributes:
      model: its name.
      reference: accuracy on ImageNet.
      shifts: accuracy by shift, a mean of two settings for the videos.
      average: the mean of these.
      effective: effective robustness on the average, None without baselines.
      relative: the average less the reference model's; None without one.
    """

    model: str
    reference: float
    shifts: dict[str, float]
    average: float
    effective: Robustness | None = None
    relative: float | None = None


def logit(accuracy: np.ndarray | float, n: int | None = None) -> np.ndarray:
    """Returns log(a / (1 - a)) of accuracies float[...], from 0 to 1.

    With n, the number of images, 0 and 1 become 1 / (2 n) and 1 - 1 / (2 n), half an image right or
    wrong: nothing between could have been measured. Without, they have no logit: ValueError.
    """
    accuracy = np.asarray(accuracy, np.float64)
    if not ((accuracy >= 0) & (accuracy <= 1)).all():
        raise ValueError(f"accuracies go from 0 to 1, got {accuracy}")
    if n is not None:
        accuracy = np.clip(accuracy, 0.5 / n, 1 - 0.5 / n)
    elif ((accuracy == 0) | (accuracy == 1)).any():
        raise ValueError(
            "an accuracy of exactly 0 or 1 has no logit: give n, the number of images, and it "
            "is moved by half an image"
        )
    return np.log(accuracy) - np.log1p(-accuracy)


def fit(reference: np.ndarray, shifted: np.ndarray, n: int | None = None) -> Line:
    """Fits the line by least squares, on logit-transformed axes.

    Args:
      reference: float[m], the baseline models' accuracies on the reference dataset. (The paper
        takes for each shift the ImageNet images of the classes that the shifted set has.)
      shifted: float[m], theirs under shift, in the same order.
      n: as in ``logit``.

    Raises:
      ValueError: fewer than two models of different reference accuracy, or as ``logit``.
    """
    x, y = _logits(reference, shifted, n)
    slope, intercept = _least_squares(x[None], y[None])
    return Line(float(slope[0]), float(intercept[0]))


def effective_robustness(
    reference: float,
    shifted: float,
    baseline_reference: np.ndarray,
    baseline_shifted: np.ndarray,
    *,
    n: int | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Robustness:
    """Returns how far a model lies above what its reference accuracy predicts.

    The interval is the bootstrap's over the baseline models, as the bands of the paper's Figure 13
    are: what another choice of baselines might have given. Resamples of models that all have one
    reference accuracy have no line and are drawn again. A line through two points has no spread:
    with fewer than three baselines the bounds are NaN.

    Args:
      reference, shifted: the model's accuracies.
      baseline_reference, baseline_shifted: float[m] each; see ``fit``.
      n: as in ``logit``.
      samples, seed: of the bootstrap.
    """
    line = fit(baseline_reference, baseline_shifted, n)
    at = float(np.clip(reference, 0.5 / n, 1 - 0.5 / n)) if n else reference
    predicted = float(line.predict(at))
    low = high = np.nan
    x, y = _logits(baseline_reference, baseline_shifted, n)
    if len(x) > 2:
        rows = _draws(x, samples, np.random.default_rng(seed))
        slopes, intercepts = _least_squares(x[rows], y[rows])
        others = 0.5 * (1 + np.tanh((slopes * logit(at) + intercepts) / 2))
        low, high = (float(shifted - q) for q in np.quantile(others, [0.975, 0.025]))
    return Robustness(shifted - predicted, low, high, predicted)


def by_shift(accuracies: Mapping[str, float], shifts: Sequence[str] = ()) -> dict[str, float]:
    """Returns the accuracy of every shift, the videos' settings averaged.

    Args:
      accuracies: from 0 to 1, under the names in ``SHIFTS``.
      shifts: keys of ``SHIFTS``, ValueError if one lacks an accuracy; () for all that have them.
    """
    wanted = shifts or [s for s, keys in SHIFTS.items() if all(k in accuracies for k in keys)]
    for shift in wanted:
        for key in SHIFTS[shift]:
            if key not in accuracies:
                raise ValueError(f"{shift} needs the accuracy {key!r}, which is missing")
    return {s: float(np.mean([accuracies[k] for k in SHIFTS[s]])) for s in wanted}


def shift_table(
    models: Mapping[str, Mapping[str, float]],
    *,
    baselines: Sequence[str] = (),
    reference_model: str = "",
    n: int | None = None,
    seed: int = 0,
) -> list[ShiftRow]:
    """Compares models under the shifts that all of them were measured on, a row for each.

    Args:
      models: name -> accuracies, ``ImageNet`` and names in ``SHIFTS``.
      baselines: two or more models that the line is fitted to; () for no effective robustness.
      reference_model: the one that relative robustness counts from.
      n: as in ``logit``.
      seed: of the bootstrap.

    Raises:
      ValueError: a model without ``ImageNet``, no shift that all have, or as ``fit``.
    """
    for name, accuracies in models.items():
        if REFERENCE not in accuracies:
            raise ValueError(f"model {name!r} has no accuracy {REFERENCE!r} to compare with")
    for name in (*baselines, *filter(None, [reference_model])):
        if name not in models:
            raise ValueError(f"{name!r} is not among the models {list(models)}")
    common = [s for s in SHIFTS if all(s in by_shift(models[name]) for name in models)]
    if not common:
        raise ValueError(f"no shift was measured on all models; the shifts are {list(SHIFTS)}")
    shifts = {name: by_shift(accuracies, common) for name, accuracies in models.items()}
    average = {name: float(np.mean(list(values.values()))) for name, values in shifts.items()}
    line = [[models[b][REFERENCE] for b in baselines], [average[b] for b in baselines]]
    return [
        ShiftRow(
            name, models[name][REFERENCE], shifts[name], average[name],
            effective_robustness(models[name][REFERENCE], average[name], *line, n=n, seed=seed)
            if baselines else None,
            average[name] - average[reference_model] if reference_model else None,
        )
        for name in models
    ]  # fmt: skip


def _logits(
    reference: np.ndarray, shifted: np.ndarray, n: int | None
) -> tuple[np.ndarray, np.ndarray]:
    x, y = logit(reference, n), logit(shifted, n)
    if x.ndim != 1 or x.shape != y.shape or len(np.unique(x)) < 2:
        raise ValueError(
            "the line needs at least two baseline models of different reference accuracy, got "
            f"accuracies {np.asarray(reference).tolist()} and {np.asarray(shifted).tolist()}"
        )
    return x, y


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept of each row: float[s, m] twice -> float[s] twice."""
    mean_x, mean_y = x.mean(axis=1), y.mean(axis=1)
    dx = x - mean_x[:, None]
    slope = (dx * (y - mean_y[:, None])).sum(axis=1) / (dx * dx).sum(axis=1)
    return slope, mean_y - slope * mean_x


def _draws(x: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of the resamples, int64[samples, m], each with two different x at least."""
    rows = rng.integers(0, len(x), (samples, len(x)))
    while (flat := np.ptp(x[rows], axis=1) == 0).any():
        rows[flat] = rng.integers(0, len(x), (int(flat.sum()), len(x)))
    return rows
