"""Drawings: lines, dots and words, as SVG elements of a page.

The page's style sheet has the colors, so one drawing serves light and dark mode, and names in any
script are drawn by the reader's fonts. Coordinates are CSS pixels on a narrow screen; wider ones
enlarge the drawing.
"""

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from clip_jax.report.text import percent, printable, shortened, text_width

Point = tuple[float, float]
Tick = tuple[float, str]  # where a line is, and its name

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

    ``kind`` is a class of the style sheet, which has the color: "accent", "second" to "sixth",
    "muted", "grid" or "ink". What has a coordinate that is not a number is left out.

    Attributes:
      root: the ``svg`` element.
    """

    def __init__(self, width: float, height: float, description: str):
        self.width, self.height = width, height
        self.root = ET.Element("svg", {
            "class": "plot", "viewBox": f"0 0 {width:g} {height:g}", "role": "img",
            "aria-label": description,
        })  # fmt: skip

    def _add(self, tag: str, kind: str, tip: str = "", **attributes: float | str) -> ET.Element:
        """An element with coordinates (to a tenth of a pixel) and texts as its attributes."""
        texts = {
            name.replace("_", "-"): value if isinstance(value, str) else f"{value:.1f}"
            for name, value in attributes.items()
        }
        element = ET.SubElement(self.root, tag, {"class": kind} | texts)
        if tip:
            ET.SubElement(element, "title").text = tip
        return element

    def line(self, points: Sequence[Point], kind: str, *, style: str = "") -> None:
        """A line through the points; ``style``: "" or some of "dashed", "strong" and "pale"."""
        path = _path(points)
        if path.count(" "):
            self._add("polyline", f"line {kind} {style}".strip(), points=path)

    def area(self, points: Sequence[Point], kind: str) -> None:
        """A pale area with these corners."""
        if path := _path(points):
            self._add("polygon", f"area {kind}", points=path)

    def box(self, left: float, top: float, right: float, bottom: float, kind: str) -> None:
        """A filled rectangle with round corners."""
        if all(map(math.isfinite, (left, top, right, bottom))):
            width, height = max(right - left, 0.0), float(bottom - top)
            self._add("rect", f"box {kind}", x=left, y=top, width=width, height=height,
                      rx=f"{min(2, height / 2):g}")  # fmt: skip

    def dot(self, at: Point, kind: str, tip: str = "", *, size: float = 4) -> None:
        """A dot; a pointer that rests on it shows ``tip``."""
        if all(map(math.isfinite, at)):
            self._add("circle", f"dot {kind}", tip, cx=at[0], cy=at[1], r=f"{size:g}")

    def text(
        self, at: Point, words: str, kind: str = "ink", *, anchor: str = "start", size: float = 11,
        most: float = math.inf,
    ) -> None:  # fmt: skip
        """Words on one line, ``anchor`` of them at the point: "start", "middle" or "end"; cut to
        ``most`` pixels, where a pointer that rests on them shows the whole.
        """
        shown = shortened(words, most / (_LETTER * size))
        element = self._add("text", kind, words if shown != words else "", x=at[0], y=at[1],
                            text_anchor=anchor, font_size=f"{size:g}")  # fmt: skip
        if len(element):
            element[0].tail = shown
        else:
            element.text = shown

    def grid(
        self, x: Scale, y: Scale, across: Sequence[Tick], up: Sequence[Tick], *, size: float = 10,
        lines: bool = True,
    ) -> None:  # fmt: skip
        """Lines at the values ``up``, named on the left, and, with ``lines``, at those ``across``,
        named below.
        """
        for tick, name in up:
            self.line([(x.start, y(tick)), (x.end, y(tick))], "grid")
            at = x.start - 5, y(tick) + 0.35 * size
            self.text(at, name, "muted", anchor="end", size=size)
        for tick, _ in across if lines else ():
            self.line([(x(tick), y.end), (x(tick), y.start)], "grid")
        for tick, name in across:
            self.text((x(tick), y.start + 1.5 * size), name, "muted", anchor="middle", size=size)

    def __html__(self) -> str:
        return printable(ET.tostring(self.root, encoding="unicode"))


class Figure(NamedTuple):
    """A drawing, its title, (kind, meaning) of its colors, and a note; small: one of many."""

    title: str
    drawing: Drawing
    note: str = ""
    keys: Sequence[tuple[str, str]] = ()
    small: bool = False


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
        places = ((6, 0), (-6 - width, 0), (-width / 2, -10), (-width / 2, 10), (4, -8), (4, 8))
        for left, middle in ((x + across, y + down) for across, down in places):
            box = (left, middle - half, left + width, middle + half)
            free = not any(_overlap(box, other) for other in self._taken)
            if left >= 30 and box[2] <= self.right and free:
                self._taken.append(box)
                drawing.text((left, middle + half), words, kind, size=self.size)
                return True
        return False


def ticks(low: float, high: float, *, inside: bool = False) -> list[float]:
    """Round values, some three to six, from at or below ``low`` to at or above ``high``; with
    ``inside``, those that lie between them.
    """
    high = high if high > low else low + 1.0
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= (high - low) / 5.001)
    first, last = low / step, high / step
    first, last = (first, last) if inside else (math.floor(first + 1e-9), math.ceil(last - 1e-9))
    return [i * step for i in range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)]


def in_percent(values: Iterable[float]) -> list[Tick]:
    """Ticks at fractions, named in whole per cent."""
    return [(value, percent(value, 0)) for value in values]


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points if math.isfinite(x) and math.isfinite(y))


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
