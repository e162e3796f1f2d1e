"""Few-shot probes: accuracy by the number of shots, and how many zero-shot is worth."""

import math
import statistics
from collections.abc import Sequence

from clip_jax.evals.records import Record
from clip_jax.report.charts import Bar, bar_chart
from clip_jax.report.render import Blocks
from clip_jax.report.sections.view import View
from clip_jax.report.svg import Drawing, Figure, Scale, in_percent
from clip_jax.report.text import finite, inside, percent, plural
from clip_jax.report.types import Details

_LEAD = (
    "Accuracy by the number of training images a class, on a logarithmic scale: the mean over "
    "draws, and one standard deviation as a band. The dashed line is zero-shot."
)


def section(view: View, records: Sequence[Record]) -> Blocks | None:
    """A small chart for each dataset, and the shots that zero-shot is worth."""
    curves = []
    for record in records:
        points = [
            (int(p["shots"]), p["mean"], p["std"] if finite(p.get("std")) else 0.0)
            for p in record.details.get("curve") or ()
            if finite(p["mean"])
        ]
        if points:
            curves.append(_curve(record, sorted(points), view))
    worth = _efficiency(view, records)
    return curves and Blocks(
        _LEAD, [("grid small-plots", curves), ("columns plots", [worth] * bool(worth))]
    )


def _curve(record: Record, points: list[tuple[int, float, float]], view: View) -> Figure:
    """The mean over draws, their spread, and zero-shot beside it."""
    zero = record.details.get("zero_shot")
    title = view.titles(record)
    drawing = Drawing(172, 132, f"Few-shot curve of {title}")
    shots, means, spreads = zip(*points, strict=True)
    # One octave below a single shot is where zero shots are drawn, off the logarithmic scale.
    x, y = Scale(-1, max(math.log2(shots[-1]), 1), 34, 164), Scale(0, 1, 112, 8)
    across = [(math.log2(count), f"{count}") for count in shots[:: -(-len(shots) // 6)]]
    across += [(-1, "0")] if finite(zero) else []
    drawing.grid(x, y, across, in_percent([0, 0.5, 1]), size=9, lines=False)
    at = [x(math.log2(count)) for count in shots]
    if any(spreads):
        upper, lower = (
            [(a, y(inside(mean + sign * s)))
             for a, mean, s in zip(at, means, spreads, strict=True)]
            for sign in (1, -1)
        )  # fmt: skip
        drawing.area(upper + lower[::-1], "accent")
    if finite(zero):
        drawing.line([(x.start, y(zero)), (x.end, y(zero))], "second", style="dashed")
        drawing.dot((x.start, y(zero)), "second", f"zero-shot {percent(zero)}", size=3.5)
    line = [(a, y(mean)) for a, mean in zip(at, means, strict=True)]
    drawing.line(line, "accent")
    for place, count, mean in zip(line, shots, means, strict=True):
        drawing.dot(place, "accent", f"{count} shots: {percent(mean)}", size=2.5)
    keys = [("second", f"zero-shot {percent(zero)}")] if finite(zero) else []
    keys.append(("accent", f"{plural(shots[-1], 'shot')} {percent(means[-1])}"))
    worth = record.details.get("efficiency")
    note = f"zero-shot is worth {_worth(worth)} shots" if worth else ""
    return Figure(title, drawing, note, keys=keys, small=True)


def _efficiency(view: View, records: Sequence[Record]) -> Figure | None:
    """How many shots a probe needs to reach zero-shot, by dataset: the paper's Figure 7."""
    known = [(w, r) for r in records if (w := r.details.get("efficiency"))]
    if not known:
        return None
    known.sort(key=lambda entry: (-_reach(entry[0]), entry[0]["bound"] != ">"))
    most = max(16, *(max(_reach(worth), worth["most"]) for worth, _ in known))
    bars = [
        Bar(view.titles(record), max(_reach(worth), 0.6), _worth(worth),
            "muted" if worth["bound"] else "accent")
        for worth, record in known
    ]  # fmt: skip
    ticks = [(2**i, f"{2**i}") for i in range(math.floor(math.log2(most)) + 1)]
    drawing = bar_chart(
        "Shots that zero-shot is worth", bars, Scale(0.5, most, 130, 312, math.log2), ticks
    )
    keys = [("accent", "shots at which the probe’s curve crosses zero-shot")]
    if any(worth["bound"] for worth, _ in known):
        keys.append(("muted", "it is above with the fewest (≤), or below with the most (>)"))
    title = "How many labelled images a class zero-shot is worth"
    return Figure(title, drawing, _median([worth for worth, _ in known]), keys)


def _reach(worth: Details) -> float:
    return worth["most"] if worth["shots"] is None else worth["shots"]


def _worth(worth: Details) -> str:
    sign = {"<=": "≤ ", ">": "> "}.get(worth["bound"], "")
    return f"{sign}{_reach(worth):.3g}"


def _median(known: Sequence[Details]) -> str:
    """The median over datasets, unless it is one of those whose number is not known."""
    paper = "In the paper, whose curves go on to all training images, it is 5.4 (Figure 7)."
    ranked = sorted(known, key=lambda worth: (_reach(worth), worth["bound"] == ">"))
    middle = ranked[(len(ranked) - 1) // 2 : len(ranked) // 2 + 1]
    if len(known) < 2 or any(worth["bound"] for worth in middle):
        return paper.replace(" it is", " the median is")
    return f"Median of {len(known)} datasets: {statistics.median(map(_reach, known)):.3g}. {paper}"
