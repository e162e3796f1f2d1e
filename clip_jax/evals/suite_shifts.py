"""The plot of robustness to natural shifts, where ImageNet and shifts of it were measured."""

import math
from collections.abc import Sequence

from clip_jax.evals import robustness
from clip_jax.evals.records import Record
from clip_jax.evals.report_parts import finite, percent
from clip_jax.evals.report_svg import Drawing, Labels, Scale, figure
from clip_jax.evals.suite_words import Titles

_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_ENDS = (0.005, 0.995)  # of what is drawn: at 0 and 1 logits are infinite
_IMAGENET_SIZE = 50_000


def plot(records: Sequence[Record], titles: Titles) -> str:
    """Accuracy under shift against ImageNet's, among the paper's models and the line through those
    that were trained on ImageNet; "" where the records lack either.
    """
    models: dict[str, dict[str, float]] = {}
    for record in records:
        accuracy = record.metrics.get("top1", math.nan)
        if record.task == "zero_shot" and finite(accuracy):
            models.setdefault(_name(record, titles), {})[record.dataset] = accuracy
    ours = {k: v for k, v in models.items() if robustness.REFERENCE in v and robustness.by_shift(v)}
    if not ours:
        return ""
    try:
        rows = robustness.shift_table(
            ours | robustness.PAPER_TABLE_16,
            baselines=robustness.PAPER_BASELINES,
            n=_IMAGENET_SIZE,
        )
    except ValueError:  # several models, and no shift that all of them have
        return ""
    note = (
        f"Shifts: {', '.join(rows[0].shifts)}. Both axes are logit-scaled. Grey: models of the "
        "paper's Table 16; the dashed line goes through the two that were trained on ImageNet, "
        "which are near each other: far from them it is a guess."
    )
    return figure(
        "Accuracy under natural shift (up) against ImageNet (across)",
        _drawing(rows, set(ours)),
        " ".join([*(_words(row) for row in rows if row.model in ours), note]),
    )


def _name(record: Record, titles: Titles) -> str:
    name = titles.source(record)
    return f"{name} (measured)" if name in robustness.PAPER_TABLE_16 else name


def _words(row: robustness.ShiftRow) -> str:
    return (
        f"{row.model}: {percent(row.reference)} on ImageNet and {percent(row.average)} on the mean "
        f"of the shifts, where the line expects {percent(row.effective.predicted)}: an effective "
        f"robustness of {100 * row.effective.effective:+.1f} points."
    )


def _drawing(rows: Sequence[robustness.ShiftRow], ours: set[str]) -> Drawing:
    points = {row.model: (row.reference, row.average) for row in rows}
    values = [value for point in points.values() for value in point]
    low = max([t for t in _TICKS if t < min(values)], default=_ENDS[0])
    high = min([t for t in _TICKS if t > max(values)], default=_ENDS[1])
    x, y = Scale(low, high, 38, 340, _logit), Scale(low, high, 304, 8, _logit)
    drawing = Drawing(360, 344, "Accuracy under natural shift against accuracy on ImageNet")
    ticks = _apart([t for t in _TICKS if low <= t <= high], x, 27)
    drawing.grid(x, y, ticks, ticks)
    drawing.line([(x(end), y(end)) for end in (low, high)], "grid")
    line = robustness.fit(*zip(*(points[b] for b in robustness.PAPER_BASELINES), strict=True))
    across = [low + (high - low) * i / 40 for i in range(41)]
    fitted = [(a, float(line.predict(a))) for a in across]
    drawing.line([(x(a), y(b)) for a, b in fitted if low <= b <= high], "muted", dashed=True)
    drawing.text((189, 339), "ImageNet", "muted", anchor="middle")
    places = {name: (x(a), y(b)) for name, (a, b) in points.items()}
    labels = Labels(list(places.values()), right=356)
    for name, place in sorted(places.items(), key=lambda item: item[0] not in ours):
        mine = name in ours
        tip = f"{name}: ImageNet {percent(points[name][0])}, shifts {percent(points[name][1])}"
        drawing.dot(place, "accent" if mine else "muted", tip, size=5 if mine else 4)
        labels.draw(drawing, place, name, "ink" if mine else "muted")
    return drawing


def _logit(accuracy: float) -> float:
    return float(robustness.logit(min(max(accuracy, _ENDS[0]), _ENDS[1])))


def _apart(ticks: Sequence[float], scale: Scale, least: float) -> list[float]:
    """The ticks without those that are nearer than ``least`` pixels to the one before."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or abs(scale(tick) - scale(kept[-1])) >= least:
            kept.append(tick)
    return kept
