"""Pages of the report from templates: self-contained HTML, with everything escaped."""

import base64
import functools
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np

_THUMBNAIL = 168  # pixels of the longer side
_PNG_LIMIT = 24_000  # bytes
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # HTML cannot hold them


class Tile(NamedTuple):
    """One of the large numbers at the top; all but ``value`` is text."""

    title: str
    metric: str
    value: float
    interval: str
    note: str = ""


class Row(NamedTuple):
    """One result: ``reference`` is what it is compared with, None where nothing is known."""

    title: str
    note: str
    value: float
    low: float | None
    high: float | None
    interval: str
    reference: float | None


class Section(NamedTuple):
    """A part of a page; ``data`` is what its template ``name``.html shows. Nothing: left out."""

    name: str
    headline: str
    data: Any


def page(
    kind: str,
    title: str,
    facts: Sequence[tuple[str, str]],
    tiles: Sequence[Tile],
    sections: Sequence[Section],
    **context: Any,
) -> str:
    """Returns a page.

    Args:
      kind: what the page is, above the title.
      title: headline and title of the document.
      facts: (value, name) pairs below the headline; those without a value are left out.
      tiles: the numbers to see first.
      sections: the parts, in order; links to them stand below the tiles.
      **context: what their templates need besides their own data.

    Raises:
      ValueError: an image is not uint8[H, W, 3].
    """
    shown = [s for s in sections if s.data]
    html = _environment().get_template("page.html").render(
        kind=kind, title=title, facts=[f for f in facts if f[0]], tiles=tiles, sections=shown,
        **context,
    )  # fmt: skip
    return printable(html)


def macro(name: str, *args: Any) -> str:
    """Returns what one macro of ``macros.html`` makes of its arguments."""
    return printable(getattr(_environment().get_template("macros.html").module, name)(*args))


def printable(text: str) -> str:
    """Replaces control characters by U+FFFD."""
    return _CONTROL.sub("\ufffd", text)


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


def finite(value: float | None) -> bool:
    """Whether there is a number to show."""
    return value is not None and math.isfinite(value)


def width(fraction: float) -> str:
    """A fraction as per cent of a bar's length, from 0 to 100."""
    return f"{100 * min(max(fraction, 0.0), 1.0) if math.isfinite(fraction) else 0.0:.2f}"


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as ``81.3%``, or a dash if it is not a number."""
    return f"{100 * fraction:.{digits}f}%" if finite(fraction) else "–"


def points(difference: float) -> str:
    """A difference of two fractions in points, ``+1.2``, or ``0.0`` without a sign."""
    shown = f"{100 * difference:+.1f}".replace("-", "−")
    return "0.0" if shown in ("+0.0", "−0.0") else shown


def between(bounds: Sequence[float | None] | Mapping[str, Any]) -> str:
    """An interval in per cent, ``80.1 to 82.5``, or nothing if an end is not a number.

    Args:
      bounds: the two ends, or an object with "low" and "high".
    """
    low, high = (bounds["low"], bounds["high"]) if isinstance(bounds, Mapping) else bounds
    if not finite(low) or not finite(high):
        return ""
    return f"{100 * low:.1f} to {100 * high:.1f}".replace("-", "−")
