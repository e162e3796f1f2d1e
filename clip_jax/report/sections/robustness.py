"""Robustness to natural shifts, where ImageNet and shifts of it were measured: plot and table."""

import math
from collections.abc import Sequence

from clip_jax.evals.metrics import robustness
from clip_jax.evals.records import Record
from clip_jax.report.charts import Dot, scatter_chart
from clip_jax.report.render import Cell, Row, Table
from clip_jax.report.sections.view import Compared, View
from clip_jax.report.svg import Drawing, Figure, Scale
from clip_jax.report.text import finite, percent, points
from clip_jax.report.titles import Titles

_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_ENDS = (0.005, 0.995)  # of what is drawn: at 0 and 1 logits are infinite
_IMAGENET_SIZE = 50_000


def rows(view: View, records: Sequence[Record]) -> list[robustness.ShiftRow]:
    """Measured models first, then the paper's; none where the records lack ImageNet or a shift.

    Raises:
      ValueError: a model to be compared with is not among those measured, or a single baseline.
    """
    compared = view.compared
    models: dict[str, dict[str, float]] = {}
    for record in records:
        accuracy = record.metrics.get("top1", math.nan)
        if finite(accuracy):
            models.setdefault(_name(record, view.titles), {})[record.dataset] = accuracy
    ours = {k: v for k, v in models.items() if robustness.REFERENCE in v and robustness.by_shift(v)}
    for name in (*compared.baselines, *filter(None, [compared.reference])):
        if name not in ours:
            raise ValueError(f"{name!r} is not among the models under shift: {list(ours)}")
    if len(compared.baselines) == 1:
        raise ValueError(f"a line needs two baselines or more, got {compared.baselines}")
    if not ours:
        return []
    try:
        return robustness.shift_table(
            ours | robustness.PAPER_TABLE_16,
            baselines=compared.baselines or robustness.PAPER_BASELINES,
            reference_model=compared.reference,
            n=_IMAGENET_SIZE,
        )
    except ValueError:
        if compared.baselines:
            raise
        return []  # several models, and no shift that all of them have


def plot(rows: Sequence[robustness.ShiftRow], compared: Compared) -> Figure | None:
    """Accuracy under shift against ImageNet's, and the line through the baselines."""
    ours = {row.model for row in rows} - set(robustness.PAPER_TABLE_16)
    if not ours:
        return None
    note = (
        f"Shifts: {', '.join(rows[0].shifts)}. Both axes are logit-scaled. Grey: models of the "
        f"paper's Table 16; the dashed line goes through {_line(compared)}."
    )
    drawing = _drawing(rows, ours, compared.baselines or robustness.PAPER_BASELINES)
    words = [_words(row) for row in rows if row.model in ours]
    title = "Accuracy under natural shift (up) against ImageNet (across)"
    return Figure(title, drawing, " ".join([*words, note]))


def _line(compared: Compared) -> str:
    if compared.baselines:
        return f"{len(compared.baselines)} measured baselines"
    return "the two trained on ImageNet, which are near each other: far from them it is a guess"


def table(rows: Sequence[robustness.ShiftRow], compared: Compared) -> tuple[str, Table, str] | None:
    """A row for each model: its accuracies, and what they lack of that on ImageNet."""
    if not rows:
        return None
    columns = [robustness.REFERENCE, *rows[0].shifts, "Mean of shifts", "Effective robustness"]
    columns += ["Relative robustness"] if compared.reference else []
    line = "these baselines" if compared.baselines else "the paper’s two models"
    interval = "two points have no interval"
    if any(finite(row.effective.low) for row in rows):
        interval = "below it 95% over the choice of baselines"
    note = (
        "Below an accuracy: its difference from ImageNet’s, in points, which includes that some "
        "shifts have fewer classes. Effective robustness: what the mean lies above the line of "
        f"{line}, in points; {interval}."
        + (f" Relative: the mean less that of {compared.reference}." if compared.reference else "")
    )
    shown = [
        Row(row.model, "paper, Table 16" if row.model in robustness.PAPER_TABLE_16 else "",
            _cells(row, bool(compared.reference)))
        for row in rows
    ]  # fmt: skip
    return "Natural distribution shifts", Table("Model", columns, [("", shown)]), note


def _cells(row: robustness.ShiftRow, relative: bool) -> list[Cell]:
    cells = [Cell(percent(row.reference))]
    for accuracy in (*row.shifts.values(), row.average):
        cells.append(Cell(percent(accuracy), points(accuracy - row.reference)))
    effective, low, high, _ = row.effective
    interval = f"{points(low)} to {points(high)}" if finite(low) and finite(high) else ""
    cells.append(Cell(points(effective), interval))
    return [*cells, Cell(points(row.relative))] if relative else cells


def _name(record: Record, titles: Titles) -> str:
    name = titles.source(record)
    return f"{name} (measured)" if name in robustness.PAPER_TABLE_16 else name


def _words(row: robustness.ShiftRow) -> str:
    return (
        f"{row.model}: {percent(row.reference)} on ImageNet and {percent(row.average)} on the mean "
        f"of the shifts, where the line expects {percent(row.effective.predicted)}: an effective "
        f"robustness of {100 * row.effective.effective:+.1f} points."
    )


def _drawing(
    rows: Sequence[robustness.ShiftRow], ours: set[str], baselines: Sequence[str]
) -> Drawing:
    points_of = {row.model: (row.reference, row.average) for row in rows}
    values = [value for point in points_of.values() for value in point]
    low = max([t for t in _TICKS if t < min(values)], default=_ENDS[0])
    high = min([t for t in _TICKS if t > max(values)], default=_ENDS[1])
    line = robustness.fit(*zip(*(points_of[b] for b in baselines), strict=True), n=_IMAGENET_SIZE)
    across = [low + (high - low) * i / 40 for i in range(41)]
    fitted = [(a, float(line.predict(a))) for a in across]
    dots = [
        Dot(name, point, f"{name}: ImageNet {percent(point[0])}, shifts {percent(point[1])}",
            "accent" if name in ours else "muted")
        for name, point in points_of.items()
    ]  # fmt: skip
    return scatter_chart(
        "Accuracy under natural shift against accuracy on ImageNet", dots, (low, high),
        _apart([t for t in _TICKS if low <= t <= high], Scale(low, high, 38, 340, _logit), 27),
        [point for point in fitted if low <= point[1] <= high], "ImageNet", _logit,
    )  # fmt: skip


def _logit(accuracy: float) -> float:
    return float(robustness.logit(min(max(accuracy, _ENDS[0]), _ENDS[1])))


def _apart(ticks: Sequence[float], scale: Scale, least: float) -> list[float]:
    """The ticks without those that are nearer than ``least`` pixels to the one before."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or abs(scale(tick) - scale(kept[-1])) >= least:
            kept.append(tick)
    return kept
