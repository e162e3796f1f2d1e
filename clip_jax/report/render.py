"""Pages of the report from templates: self-contained HTML, with everything escaped."""

import base64
import functools
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import jinja2
import numpy as np

from clip_jax.report.svg import Figure
from clip_jax.report.text import between, finite, percent, points, printable

_THUMBNAIL = 168  # pixels of the longer side
_PNG_LIMIT = 24_000  # bytes


class Tile(NamedTuple):
    """One of the large numbers at the top; all but ``value`` is text."""

    title: str
    metric: str
    value: float
    interval: str
    note: str = ""


class Cell(NamedTuple):
    """A text of a table with a note below it, or a bar: value, interval and reference, 0 to 1."""

    value: str = ""
    note: str = ""
    bar: tuple[float | None, ...] = ()


class Row(NamedTuple):
    """A row of a table; ``strong`` sets it apart from the others."""

    name: str
    note: str
    cells: Sequence[Cell]
    strong: bool = False


class Table(NamedTuple):
    """A table of (headline, rows) groups.

    Attributes:
      head: the name of the first column.
      columns: the names of the others.
      groups: with a headline or "" each.
      kind: its class in the style sheet. "folding": on a narrow screen every row is a card.
    """

    head: str
    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Row]]]
    kind: str = "folding"


class Blocks(NamedTuple):
    """A section without a template of its own.

    Attributes:
      lead: the first paragraph.
      figures: (class of the style sheet, figures) for each group of them.
      tables: (headline, table, note) each.
    """

    lead: str = ""
    figures: Sequence[tuple[str, Sequence[Figure]]] = ()
    tables: Sequence[tuple[str, Table, str]] = ()


class Section(NamedTuple):
    """A part of a page; ``data`` is what its template shows. Nothing: left out."""

    name: str
    headline: str
    data: object
    template: str = "blocks.html"


def page(
    kind: str,
    title: str,
    facts: Sequence[tuple[str, str]],
    tiles: Sequence[Tile],
    sections: Sequence[Section],
) -> str:
    """Returns a page.

    Args:
      kind: what the page is, above the title.
      title: headline and title of the document.
      facts: (value, name) pairs below the headline; those without a value are left out.
      tiles: the numbers to see first.
      sections: the parts, in order; links to them stand below the tiles.

    Raises:
      ValueError: an image is not uint8[H, W, 3].
    """
    shown = [s for s in sections if s.data]
    template = _environment().get_template("page.html")
    facts = [fact for fact in facts if fact[0]]
    return printable(
        template.render(kind=kind, title=title, facts=facts, tiles=tiles, sections=shown)
    )


def macro(name: str, *args: object) -> str:
    """Returns what one macro of ``macros.html`` makes of its arguments."""
    return printable(getattr(_environment().get_template("macros.html").module, name)(*args))


def results_table(
    groups: Sequence[tuple[str, Sequence[Row]]], reference: str, *, lead: str
) -> Blocks | None:
    """A section of ``result_row`` rows; ``reference`` names the column of what they lie beside."""
    table = Table("Dataset", ("", "Result", reference), groups, "results")
    return Blocks(lead, tables=[("", table, "")]) if groups else None


def result_row(
    title: str, note: str, value: float, bounds: Sequence[float | None], interval: str,
    reference: float | None,
) -> Row:  # fmt: skip
    """A row of ``results_table``: the value as a bar and as a text, and the reference."""
    known = percent(reference) if finite(reference) else ""
    return Row(title, note, [Cell(bar=(value, *bounds, reference)),
                             Cell(percent(value), interval), Cell(known)])  # fmt: skip


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clip_jax.report"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "percent": percent, "points": points, "between": between, "width": width,
        "data_uri": data_uri, "zip": functools.partial(zip, strict=True),
    }  # fmt: skip
    environment.tests["finite"] = finite
    return environment


def data_uri(image: np.ndarray) -> str:
    """Returns an image as the source of an ``img``: PNG, or JPEG where a PNG would be large.

    Raises:
      ValueError: it is not uint8[H, W, 3].
    """
    from PIL import Image

    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"an image must be uint8[H, W, 3], got {array.dtype}{array.shape}")
    thumbnail = Image.fromarray(np.ascontiguousarray(array))
    thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
    kind, file = "png", io.BytesIO()
    thumbnail.save(file, "PNG", optimize=True)
    if file.tell() > _PNG_LIMIT:
        kind, file = "jpeg", io.BytesIO()
        thumbnail.save(file, "JPEG", quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def width(fraction: float) -> str:
    """A fraction as per cent of a bar's length, from 0 to 100."""
    return f"{100 * min(max(fraction, 0.0), 1.0) if math.isfinite(fraction) else 0.0:.2f}"
