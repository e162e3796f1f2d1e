"""The smallest pieces of the report's page: escaped text, embedded pictures, spelled numbers."""

import base64
import html
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_jax.report.curves import without_underscores
from clip_jax.report.style import PAGE, STYLE

_THUMBNAIL = 168
_PNG_LIMIT = 24_000


def page(title: str, header: str, sections: Sequence[tuple[str, str, str]], style: str = "") -> str:
    """Returns the whole page.

    Args:
      title: of the document, escaped here.
      header: HTML at the top.
      sections: (id, headline, HTML) of each; those without content are left out. Links to the
        others stand below the header.
      style: more of a style sheet.
    """
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{name}">{headline}</a>' for name, headline, _ in sections)
    body = [header, f'<nav aria-label="Sections">{links}</nav>' if links else ""]
    body += [
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{headline}</h2>{content}</section>'
        for name, headline, content in sections
    ]
    return PAGE.substitute(title=escaped(title), style=STYLE + style, body="\n".join(body))


def found_pictures(
    text: str, answers: Sequence[tuple[np.ndarray, bool | None]], note: str = ""
) -> str:
    """Returns a card with a text and the pictures uint8[H, W, 3] found for it, best first, each
    with whether it is right; None: nobody knows. The note stands below the text.
    """
    below = f'<p class="small" dir="auto">{escaped(note)}</p>' if note else ""
    items = "".join(
        f"<li{right_class(bool(correct))}>{picture(image, f'Answer {rank}')}"
        f"{' '.join([str(rank), *([] if correct is None else [mark(correct)])])}</li>"
        for rank, (image, correct) in enumerate(answers, 1)
    )
    return (
        f'<article class="card"><p class="query" dir="auto">{escaped(text)}</p>'
        f'{below}<ol class="strip">{items}</ol></article>'
    )


def recipe(summary: Sequence[tuple[str, Any]]) -> str:
    """Returns a card with (name, value) pairs, or nothing if there are none."""
    rows = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in summary
    )
    return f'<dl class="card recipe">{rows}</dl>' if rows else ""


def bar(
    value: float,
    low: float | None = None,
    high: float | None = None,
    reference: float | None = None,
) -> str:
    """Returns a bar from 0 to 1 with, where they are known, an interval and another's value."""
    marks = f'<i style="width:{clamped(value):.2f}%"></i>'
    if finite(low) and finite(high) and finite(value):
        start, end = clamped(low), clamped(high)
        marks += f'<s style="left:{start:.2f}%;width:{end - start:.2f}%"></s>'
    if finite(reference):
        marks += f'<u style="left:{clamped(reference):.2f}%"></u>'
    return f'<span class="bar" aria-hidden="true">{marks}</span>'


def picture(image: np.ndarray, alt: str, size: int | None = None) -> str:
    """Returns an `img` that holds the picture: PNG, or JPEG where a PNG would be large.

    Args:
      image: uint8[H, W, 3].
      alt: what the picture shows, escaped here.
      size: width and height on the page in CSS pixels; without it the style sheet decides.

    Raises:
      ValueError: if the image has another type or shape.
    """
    from PIL import Image

    if np.asarray(image).dtype != np.uint8 or np.ndim(image) != 3 or np.shape(image)[2] != 3:
        raise ValueError(
            f"a picture must be uint8[H, W, 3], got {np.asarray(image).dtype}{np.shape(image)}"
        )
    thumb = Image.fromarray(np.ascontiguousarray(image))
    thumb.thumbnail((_THUMBNAIL, _THUMBNAIL))
    kind, file = "png", io.BytesIO()
    thumb.save(file, "PNG", optimize=True)
    if file.tell() > _PNG_LIMIT:
        kind, file = "jpeg", io.BytesIO()
        thumb.save(file, "JPEG", quality=88)
    data = base64.b64encode(file.getvalue()).decode()
    sizes = f' width="{size}" height="{size}"' if size else ""
    return (
        f'<img class="picture" src="data:image/{kind};base64,{data}" alt="{escaped(alt)}"{sizes}>'
    )


def svg_source(document: str) -> str:
    """Returns an SVG document as the source of an `img`."""
    return "data:image/svg+xml;base64," + base64.b64encode(document.encode()).decode()


def escaped(value: Any) -> str:
    """Escapes for HTML; control characters, which HTML cannot hold, become U+FFFD."""
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\ufffd", str(value)))


def spoken(name: str) -> str:
    """Returns a task's name as words, escaped."""
    return escaped(without_underscores(name))


def right_class(correct: bool) -> str:
    """Returns the attribute that colours right answers."""
    return ' class="right"' if correct else ""


def mark(correct: bool) -> str:
    """Returns a sign beside an answer, so that colour is not the only hint."""
    sign, meaning = ("✓", "right") if correct else ("✗", "wrong")
    return f'<span class="mark" role="img" aria-label="{meaning}">{sign}</span>'


def finite(value: float | None) -> bool:
    """Tells whether there is a number to show."""
    return value is not None and math.isfinite(value)


def clamped(fraction: float) -> float:
    """Returns a fraction as per cent of a bar, from 0 to 100."""
    return 100 * min(max(fraction, 0.0), 1.0) if math.isfinite(fraction) else 0.0


def percent(fraction: float, digits: int = 1) -> str:
    """Returns a fraction as `81.3%`, or a dash if it is not a number."""
    return f"{100 * fraction:.{digits}f}%" if math.isfinite(fraction) else "–"


def interval(ci: float | None) -> str:
    """Returns `± 1.9` for the half-width 0.019, or nothing."""
    return f"± {100 * ci:.1f}" if finite(ci) else ""
