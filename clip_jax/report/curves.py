"""The curves of a report: what ``metrics.jsonl`` records hold, sorted into panels and lines."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clip_jax.report.text import duration
from clip_jax.report.types import Details

_MAX_POINTS = 400
_HEADLINE = re.compile(r"top1|(text|image)_to_(text|image)_r@1")

# As ``runtime.clock`` names them.
_TIME = tuple(
    (f"time/{kind}", kind) for kind in ("start", "compile", "input", "evaluation", "checkpoint")
)

Records = Sequence[Details]


class Chart(NamedTuple):
    """One panel: a title, the unit of its axis, and the record keys it draws with their labels."""

    title: str
    x: str
    lines: tuple[tuple[str, str], ...]
    percent: bool = False
    smooth: bool = False


def charts(records: Records) -> list[Chart]:
    """Returns the panels with at least one finite point in the records, most important first."""
    candidates = (
        Chart("Contrastive loss", "examples", (("loss", ""),), smooth=True),
        Chart("Accuracy inside the batch", "examples", (("accuracy", ""),), True, True),
        Chart("Evaluations", "seconds", _eval_lines(records), True),
        Chart("Images per second", "examples", (("images_per_second", ""),)),
        Chart("Learning rate", "examples", (("learning_rate", ""),)),
        Chart("Time outside of train steps", "examples", _TIME, True),
        Chart("Logit scale", "examples", (("logit_scale", ""),)),
    )

    def drawable(chart: Chart) -> bool:
        return any(np.isfinite(series(records, chart.x, key)[1]).any() for key, _ in chart.lines)

    return list(filter(drawable, candidates))


def series(records: Records, x_key: str, y_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns one curve in the order of steps.

    A run that was stopped and went on from an older checkpoint logs some steps twice; the later
    record is the one that led to the final weights, so it wins. A y that is not a finite number
    becomes NaN, a gap in the line; a point without a finite x is left out.

    Returns:
      x float64[p] and y float64[p].
    """
    points = {
        record.get("step", record[x_key]): (_number(record[x_key]), _number(record[y_key]))
        for record in records
        if x_key in record and y_key in record
    }
    pairs = [points[step] for step in sorted(points)]
    x, y = np.array(pairs, np.float64).reshape(-1, 2).T
    kept = np.isfinite(x)
    return x[kept], np.where(np.isfinite(y), y, np.nan)[kept]


def totals(records: Records) -> list[tuple[str, str]]:
    """(value, name) pairs: what the run cost, from the last finite value of each counter."""

    def values(key: str) -> np.ndarray:
        y = series(records, "step", key)[1]
        return y[np.isfinite(y)]

    rates = values("images_per_second")
    rate = np.median(rates, keepdims=True) if len(rates) else rates
    known = [
        ("steps", values("step")[-1:], "{:,.0f}".format),
        ("image-text pairs seen", values("examples")[-1:], "{:,.0f}".format),
        ("of training", values("seconds")[-1:], duration),
        ("pairs per second", rate, "{:,.0f}".format),
        ("goodput of the last launch", values("goodput")[-1:], "{:.0%}".format),
        ("final loss", values("loss")[-1:], "{:.3f}".format),
    ]
    return [(spell(float(value[0])), name) for name, value, spell in known if len(value)]


def _eval_lines(records: Records) -> tuple[tuple[str, str], ...]:
    """Finds each task's headline metric: top1 or recall@1, else whatever it records first."""
    lines: dict[str, tuple[str, bool]] = {}
    for key in dict.fromkeys(key for record in records for key in record):
        # A task may be called as a path is: "zero_shot@folder:/data/mine".
        task, _, metric = key.removeprefix("eval/").rpartition("/")
        headline = _HEADLINE.fullmatch(metric)
        name = f"{task} {headline[1]}→{headline[2]}" if headline and headline[1] else task
        if key.startswith("eval/") and task and (headline or name not in lines):
            lines[name] = key, bool(headline)
    any_headline = any(headline for _, headline in lines.values())
    shown = [(key, name) for name, (key, headline) in lines.items() if headline or not any_headline]
    return tuple((key, without_underscores(name)) for key, name in shown)


def without_underscores(name: str) -> str:
    """A task's name in words; a path behind an "@" stays what it is."""
    task, at, data = name.partition("@")
    return task.replace("_", " ") + at + data


def thinned(values: np.ndarray) -> np.ndarray:
    """Averages neighbours until at most ``_MAX_POINTS`` are left, for the size of the page."""
    if len(values) <= _MAX_POINTS:
        return values
    parts = [part[np.isfinite(part)] for part in np.array_split(values, _MAX_POINTS)]
    return np.array([part.mean() if part.size else math.nan for part in parts])


def smoothed(values: np.ndarray) -> np.ndarray:
    """Returns the running mean over a twentieth of the curve; a short curve is returned as is."""
    if len(values) < 40:
        return values
    window, known = np.ones(2 * (len(values) // 40) + 1), np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), window, "same")
    count = np.convolve(known.astype(float), window, "same")
    return np.where(known, total / np.maximum(count, 1.0), np.nan)


def _number(value: object) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
