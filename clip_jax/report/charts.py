"""The learning curves of a run as drawings."""

import numpy as np

from clip_jax.report.curves import Chart, Records, charts, series, smoothed, thinned, time_unit
from clip_jax.report.render import percent
from clip_jax.report.svg import Drawing, Figure, Scale, ticks

_KINDS = ("accent", "second", "third", "fourth", "fifth", "sixth")
_FEW = 25  # points that are marked: a line through one point is invisible


def figures(records: Records, height: float = 230) -> list[Figure]:
    """The panels that the records of a run can fill, most important first."""
    return [_figure(chart, records, height) for chart in charts(records)]


def _figure(chart: Chart, records: Records, height: float) -> Figure:
    lines = [(label, *series(records, chart.x, key)) for key, label in chart.lines]
    longest = max(x.max(initial=0) for _, x, _ in lines)
    scale, unit = time_unit(longest) if chart.x == "seconds" else (1.0, "examples seen")
    known = np.concatenate([y[np.isfinite(y)] for *_, y in lines])
    # From zero to the first tick above the data, so that a line never ends beyond the scale.
    up = ticks(min(0.0, known.min()), max(0.0, known.max()))
    across = ticks(0, longest / scale)
    x = Scale(0, max(longest / scale, 1e-9), 44, 348)
    y = Scale(up[0], up[-1], height - 36, 10)
    last = [f"{label} {values[-1]:.4g}".strip() for label, _, values in lines if len(values)]
    drawing = Drawing(360, height, f"{chart.title} by {chart.x}. Last values: {', '.join(last)}")
    drawing.axis_up(x, y, [(tick, _named(tick, chart)) for tick in up], 10)
    named = [(tick, _rounded(tick)) for tick in across if x(tick) <= x.end + 4]
    drawing.axis_across(x, y, named, 10)
    drawing.text((196, height - 4), unit, "muted", anchor="middle", size=10)
    keys = []
    for index, (label, at, values) in enumerate(lines):
        kind = _KINDS[index % len(_KINDS)]
        style = "dashed" if index // len(_KINDS) % 2 else ""
        at, shown = thinned(at / scale), thinned(values)
        strong = smoothed(shown) if chart.smooth else shown
        if strong is not shown:
            _draw(drawing, x, y, (at, shown), kind, "pale")
        _draw(drawing, x, y, (at, strong), kind, f"strong {style}".strip())
        finite = values[np.isfinite(values)]
        if label:
            keys.append((kind, f"{label}  {percent(finite[-1])}" if len(finite) else label))
    return Figure(chart.title, drawing, keys=keys)


def _draw(
    drawing: Drawing, x: Scale, y: Scale, line: tuple[np.ndarray, np.ndarray], kind: str, style: str
) -> None:
    """A line with its gaps; points that no line would show are dots."""
    at, values = line
    gaps = np.flatnonzero(~np.isfinite(values))
    for part in np.split(np.arange(len(values)), gaps):
        part = part[np.isfinite(values[part])]
        points = [(x(at[i]), y(values[i])) for i in part]
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
