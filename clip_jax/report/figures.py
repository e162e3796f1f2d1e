"""The report's figures, drawn with matplotlib's object API (no pyplot, no global state).

matplotlib is imported inside the functions: it takes half a second, and only the report needs it.
"""

import contextlib
import io
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from clip_jax.report.curves import (
    Chart,
    Records,
    charts,
    legend_columns,
    legend_rows,
    series,
    smoothed,
    thinned,
    time_unit,
)
from clip_jax.report.style import LIGHT, Theme, shade

_RC = {"font.family": ["DejaVu Sans"], "font.size": 9.0, "svg.hashsalt": "clip_jax"}


def chart_svg(chart: Chart, records: Records, theme: Theme, room: int) -> str:
    """Returns one panel as a stand-alone SVG document with a transparent background.

    `room` is how many legend rows to leave below the plot, so that panels side by side align.
    """
    from matplotlib.figure import Figure

    with _own_settings():
        figure = Figure(figsize=(4.0, 2.75 + 0.17 * room), layout="constrained")
        _draw_chart(figure.add_subplot(), chart, records, theme)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def summary_png(
    title: str,
    records: Records,
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
    from matplotlib.figure import Figure

    panels = charts(records)[:3]
    with _own_settings():
        size = (12.5 if panels else 9.5, 7.4 if len(images) else 4.2)
        figure = Figure(size, dpi=150, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
        figure.suptitle(
            _drawable(title, 90), x=0.012, ha="left", fontsize=15, weight="bold",
            color=LIGHT.ink, parse_math=False,
        )  # fmt: skip
        left, right = _halves(figure, bool(panels), bool(len(images)))
        if panels:
            _draw_panels(left, panels, records, in_a_row=left is figure)
        if len(images):
            _draw_matrix(right.add_subplot(), images, captions, np.asarray(matrix), LIGHT)
        elif not panels:
            figure.text(0.5, 0.45, "nothing recorded yet", ha="center", color=LIGHT.muted)
        file = io.BytesIO()
        figure.savefig(file, format="png", facecolor=LIGHT.surface)
    return file.getvalue()


@contextlib.contextmanager
def _own_settings() -> Iterator[None]:
    """Shuts out a user's matplotlibrc, whose TeX or fonts could change or break the report."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def _halves(figure: Any, panels: bool, matrix: bool) -> tuple[Any, Any]:
    """Returns where to draw the panels and where the matrix: the same place if one is missing.

    Two subfigures, not one grid: the legend below the last panel must not shrink the matrix.
    """
    if not (panels and matrix):
        return figure, figure
    return tuple(figure.subfigures(1, 2, width_ratios=(1, 1.75), wspace=0.04))


def _draw_panels(place: Any, panels: list[Chart], records: Records, in_a_row: bool) -> None:
    if in_a_row:
        grid = place.subplots(1, len(panels), squeeze=False)
    else:
        legends = [1 + 0.09 * legend_rows(panel) for panel in panels]
        grid = place.subplots(len(panels), 1, squeeze=False, height_ratios=legends)
    for axes, panel in zip(grid.flat, panels, strict=True):
        _draw_chart(axes, panel, records, LIGHT)


def _draw_chart(axes: Any, chart: Chart, records: Records, theme: Theme) -> None:
    scale, unit = 1.0, "examples seen"
    if chart.x == "seconds":
        longest = max(series(records, chart.x, key)[0].max(initial=0) for key, _ in chart.lines)
        scale, unit = time_unit(longest)
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
    x, y = thinned(x), thinned(y)
    strong = smoothed(y) if chart.smooth else y
    if strong is not y:
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.3)
    # A line through one point is invisible, so few points get a marker.
    marker = "o" if len(x) <= 25 else ""
    axes.plot(
        x, strong, dashes, color=colour, linewidth=1.8, marker=marker, markersize=3.5,
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
    if chart.x == "examples":
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    if chart.percent:
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    elif chart.lines[0][0] == "learning_rate":
        axes.yaxis.set_major_formatter(_scientific)
    axes.set_xlim(left=0)
    # From zero to the first tick above the data, so that a line never ends beyond the scale.
    top = axes.dataLim.ymax
    ticks = ticker.MaxNLocator(5).tick_values(0, top if top > 0 else 1.0)
    axes.set_yticks(ticks[ticks >= 0])
    axes.set_ylim(min(0.0, axes.dataLim.ymin), ticks[-1])
    if legend_rows(chart):
        _draw_legend(axes, chart, theme)


def _draw_legend(axes: Any, chart: Chart, theme: Theme) -> None:
    legend = axes.legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.2), frameon=False, fontsize=8.5,
        ncols=legend_columns([label for _, label in chart.lines]), labelcolor=theme.ink,
        handlelength=1.6, columnspacing=1.4,
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
        "Cosine similarity of captions and pictures", loc="left", fontsize=10.5, weight="bold",
        color=theme.ink,
    )  # fmt: skip


def value_range(matrix: np.ndarray) -> tuple[float, float]:
    """Returns the lowest and highest finite value, never equal, for a colour scale."""
    finite = np.asarray(matrix, np.float64)[np.isfinite(matrix)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return low, (high if high > low else low + 1.0)


def _scientific(value: float, _: int) -> str:
    return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e") if value else "0"


def _drawable(text: str, length: int) -> str:
    """Shortens a text and puts a box for every character that the figure's font cannot draw."""
    from matplotlib import font_manager

    files = [font_manager.findfont(name) for name in ("DejaVu Sans", "DejaVu Sans:bold")]
    regular, bold = (font_manager.get_font(file).get_charmap() for file in files)
    text = " ".join(text.split())
    text = text if len(text) <= length else text[: length - 1].rstrip() + "…"
    return "".join(c if ord(c) in regular and ord(c) in bold else "\u25a1" for c in text)
