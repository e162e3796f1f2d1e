"""The smallest pieces of the report's page: escaped text, embedded pictures, spelled numbers."""

import base64
import html
import io
import math
import re
from typing import Any

import numpy as np

_THUMBNAIL = 168
_PNG_LIMIT = 24_000


def picture(image: np.ndarray, alt: str, size: int | None = None) -> str:
    """Embeds a picture: PNG, or JPEG where that would be large (photographs)."""
    from PIL import Image

    if np.asarray(image).dtype != np.uint8 or np.ndim(image) != 3 or np.shape(image)[2] != 3:
        raise ValueError(
            f"a picture must be uint8[H, W, 3], got {np.asarray(image).dtype}{np.shape(image)}"
        )
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    kind, file = "png", io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    if file.tell() > _PNG_LIMIT:
        kind, file = "jpeg", io.BytesIO()
        picture.save(file, "JPEG", quality=88)
    data = base64.b64encode(file.getvalue()).decode()
    sizes = f' width="{size}" height="{size}"' if size else ""
    return (
        f'<img class="picture" src="data:image/{kind};base64,{data}" alt="{escaped(alt)}"{sizes}>'
    )


def svg_source(document: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(document.encode()).decode()


def escaped(value: Any) -> str:
    """Escapes for HTML; control characters, which HTML cannot hold, become U+FFFD."""
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\ufffd", str(value)))


def spoken(name: str) -> str:
    return escaped(name.replace("_", " "))


def right_class(correct: bool) -> str:
    return ' class="right"' if correct else ""


def mark(correct: bool) -> str:
    sign, meaning = ("✓", "right") if correct else ("✗", "wrong")
    return f'<span class="mark" role="img" aria-label="{meaning}">{sign}</span>'


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def clamped(fraction: float) -> float:
    return 100 * min(max(fraction, 0.0), 1.0) if math.isfinite(fraction) else 0.0


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}%" if math.isfinite(fraction) else "–"


def interval(ci: float | None) -> str:
    return f"± {100 * ci:.1f}" if finite(ci) else ""


def duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours >= 2:
        return f"{hours:.1f} hours"
    return f"{minutes:.0f} minutes" if minutes >= 2 else f"{seconds:.0f} seconds"
