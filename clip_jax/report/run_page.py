"""The report of a run: one self-contained HTML page and one summary image.

The page needs no network, no JavaScript and no other file; it can be mailed, attached to a build
or opened years later. The report computes no metric.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_jax.report import charts, curves, render, summary
from clip_jax.report.render import Blocks, Page, Section, Tile, result
from clip_jax.report.style import DARK_RAMP, LIGHT_RAMP, shade
from clip_jax.report.text import finite, percent
from clip_jax.report.types import Prediction, ReportData, Result, Similarity
from clip_jax.runtime.atomic import write_atomically

_CURVES = (
    "Strong lines are running means of the pale ones. A run that was stopped and resumed shows as "
    "one."
)


def write_report(path_dir: str | os.PathLike[str], data: ReportData) -> tuple[Path, Path]:
    """Writes ``report.html`` and ``report.png``, each complete or not at all.

    Args:
      path_dir: folder, made if missing.
      data: what to show.

    Raises:
      ValueError: an image is not uint8[H, W, 3], or the matrix does not fit its captions.
    """
    similarity = Similarity(*(data.similarity or ((), (), np.zeros((0, 0)))))
    images, captions = len(similarity.images), len(similarity.captions)
    if not np.shape(similarity.matrix) == (captions, images) == (images, captions):
        raise ValueError(
            f"similarity: {images} images, {captions} captions and a matrix of "
            f"{np.shape(similarity.matrix)} do not fit; give k, k and (k, k)"
        )
    # Both are made before either is written: an error leaves an earlier report whole.
    html = render_html(data).encode("utf-8", "replace")
    png = summary.summary_png(data.title, data.curves, similarity)
    folder = Path(path_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "report.html", folder / "report.png"
    for path, content in zip(paths, (html, png), strict=True):
        write_atomically(path, content)
    return paths


def render_html(data: ReportData) -> str:
    """Returns the page as one string."""
    results = [Result(*row) for row in data.results]
    drawn = charts.figures(data.curves)
    search = {"texts": [(*query, "") for query in data.text_to_image], "images": data.image_to_text}
    sections = [
        Section("results", "Results", _results(results)),
        Section("training", "Training", drawn and Blocks(_CURVES, [("grid charts", drawn)])),
        Section("similarity", "Which caption for which image?", _similarity(data.similarity),
                "similarity.html"),
        Section("predictions", "What the model sees", _predictions(data.predictions),
                "predictions.html"),
        Section("search", "Search", any(search.values()) and search, "search.html"),
        Section("recipe", "Recipe", data.config_summary, "recipe.html"),
    ]  # fmt: skip
    tiles = [
        Tile(_title(r), r.metric, r.value, _interval(r),
             f"n = {r.n:,}" + finite(r.baseline) * f", baseline {percent(r.baseline)}")
        for r in results[:4]
    ]  # fmt: skip
    return Page("clip_jax report", data.title, curves.totals(data.curves), tiles, sections).html()


def _results(results: Sequence[Result]) -> Blocks | None:
    rows = []
    for r in results:
        ends = (r.value - r.ci, r.value + r.ci) if finite(r.ci) else (None, None)
        note = f"{r.metric}, n\xa0=\xa0{r.n:,}"
        rows.append(result(_title(r), note, (r.value, *ends, r.baseline), _interval(r)))
    lead = "Bars run from 0 to 100%. The dark line on a bar is the 95% interval, the red mark the "
    known = any(finite(r.baseline) for r in results)
    return render.results(lead + "baseline.", [("", rows)], "Baseline" if known else "")


def _title(result: Result) -> str:
    return curves.without_underscores(result.task)


def _interval(result: Result) -> str:
    return f"± {100 * result.ci:.1f}" if finite(result.ci) else ""


def _similarity(similarity: Similarity | None) -> dict[str, object] | None:
    if not similarity or not len(similarity[0]):
        return None
    images, captions, matrix = similarity
    matrix = np.asarray(matrix, np.float64)
    low, high = summary.value_range(matrix)
    cells = [
        [(c, *(shade((c - low) / (high - low), ramp) for ramp in (LIGHT_RAMP, DARK_RAMP)))
         for c in row]
        for row in matrix
    ]  # fmt: skip
    # A tie is not a hit, or a model that sees no difference would look perfect.
    hits = sum(bool((np.delete(row, i) < row[i]).all()) for i, row in enumerate(matrix))
    return {"images": images, "rows": list(zip(captions, cells, strict=True)), "hits": hits}


def _predictions(predictions: Sequence[Prediction]) -> dict[str, object] | None:
    rows = [Prediction(*row) for row in predictions]
    right = sum(len(r.guesses) > 0 and r.guesses[0][0] == r.caption for r in rows)
    return {"rows": rows, "right": right} if rows else None
