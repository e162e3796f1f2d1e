"""Numbers and texts as the report prints them."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # HTML cannot hold them


def finite(value: float | None) -> bool:
    """Whether there is a number to show."""
    return value is not None and math.isfinite(value)


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as ``81.3%``, or a dash if it is not a number."""
    return f"{100 * fraction:.{digits}f}%" if finite(fraction) else "–"


def points(difference: float) -> str:
    """A difference of two fractions in points, ``+1.2``, or ``0.0`` without a sign."""
    shown = f"{100 * difference:+.1f}".replace("-", "−")
    return "0.0" if shown in ("+0.0", "−0.0") else shown


def between(bounds: Sequence[float | None] | Mapping[str, float | None]) -> str:
    """An interval in per cent, ``80.1 to 82.5``, or nothing if an end is not a number; ``bounds``
    may be an object with "low" and "high".
    """
    low, high = (bounds["low"], bounds["high"]) if isinstance(bounds, Mapping) else bounds
    if not finite(low) or not finite(high):
        return ""
    return f"{100 * low:.1f} to {100 * high:.1f}".replace("-", "−")


def printable(text: str) -> str:
    """Replaces control characters by U+FFFD."""
    return _CONTROL.sub("\ufffd", text)


def text_width(text: str) -> int:
    """How many letters wide a text is: Chinese, Japanese and Korean ones, and emoji, are two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def shortened(text: str, most: float) -> str:
    """A text on one line, cut with "…" if it is wider than ``most`` letters."""
    text = " ".join(text.split())
    if text_width(text) <= most:
        return text
    while text and text_width(text) > most - 1:
        text = text[:-1]
    # A joiner or accent that was cut from what it belongs to would be drawn on the dots.
    return text.rstrip("\u200d\ufe0f ") + "…"


def plural(count: int, noun: str) -> str:
    """``1 shot`` or ``16 shots``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def time_unit(longest: float) -> tuple[float, str]:
    """Returns the seconds in the unit that suits a time of ``longest`` seconds, and its name."""
    units = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"))
    return next((unit for unit in units if longest >= 2 * unit[0]), (1.0, "seconds"))


def duration(seconds: float) -> str:
    """Returns a time in the unit that suits it."""
    scale, unit = time_unit(seconds)
    return f"{seconds / scale:.{int(scale > 60)}f} {unit}"


def inside(share: float) -> float:
    """A share moved into 0 to 1; what is no number stays."""
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else share
