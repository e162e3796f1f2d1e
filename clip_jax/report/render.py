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


Groups = Sequence[tuple[str, Sequence[Row]]]  # with a headline or "" each


class Table(NamedTuple):
    """A table: names of the first column and the others, (headline or "", rows) groups, and its
    class in the style sheet. "folding": on a narrow screen every row is a card.
    """

    head: str
    columns: Sequence[str]
    groups: Groups
    kind: str = "folding"


class Blocks(NamedTuple):
    """A section without a template of its own: a first paragraph, groups of figures, each with its
    class in the style sheet, and (headline, table, note) for each table.
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


class Page(NamedTuple):
    """A page: what it is, its title, (value, name) properties, the numbers to see first, the parts.

    Facts without a value and sections without data are left out.
    """

    kind: str
    title: str
    properties: Sequence[tuple[str, str]]
    tiles: Sequence[Tile]
    sections: Sequence[Section]

    def html(self) -> str:
        """Returns the page. Raises ValueError where an image is not uint8[H, W, 3]."""
        return printable(_environment().get_template("page.html").render(self._asdict()))


def macro(name: str, *args: object) -> str:
    """Returns what one macro of ``macros.html`` makes of its arguments."""
    return printable(getattr(_environment().get_template("macros.html").module, name)(*args))


def results(lead: str, groups: Groups, reference: str) -> Blocks | None:
    """A section of ``result`` rows; ``reference`` names the column of what they lie beside."""
    table = Table("Dataset", ("", "Result", reference), groups, "results")
    return Blocks(lead, tables=[("", table, "")]) if any(rows for _, rows in groups) else None


def result(
    title: str, note: str, bar: tuple[float | None, float | None, float | None, float | None],
    interval: str,
) -> Row:  # fmt: skip
    """A row of ``results``; ``bar``: value, low and high end of its interval, reference."""
    reference = percent(bar[3]) if finite(bar[3]) else ""
    return Row(title, note, [Cell(bar=bar), Cell(percent(bar[0]), interval), Cell(reference)])


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
