"""The report's figures, drawn with matplotlib's object API (no pyplot, no global state).

matplotlib is imported inside the functions: it takes half a second, and only the report needs it.
"""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clip_jax.evals.report_style import LIGHT, Theme, shade

_MAX_POINTS = 400
# Set in full, so that a user's own matplotlibrc (TeX, fonts) cannot change or break the report.
_RC = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.usetex": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "clip_jax",
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
}


class Chart(NamedTuple):
    """One panel: a title, the unit of its axis, and the record keys it draws with their labels."""

    title: str
    x: str
    lines: tuple[tuple[str, str], ...]
    percent: bool = False
    smooth: bool = False


def charts(records: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Returns the panels that the records of a run can fill, most important first.

    Args:
      records: the objects of a `metrics.jsonl`, training and evaluation records mixed.

    Returns:
      Panels with at least one finite point.
    """
    candidates = [
        Chart("Contrastive loss", "examples", (("loss", ""),), smooth=True),
        Chart("Accuracy inside the batch", "examples", (("accuracy", ""),), True, True),
        Chart("Zero-shot evaluations", "seconds", _eval_lines(records), True),
        Chart("Images per second", "examples", (("images_per_second", ""),)),
        Chart("Learning rate", "examples", (("learning_rate", ""),)),
        Chart("Logit scale", "examples", (("logit_scale", ""),)),
    ]
    return [
        chart
        for chart in candidates
        if any(np.isfinite(series(records, chart.x, key)[1]).any() for key, _ in chart.lines)
    ]


def series(
    records: Sequence[Mapping[str, Any]], x_key: str, y_key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns one curve in the order of steps.

    A run that was stopped and went on from an older checkpoint logs some steps twice; the later
    record is the one that led to the final weights, so it wins. What is not a number becomes NaN.

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
    return x, y


def chart_svg(chart: Chart, records: Sequence[Mapping[str, Any]], theme: Theme) -> str:
    """Returns one panel as a stand-alone SVG document with a transparent background."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(4.0, 2.9), layout="constrained")
        _draw_chart(figure.add_subplot(), chart, records, theme)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def summary_png(
    title: str,
    records: Sequence[Mapping[str, Any]],
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    matrix: np.ndarray,
) -> bytes:
    """Returns the one-picture summary: learning curves and, if given, the similarity matrix.

    Args:
      title: printed above the figure.
      records: the objects of a `metrics.jsonl`.
      images: pictures uint8[H, W, 3], the columns of the matrix; may be empty.
      captions: texts, the rows of the matrix.
      matrix: float[captions, images], cosines.

    Returns:
      A PNG file.
    """
    import matplotlib
    from matplotlib.figure import Figure

    panels = charts(records)[:3]
    with matplotlib.rc_context(_RC):
        wide = len(images) and len(panels)
        height = 7.6 if len(images) else 3.9
        figure = Figure((12.5 if wide or panels else 8.5, height), dpi=150, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.03)
        figure.suptitle(
            _drawable(title, 90), x=0.012, ha="left", fontsize=15, weight="bold", parse_math=False
        )
        left, right = _places(figure, len(panels), bool(len(images)))
        for place, panel in zip(left, panels, strict=True):
            _draw_chart(figure.add_subplot(place), panel, records, LIGHT)
        if len(images):
            _draw_matrix(figure.add_subplot(right), images, captions, np.asarray(matrix), LIGHT)
        elif not panels:
            figure.text(0.5, 0.45, "nothing recorded yet", ha="center", color=LIGHT.muted)
        file = io.BytesIO()
        figure.savefig(file, format="png", facecolor=LIGHT.surface)
    return file.getvalue()


def _places(figure: Any, panels: int, matrix: bool) -> tuple[list[Any], Any]:
    """Lays panels out in a row, or in a column to the left of the matrix."""
    if not panels:
        return [], (figure.add_gridspec(1, 1)[0, 0] if matrix else None)
    if not matrix:
        grid = figure.add_gridspec(1, panels)
        return [grid[0, i] for i in range(panels)], None
    grid = figure.add_gridspec(panels, 2, width_ratios=(1, 2.1))
    return [grid[i, 0] for i in range(panels)], grid[:, 1]


def _draw_chart(axes: Any, chart: Chart, records: Sequence[Any], theme: Theme) -> None:
    scale, unit = 1.0, "examples seen"
    if chart.x == "seconds":
        longest = max((series(records, chart.x, key)[0].max(initial=0) for key, _ in chart.lines))
        scale, unit = _time_unit(longest)
    for index, (key, label) in enumerate(chart.lines):
        x, y = series(records, chart.x, key)
        _draw_line(axes, x / scale, y, label, index, chart, theme)
    axes.set_xlabel(unit, color=theme.muted)
    axes.set_title(chart.title, loc="left", fontsize=10.5, weight="bold", color=theme.ink)
    _style_axes(axes, chart, theme)


def _draw_line(
    axes: Any, x: np.ndarray, y: np.ndarray, label: str, index: int, chart: Chart, theme: Theme
) -> None:
    colour = theme.lines[index % len(theme.lines)]
    dashes = ("-", "--", ":", "-.")[index // len(theme.lines) % 4]
    finite = y[np.isfinite(y)]
    if label and finite.size:
        label = f"{label}  {100 * finite[-1]:.1f}%"
    x, y = _thinned(x), _thinned(y)
    smoothed = _smoothed(y) if chart.smooth else y
    if smoothed is not y:
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.3)
    # A line through one point is invisible, so few points get a marker.
    marker = "o" if len(x) <= 25 else ""
    axes.plot(
        x, smoothed, dashes, color=colour, linewidth=1.8, marker=marker, markersize=3.5,
        label=_drawable(label, 48),
    )  # fmt: skip


def _style_axes(axes: Any, chart: Chart, theme: Theme) -> None:
    from matplotlib import ticker

    axes.set_facecolor("none")
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.muted, length=0, labelsize=8.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.grid)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
    if chart.x == "examples":
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    bottom, top = axes.get_ylim()
    if chart.percent:
        axes.set_ylim(0, min(max(top, 0.01), 1.02))
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    elif bottom > 0:
        axes.set_ylim(0, top)
    if any(label for _, label in chart.lines):
        columns = 1 if len(chart.lines) <= 4 else 2
        legend = axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=columns, frameon=False,
            labelcolor=theme.ink, fontsize=8, handlelength=1.6, columnspacing=1.0,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)


