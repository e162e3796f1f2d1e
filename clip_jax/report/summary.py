"""The summary of a run as one PNG: learning curves and the similarity matrix.

It is drawn with matplotlib's object API (no pyplot, no global state), which is imported inside the
functions: it takes half a second, and only this image needs it. The curves are the page's drawings.
"""

import contextlib
import io
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.report import charts
from clip_jax.report.curves import Records
from clip_jax.report.style import LIGHT_RAMP, colors, shade
from clip_jax.report.svg import Figure
from clip_jax.report.types import Similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = 3
_LEGEND, _GAP = 15, 6  # height of a line, and above the first
_DRAWN = {"strong": {"linewidth": 1.8}, "pale": {"linewidth": 0.8, "alpha": 0.3},
          "dashed": {"linestyle": "--"}}  # fmt: skip


def summary_png(title: str, records: Records, similarity: Similarity) -> bytes:
    """Returns the summary, a PNG file: learning curves and, if there are images, their matrix."""
    from matplotlib import figure

    both = bool(len(similarity.images))
    panels = charts.figures(records, height=168 if both else 230)[:_PANELS]
    ink, muted, surface = (colors()[0][name] for name in ("ink", "muted", "surface"))
    with _own_settings():
        size = (12.5 if panels else 9.5, 7.4 if both else 4.2)
        canvas = figure.Figure(size, dpi=150, layout="constrained")
        canvas.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
        canvas.suptitle(_drawable(title, 90), x=0.012, ha="left", fontsize=15, weight="bold",
                        color=ink, parse_math=False)  # fmt: skip
        left = right = canvas
        if panels and both:  # two subfigures, not one grid: panels must not shrink the matrix
            left, right = canvas.subfigures(1, 2, width_ratios=(1, 1.75), wspace=0.04)
        if panels:
            heights = [panel.drawing.height + _GAP + _LEGEND * len(panel.keys) for panel in panels]
            shape = (len(panels), 1) if both else (1, len(panels))
            grid = left.subplots(*shape, squeeze=False, height_ratios=heights if both else None)
            for axes, panel in zip(grid.flat, panels, strict=True):
                _draw(axes, panel)
        if both:
            _draw_matrix(right.add_subplot(), similarity, ink)
        elif not panels:
            canvas.text(0.5, 0.45, "nothing recorded yet", ha="center", color=muted)
        file = io.BytesIO()
        canvas.savefig(file, format="png", facecolor=surface)
    return file.getvalue()


@contextlib.contextmanager
def _own_settings() -> Iterator[None]:
    """Shuts out a user's matplotlibrc, whose TeX or fonts could change or break the report."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"font.family": ["DejaVu Sans"], "font.size": 9.0})
        yield


def _draw(axes: "Axes", figure: Figure) -> None:
    """Draws one of the page's line charts with its legend below."""
    palette, drawing = colors()[0], figure.drawing
    palette["grid"] = palette["line"]
    text = {"parse_math": False, "clip_on": False, "size": 8}
    for element in drawing.root:
        kind, *styles = element.get("class").removeprefix("line ").removeprefix("dot ").split()
        color = palette[kind]
        at = {k: float(v) for k, v in element.items() if k in ("x", "y", "cx", "cy")}
        if element.tag == "polyline":
            points = [tuple(map(float, p.split(","))) for p in element.get("points").split()]
            style = {"linewidth": 0.8}
            for name in styles:
                style |= _DRAWN[name]
            axes.plot(*zip(*points, strict=True), color=color, **style)
        elif element.tag == "circle":
            axes.plot(at["cx"], at["cy"], "o", ms=3.5, color=color)
        else:
            side = {"middle": "center", "end": "right"}[element.get("text-anchor")]
            axes.text(at["x"], at["y"], element.text, color=color, ha=side, **text)
    height = drawing.height + _GAP
    for kind, words in figure.keys:
        axes.plot([44, 62], [height + 4] * 2, color=palette[kind], linewidth=1.8)
        axes.text(70, height + 8, _drawable(words, 48), color=palette["ink"], **text)
        height += _LEGEND
    axes.set_title(figure.title, loc="left", fontsize=10.5, weight="bold", color=palette["ink"])
    axes.set(xlim=(0, drawing.width), ylim=(height, 0))
    axes.set_axis_off()


def _draw_matrix(axes: "Axes", similarity: Similarity, ink: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    images, captions, matrix = similarity
    (rows, columns), (low, high) = np.shape(matrix), value_range(matrix)
    ramp = LinearSegmentedColormap.from_list("ramp", LIGHT_RAMP)
    axes.imshow(matrix, cmap=ramp, vmin=low, vmax=high)
    most = max(rows, columns)
    for (i, j), cosine in np.ndenumerate(matrix) if most <= 20 else ():
        color = shade((cosine - low) / (high - low), LIGHT_RAMP)[1]
        axes.text(j, i, f"{cosine:.2f}", ha="center", va="center", size=min(9.0, 72.0 / most),
                  color=color, weight="bold" if i == j else "normal")  # fmt: skip
    for j, image in enumerate(images):
        axes.imshow(image, extent=(j - 0.42, j + 0.42, -0.6, -1.44), interpolation="bilinear")
    labels = ["\n".join(textwrap.wrap(_drawable(text, 60), 30)) for text in captions]
    axes.set_yticks(range(rows), labels, size=min(9.0, 130 / rows), parse_math=False)
    axes.set_xticks([])
    axes.tick_params(length=0, colors=ink)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -1.5))
    title = "Cosine similarity of captions and images"
    axes.set_title(title, loc="left", fontsize=10.5, weight="bold", color=ink)


def value_range(matrix: np.ndarray) -> tuple[float, float]:
    """Returns the lowest and highest finite value, never equal, for a color scale."""
    finite = np.asarray(matrix, np.float64)[np.isfinite(matrix)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return low, (high if high > low else low + 1.0)


def _drawable(text: str, length: int) -> str:
    """Shortens a text and puts a box for every character that the figure's font cannot draw."""
    from matplotlib import font_manager

    files = [font_manager.findfont(name) for name in ("DejaVu Sans", "DejaVu Sans:bold")]
    regular, bold = (font_manager.get_font(file).get_charmap() for file in files)
    text = " ".join(text.split())
    text = text if len(text) <= length else text[: length - 1].rstrip() + "…"
    return "".join(c if ord(c) in regular and ord(c) in bold else "\u25a1" for c in text)
