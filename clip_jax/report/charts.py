"""The charts of both reports: lines, bars, and dots with names."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from clip_jax.report.curves import Chart, Records, charts, series, smoothed, thinned
from clip_jax.report.svg import Drawing, Figure, Labels, Point, Scale, Tick, in_percent, ticks
from clip_jax.report.text import percent, time_unit

_KINDS = ("accent", "second", "third", "fourth", "fifth", "sixth")
_FEW = 25  # points that are marked: a line through one point is invisible
_WIDTH = 360


class Bar(NamedTuple):
    """A bar: a name on its left, ``text`` on its right, an interval on it, and a thin bar below."""

    name: str
    value: float
    text: str
    kind: str = "accent"
    ends: Sequence[float] = ()
    below: float | None = None


class Dot(NamedTuple):
    """A dot of a scatter plot with its name and what a pointer on it shows."""

    name: str
    at: Point
    tip: str
    kind: str = "accent"


def bar_chart(description: str, bars: Sequence[Bar], x: Scale, ticks: Sequence[Tick]) -> Drawing:
    """Horizontal bars below one another, from ``x.start`` to the values on the scale."""
    row, top = (27 if any(b.below is not None for b in bars) else 20), 20
    drawing = Drawing(_WIDTH, top + row * len(bars) + 4, description)
    for tick, name in ticks:
        drawing.line([(x(tick), top - 4), (x(tick), top + row * len(bars))], "grid")
        drawing.text((x(tick), 11), name, "muted", anchor="middle", size=9.5)
    for i, bar in enumerate(bars):
        y = top + row * i
        drawing.text((124, y + 11), bar.name, anchor="end", most=122)
        drawing.box(x.start, y + 2, x(bar.value), y + 13, bar.kind)
        drawing.line([(x(end), y + 7.5) for end in bar.ends], "ink")
        drawing.text((_WIDTH - 4, y + 12), bar.text, anchor="end")
        if bar.below is not None:
            drawing.box(x.start, y + 14.5, x(bar.below), y + 18.5, "muted")
            drawing.text((_WIDTH - 4, y + 22), percent(bar.below), "muted", anchor="end", size=9.5)
    return drawing


def scatter_chart(
    description: str, dots: Sequence[Dot], ends: tuple[float, float], ticks: Sequence[float],
    line: Sequence[Point], across: str, through: Callable[[float], float] = float,
) -> Drawing:  # fmt: skip
    """Dots with their names over equal axes from ``ends[0]`` to ``ends[1]``, the diagonal, and a
    dashed line; accented dots are named first. ``across`` is the horizontal axis.
    """
    drawing = Drawing(_WIDTH, 344, description)
    x, y = Scale(*ends, 38, 340, through), Scale(*ends, 304, 8, through)
    drawing.grid(x, y, in_percent(ticks), in_percent(ticks))
    drawing.line([(x(end), y(end)) for end in ends], "grid")
    drawing.line([(x(a), y(b)) for a, b in line], "muted", style="dashed")
    drawing.text((189, 339), across, "muted", anchor="middle")
    labels = Labels([(x(d.at[0]), y(d.at[1])) for d in dots], right=_WIDTH - 4)
    for dot in sorted(dots, key=lambda d: d.kind != "accent"):
        place, accented = (x(dot.at[0]), y(dot.at[1])), dot.kind == "accent"
        drawing.dot(place, dot.kind, dot.tip, size=5 if accented else 4)
        labels.draw(drawing, place, dot.name, "ink" if accented else dot.kind)
    return drawing


def figures(records: Records, height: float = 230) -> list[Figure]:
    """The learning curves that the records of a run can fill, most important first."""
    return [_learning_curve(chart, records, height) for chart in charts(records)]


def _learning_curve(chart: Chart, records: Records, height: float) -> Figure:
    lines = [(label, *series(records, chart.x, key)) for key, label in chart.lines]
    longest = max(x.max(initial=0) for _, x, _ in lines)
    scale, unit = time_unit(longest) if chart.x == "seconds" else (1.0, "examples")
    unit += " seen" if chart.x == "examples" else " of training"
    known = np.concatenate([y[np.isfinite(y)] for *_, y in lines])
    # From zero to the first tick above the data, so that a line never ends beyond the scale.
    up = ticks(min(0.0, known.min()), max(0.0, known.max()))
    x = Scale(0, max(longest / scale, 1e-9), 44, 348)
    y = Scale(up[0], up[-1], height - 36, 10)
    last = [f"{label} {values[-1]:.4g}".strip() for label, _, values in lines if len(values)]
    description = f"{chart.title} by {chart.x}. Last values: {', '.join(last)}"
    drawing = Drawing(_WIDTH, height, description)
    across = [(t, _rounded(t)) for t in ticks(0, longest / scale) if x(t) <= x.end + 4]
    drawing.grid(x, y, across, [(tick, _named(tick, chart)) for tick in up], lines=False)
    drawing.text((196, height - 4), unit, "muted", anchor="middle", size=10)
    keys = []
    for index, (label, at, values) in enumerate(lines):
        kind = _KINDS[index % len(_KINDS)]
        style = " dashed" if index // len(_KINDS) % 2 else ""
        at, shown = thinned(at / scale), thinned(values)
        strong = smoothed(shown) if chart.smooth else shown
        if strong is not shown:
            _draw(drawing, x, y, (at, shown), kind, "pale")
        _draw(drawing, x, y, (at, strong), kind, f"strong{style}")
        finite = values[np.isfinite(values)]
        if label:
            keys.append((kind, f"{label}  {percent(finite[-1])}" if len(finite) else label))
    return Figure(chart.title, drawing, keys=keys)


def _draw(
    drawing: Drawing, x: Scale, y: Scale, line: tuple[np.ndarray, np.ndarray], kind: str, style: str
) -> None:
    """A line with its gaps; points that no line would show are dots."""
    at, values = line
    for part in np.split(np.arange(len(values)), np.flatnonzero(~np.isfinite(values))):
        points = [(x(at[i]), y(values[i])) for i in part if math.isfinite(values[i])]
        drawing.line(points, kind, style=style)
        for point in points if len(values) <= _FEW or len(points) == 1 else ():
            drawing.dot(point, kind, size=2.5)


def _named(tick: float, chart: Chart) -> str:
    if chart.percent:
        return f"{100 * tick:.3g}%"
    if chart.lines[0][0] == "learning_rate" and tick:
        return f"{tick:.1e}".replace("e-0", "e-").replace(".0e", "e")
    return _rounded(tick)


def _rounded(value: float) -> str:
    """A number with the letter of its size: ``80k``."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