def _draw_matrix(
    axes: Any, images: Sequence[np.ndarray], captions: Sequence[str], matrix: Any, theme: Theme
) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    rows, columns = matrix.shape
    low, high = value_range(matrix)
    ramp = LinearSegmentedColormap.from_list("ramp", theme.ramp)
    axes.imshow(matrix, cmap=ramp, vmin=low, vmax=high)
    size = min(9.0, 72.0 / max(rows, columns))
    if max(rows, columns) <= 20:
        for (i, j), cosine in np.ndenumerate(matrix):
            ink = shade((cosine - low) / (high - low), theme.ramp)[1]
            weight = "bold" if i == j else "normal"
            axes.text(
                j, i, f"{cosine:.2f}", ha="center", va="center", size=size, color=ink, weight=weight
            )
    for j, image in enumerate(images):
        axes.imshow(image, extent=(j - 0.42, j + 0.42, -0.6, -1.44), interpolation="bilinear")
    labels = ["\n".join(textwrap.wrap(_drawable(text, 60), 30)) for text in captions]
    axes.set_yticks(range(rows), labels, size=min(9.0, 130 / rows), parse_math=False)
    axes.set_xticks([])
    axes.tick_params(length=0, colors=theme.ink)
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -1.5)
    axes.set_title(
        "Cosine similarity of captions and pictures", loc="left", fontsize=10.5, weight="bold"
    )


def value_range(matrix: np.ndarray) -> tuple[float, float]:
    """Returns the lowest and highest finite value, never equal, for a colour scale."""
    finite = np.asarray(matrix, np.float64)[np.isfinite(matrix)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return low, (high if high > low else low + 1.0)


def _eval_lines(records: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Finds each task's headline metric: top1 or recall@1, else whatever it records first."""
    keys: dict[str, str] = {}
    for record in records:
        for key in record:
            parts = key.split("/")
            if len(parts) != 3 or parts[0] != "eval":
                continue
            headline = parts[2] == "top1" or parts[2].endswith("r@1")
            name = parts[1] if parts[2] == "top1" or not headline else f"{parts[1]} {parts[2]}"
            if headline or name not in keys:
                keys[name] = key
    headlines = {n: k for n, k in keys.items() if k.endswith(("/top1", "r@1"))}
    return tuple((key, name.replace("_", " ")) for name, key in (headlines or keys).items())


def _thinned(values: np.ndarray) -> np.ndarray:
    """Averages neighbours until at most `_MAX_POINTS` are left: a long run must not bloat SVGs."""
    if len(values) <= _MAX_POINTS:
        return values
    return np.array([_mean(part) for part in np.array_split(values, _MAX_POINTS)])


def _smoothed(values: np.ndarray) -> np.ndarray:
    window = len(values) // 40
    if window < 1:
        return values
    middle = range(len(values))
    means = np.array([_mean(values[max(0, i - window) : i + window + 1]) for i in middle])
    return np.where(np.isfinite(values), means, np.nan)


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _time_unit(longest: float) -> tuple[float, str]:
    for scale, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if longest >= 2 * scale:
            return scale, f"{unit} of training"
    return 1.0, "seconds of training"


def _drawable(text: str, length: int) -> str:
    """Shortens a text and puts a box for every character that the figure's font cannot draw."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    known = font.get_charmap()
    text = " ".join(text.split())
    text = text if len(text) <= length else text[: length - 1].rstrip() + "…"
    return "".join(c if ord(c) in known else "\u25a1" for c in text)
