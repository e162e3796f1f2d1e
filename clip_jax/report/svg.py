"""Drawings that stand in the page itself: lines, dots and words, as SVG elements.

The figures of matplotlib are pictures with letters of its own font. Here names of data sets and
classes are drawn, in any script: so the reader's fonts draw them. Colours are the page's, which
makes one drawing serve both modes. Coordinates are CSS pixels on a narrow screen; wider ones
enlarge the drawing.
"""

import math
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from clip_jax.report.parts import escaped, percent

Point = tuple[float, float]

_LETTER = 0.58  # width of a letter by its height: an average, as no font is known here


class Scale(NamedTuple):
    """From values to pixels: ``low`` is at ``start``, ``high`` at ``end``, and what lies between
    them where ``through`` puts it.
    """

    low: float
    high: float
    start: float
    end: float
    through: Callable[[float], float] = float

    def __call__(self, value: float) -> float:
        low, high, at = (self.through(v) for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)


class Drawing:
    """A drawing, element by element; what is drawn later lies on top.

    ``kind`` is a class of the style sheet, which has the colour: "accent", "second", "muted",
    "grid" or "ink".
    """

    def __init__(self, width: float, height: float, description: str):
        self.width, self.height = width, height
        self._head = (
            f'<svg class="plot" viewBox="0 0 {width:g} {height:g}" role="img" '
            f'aria-label="{escaped(description)}">'
        )
        self._parts: list[str] = []

    def line(self, points: Sequence[Point], kind: str, *, dashed: bool = False) -> None:
        """A line through the points; one with a coordinate that is not a number is left out."""
        path = _path(points)
        if path.count(" "):
            dash = " dashed" if dashed else ""
            self._parts.append(f'<polyline class="line {kind}{dash}" points="{path}"/>')

    def area(self, points: Sequence[Point], kind: str) -> None:
        """A pale area with these corners."""
        if path := _path(points):
            self._parts.append(f'<polygon class="area {kind}" points="{path}"/>')

    def box(self, left: float, top: float, right: float, bottom: float, kind: str) -> None:
        """A filled rectangle with round corners."""
        if not all(map(math.isfinite, (left, top, right, bottom))):
            return
        width, height = max(right - left, 0), bottom - top
        self._parts.append(
            f'<rect class="box {kind}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" rx="{min(2, height / 2):g}"/>'
        )

    def dot(self, at: Point, kind: str, tip: str = "", *, size: float = 4) -> None:
        """A dot; a pointer that rests on it shows ``tip``."""
        if all(map(math.isfinite, at)):
            self._parts.append(
                f'<circle class="dot {kind}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{size:g}">'
                f"{_title(tip)}</circle>"
            )

    def text(
        self, at: Point, words: str, kind: str = "ink", *, anchor: str = "start", size: float = 11,
        most: float = math.inf,
    ) -> None:  # fmt: skip
        """Words on one line, ``anchor`` of them at the point: "start", "middle" or "end".

        What is wider than ``most`` is cut; a pointer that rests on it shows the whole.
        """
        shown = shortened(words, most / (_LETTER * size))
        tip = _title(words if shown != words else "")
        self._parts.append(
            f'<text class="{kind}" x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{anchor}" '
            f'font-size="{size:g}">{tip}{escaped(shown)}</text>'
        )

    def grid(
        self, x: Scale, y: Scale, across: Sequence[float], up: Sequence[float], size: float = 10
    ) -> None:
        """Lines at the shares ``across`` and ``up``, which are named below and on the left."""
        for tick in up:
            self.line([(x.start, y(tick)), (x.end, y(tick))], "grid")
            at = x.start - 5, y(tick) + 0.35 * size
            self.text(at, percent(tick, 0), "muted", anchor="end", size=size)
        for tick in across:
            self.line([(x(tick), y.start), (x(tick), y.end)], "grid")
            at = x(tick), y.start + 1.5 * size
            self.text(at, percent(tick, 0), "muted", anchor="middle", size=size)

    def __str__(self) -> str:
        return f"{self._head}{''.join(self._parts)}</svg>"


def figure(
    title: str,
    drawing: Drawing,
    note: str = "",
    *,
    keys: Sequence[tuple[str, str]] = (),
    small: bool = False,
) -> str:
    """Returns a card with a drawing, its title, what its colours mean, and a note.

    Args:
      title, note: text, escaped here.
      drawing: see ``Drawing``.
      keys: (kind, meaning) of colours.
      small: whether the card is one of many.
    """
    key = "".join(f'<span><i class="{kind}"></i>{escaped(words)}</span>' for kind, words in keys)
    return (
        f'<figure class="card{" small-plot" if small else ""}"><figcaption dir="auto">'
        f"{escaped(title)}</figcaption>{drawing}"
        + (f'<p class="small key">{key}</p>' if key else "")
        + (f'<p class="small">{escaped(note)}</p>' if note else "")
        + "</figure>"
    )


class Labels:
    """Finds places for the names of dots, where they hide neither each other nor a dot."""

    def __init__(self, dots: Sequence[Point], right: float, size: float = 9.5):
        self.right, self.size = right, size
        self._taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in dots]

    def draw(self, drawing: Drawing, dot: Point, words: str, kind: str = "ink") -> bool:
        """Draws a name beside, above or below its dot; says if there was a place for it."""
        x, y = dot
        words = shortened(words, 22)
        width, half = text_width(words) * _LETTER * self.size, 0.4 * self.size
        for left, middle in (
            (x + 6, y),
            (x - 6 - width, y),
            (x - width / 2, y - 10),
            (x - width / 2, y + 10),
            (x + 4, y - 8),
            (x + 4, y + 8),
        ):
            box = (left, middle - half, left + width, middle + half)
            if (
                left < 30
                or box[2] > self.right
                or any(_overlap(box, other) for other in self._taken)
            ):
                continue
            self._taken.append(box)
            drawing.text((left, middle + half), words, kind, size=self.size)
            return True
        return False


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


def percent_ticks(low: float, high: float) -> list[float]:
    """Round values from ``low`` to ``high``, some four to six."""
    step = next(s for s in (0.02, 0.05, 0.1, 0.2, 0.25) if (high - low) / s <= 5.01 or s == 0.25)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points if math.isfinite(x) and math.isfinite(y))


def _title(words: str) -> str:
    return f"<title>{escaped(words)}</title>" if words else ""


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
