"""The report of a run: one self-contained HTML page and one summary picture.

The page needs no network, no JavaScript and no other file; it can be mailed, attached to a build
or opened years later. Everything it shows is handed in: the report computes no metric.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_jax.report import curves as curves_lib
from clip_jax.report import figures
from clip_jax.report.parts import (
    bar,
    clamped,
    escaped,
    finite,
    found_pictures,
    interval,
    mark,
    page,
    percent,
    picture,
    recipe,
    right_class,
    spoken,
    svg_source,
)
from clip_jax.report.style import DARK, LIGHT, shade
from clip_jax.report.types import (
    ImageQuery,
    Prediction,
    ReportData,
    Result,
    Similarity,
    TextQuery,
)
from clip_jax.runtime.atomic import write_atomically


def write_report(path_dir: str | os.PathLike[str], data: ReportData) -> tuple[Path, Path]:
    """Writes `report.html` and `report.png`, each complete or not at all.

    Args:
      path_dir: folder, made if missing.
      data: what to show.

    Returns:
      The two paths.

    Raises:
      ValueError: if a picture is not uint8[H, W, 3] or the matrix does not fit its captions.
    """
    similarity = Similarity(*(data.similarity or ((), (), np.zeros((0, 0)))))
    pictures, captions = len(similarity.images), len(similarity.captions)
    if not np.shape(similarity.matrix) == (captions, pictures) == (pictures, captions):
        raise ValueError(
            f"similarity: {pictures} pictures, {captions} captions and a matrix of "
            f"{np.shape(similarity.matrix)} do not fit; give k, k and (k, k)"
        )
    # Both are made before either is written: an error leaves an earlier report whole.
    page = render_html(data).encode("utf-8", "replace")
    picture = figures.summary_png(data.title, data.curves, *similarity)
    folder = Path(path_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "report.html", folder / "report.png"
    for path, content in zip(paths, (page, picture), strict=True):
        write_atomically(path, content)
    return paths


def render_html(data: ReportData) -> str:
    """Returns the page as one string."""
    sections = [
        ("results", "Results", _results(data.results)),
        ("training", "Training", _training(data.curves)),
        ("similarity", "Which caption for which picture?", _similarity(data.similarity)),
        ("predictions", "What the model sees", _predictions(data.predictions)),
        ("search", "Search", _search(data.text_to_image, data.image_to_text)),
        ("recipe", "Recipe", recipe(data.config_summary)),
    ]
    return page(data.title, _header(data), sections)


def _header(data: ReportData) -> str:
    tiles = "".join(
        f'<div class="card"><p class="small"><b>{spoken(r.task)}</b><br>{escaped(r.metric)}</p>'
        f'<p class="value">{percent(r.value)}<small> {interval(r.ci)}</small></p>'
        f'<p class="small">{_context(r)}</p></div>'
        for r in (Result(*row) for row in data.results[:4])
    )
    facts = "".join(
        f"<span><b>{value}</b> {name}</span>" for name, value in curves_lib.facts(data.curves)
    )
    return (
        f'<header><p class="eyebrow">clip_jax report</p><h1>{escaped(data.title)}</h1>'
        + (f'<p class="facts">{facts}</p>' if facts else "")
        + (f'<div class="grid tiles">{tiles}</div>' if tiles else "")
        + "</header>"
    )


def _results(results: Sequence[Result]) -> str:
    if not results:
        return ""
    rows = []
    for result in (Result(*row) for row in results):
        rows.append(
            f'<tr role="row"><th scope="row" role="rowheader">{spoken(result.task)}'
            f'<div class="small">{escaped(result.metric)}, n = {result.n:,}</div></th>'
            f'<td class="wide" role="cell">{_result_bar(result)}</td>'
            f'<td class="number" role="cell"><b>{percent(result.value)}</b> {interval(result.ci)}'
            f'<div class="small">{_baseline(result)}</div></td></tr>'
        )
    return (
        '<p class="lead">Bars run from 0 to 100%. The dark line on a bar is the 95% interval, the '
        "red mark the baseline.</p>"
        # Roles, because a narrow screen lays rows out as grids, and that drops the implied ones.
        f'<div class="card results"><table role="table"><tbody role="rowgroup">{"".join(rows)}'
        "</tbody></table></div>"
    )


def _result_bar(result: Result) -> str:
    if not finite(result.ci):
        return bar(result.value, reference=result.baseline)
    low, high = result.value - result.ci, result.value + result.ci
    return bar(result.value, low, high, result.baseline)


def _training(curves: curves_lib.Records) -> str:
    charts = curves_lib.charts(curves)
    if not charts:
        return ""
    room = max(map(curves_lib.legend_rows, charts))
    cards = []
    for chart in charts:
        light, dark = (
            svg_source(figures.chart_svg(chart, curves, theme, room)) for theme in (LIGHT, DARK)
        )
        ends = [
            f"{label} {value:.4g}".strip()
            for key, label in chart.lines
            for value in curves_lib.series(curves, chart.x, key)[1][-1:]
        ]
        alt = escaped(f"{chart.title} by {chart.x}. Last values: {', '.join(ends)}")
        cards.append(
            f'<div class="card"><picture><source srcset="{dark}" '
            f'media="(prefers-color-scheme: dark)"><img src="{light}" alt="{alt}"></picture></div>'
        )
    return (
        '<p class="lead">Strong lines are running means of the pale ones. A run that was stopped '
        f'and resumed shows as one.</p><div class="grid charts">{"".join(cards)}</div>'
    )


def _similarity(similarity: Similarity | None) -> str:
    if not similarity or not len(similarity[0]):
        return ""
    similarity = Similarity(*similarity)
    matrix = np.asarray(similarity.matrix, np.float64)
    head = "".join(
        f'<th scope="col">{picture(image, f"Picture {j + 1}")}</th>'
        for j, image in enumerate(similarity.images)
    )
    rows = "".join(
        f'<tr><th scope="row" dir="auto">{escaped(caption)}</th>{_cells(matrix, i)}</tr>'
        for i, caption in enumerate(similarity.captions)
    )
    # A tie is not a hit, or a model that sees no difference would look perfect.
    hits = sum(bool((np.delete(row, i) < row[i]).all()) for i, row in enumerate(matrix))
    return (
        '<p class="lead">Cosine of every caption with every picture. The outlined diagonal holds '
        f"the true pairs; {hits} of {len(matrix)} captions are closest to their own picture.</p>"
        '<div class="card matrix"><div class="scroll" tabindex="0" role="region" '
        'aria-label="Similarity matrix"><table><thead><tr><td class="corner"></td>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div></div>"
    )


def _cells(matrix: np.ndarray, row: int) -> str:
    low, high = figures.value_range(matrix)
    cells = []
    for column, cosine in enumerate(matrix[row]):
        place = (cosine - low) / (high - low)
        (light, light_ink), (dark, dark_ink) = shade(place, LIGHT.ramp), shade(place, DARK.ramp)
        style = f"--b:{light};--f:{light_ink};--db:{dark};--df:{dark_ink}"
        own = ' class="own"' if row == column else ""
        cells.append(f'<td{own} style="{style}">{cosine:.2f}</td>')
    return "".join(cells)


def _predictions(predictions: Sequence[Prediction]) -> str:
    if not predictions:
        return ""
    cards, right = [], 0
    for image, caption, guesses in (Prediction(*row) for row in predictions):
        right += len(guesses) > 0 and guesses[0][0] == caption
        rows = "".join(
            f'<li{right_class(guess == caption)}><span dir="auto">{escaped(guess)}'
            f"{'&nbsp;✓' if guess == caption else ''}</span><span>{percent(probability)}</span>"
            f'<span class="bar" aria-hidden="true"><i style="width:{clamped(probability):.1f}%">'
            "</i></span></li>"
            for guess, probability in guesses
        )
        cards.append(
            f'<article class="card guess">{picture(image, caption, 84)}<div>'
            f'<p class="small">True caption</p><p class="caption" dir="auto">{escaped(caption)}</p>'
            f"</div><ol>{rows}</ol></article>"
        )
    return (
        '<p class="lead">The five most probable captions of each picture, the true one in green. '
        f"The first guess is right for {right} of these {len(predictions)}.</p>"
        f'<div class="grid cards">{"".join(cards)}</div>'
    )


def _search(texts: Sequence[TextQuery], images: Sequence[ImageQuery]) -> str:
    parts = []
    if texts:
        cards = "".join(found_pictures(*query) for query in texts)
        parts.append(f'<h3>Pictures for a text</h3><div class="grid rows">{cards}</div>')
    if images:
        cards = "".join(_image_query(ImageQuery(*query)) for query in images)
        parts.append(f'<h3>Captions for a picture</h3><div class="grid cards">{cards}</div>')
    lead = '<p class="lead">The nearest neighbours of each query, best first.</p>'
    return lead + "".join(parts) if parts else ""


def _image_query(query: ImageQuery) -> str:
    items = "".join(
        f'<li{right_class(correct)}><span dir="auto">{escaped(text)}</span>&nbsp;'
        f"{mark(correct)}</li>"
        for text, correct in query.answers
    )
    return (
        f'<article class="card found">{picture(query.image, "Query picture", 84)}'
        f'<ol class="answers">{items}</ol></article>'
    )


def _baseline(result: Result) -> str:
    return f"baseline {percent(result.baseline)}" if finite(result.baseline) else ""


def _context(result: Result) -> str:
    return ", ".join(filter(None, (f"n = {result.n:,}", _baseline(result))))
