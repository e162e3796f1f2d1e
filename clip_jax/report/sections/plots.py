"""The plots of an evaluation's report: figures, or None where there is nothing to draw.

They show the records' own figures and compute none.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from clip_jax.evals.records import Record
from clip_jax.report.render import finite, percent
from clip_jax.report.svg import Drawing, Figure, Labels, Scale, percent_ticks
from clip_jax.report.titles import Titles, metric

_WIDTH = 360


def bars(records: Sequence[Record], titles: Titles) -> Figure | None:
    """Zero-shot results as bars, best first: the ensemble of prompts above the plain template."""
    shown = [r for r in records if r.task == "zero_shot" and not r.skipped]
    if not shown:
        return None
    shown = sorted(shown, key=lambda r: -r.value if finite(r.value) else math.inf)
    plain = [(r.details.get("plain") or {}).get(r.main_metric) for r in shown]
    row, top = (27 if any(map(finite, plain)) else 20), 20
    drawing = Drawing(_WIDTH, top + row * len(shown) + 4, "Zero-shot results by dataset")
    x = Scale(0, 1, 130, 312)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        drawing.line([(x(tick), top - 4), (x(tick), top + row * len(shown))], "grid")
        drawing.text((x(tick), 11), percent(tick, 0), "muted", anchor="middle", size=9.5)
    for i, (record, other) in enumerate(zip(shown, plain, strict=True)):
        y = top + row * i
        drawing.text((124, y + 11), titles(record), anchor="end", most=122)
        drawing.box(x(0), y + 2, x(_inside(record.value)), y + 13, "accent")
        ends = record.intervals.get(record.main_metric, ())
        if all(map(finite, ends)):
            drawing.line([(x(_inside(end)), y + 7.5) for end in ends], "ink")
        drawing.text((_WIDTH - 4, y + 12), percent(record.value), anchor="end")
        if finite(other):
            drawing.box(x(0), y + 14.5, x(_inside(other)), y + 18.5, "muted")
            drawing.text((_WIDTH - 4, y + 22), percent(other), "muted", anchor="end", size=9.5)
    keys = [("accent", "all prompts of the protocol, with the 95% interval as a line")]
    keys += [("muted", "“a photo of a {}.” alone")] if any(map(finite, plain)) else []
    return Figure("Zero-shot, by dataset", drawing, keys=keys)


def scatter(records: Sequence[Record], titles: Titles) -> Figure | None:
    """Zero-shot against a linear probe on the same dataset, as in the paper's Figure 8."""
    pairs = []
    probes = {_same(r): r for r in records if r.task == "linear_probe" and not r.skipped}
    for record in records:
        probe = probes.get(_same(record))
        if record.task != "zero_shot" or probe is None:
            continue
        point = probe.metrics.get(record.main_metric, math.nan), record.value
        if all(map(finite, point)):
            pairs.append((record, point))
    if not pairs:
        return None
    low = min(0.8, math.floor(5 * min(min(point) for _, point in pairs)) / 5)
    drawing = Drawing(_WIDTH, 344, f"Zero-shot against linear probe on {len(pairs)} datasets")
    x, y = Scale(low, 1, 38, 340), Scale(low, 1, 304, 8)
    drawing.grid(x, y, percent_ticks(low, 1), percent_ticks(low, 1))
    drawing.line([(x(low), y(low)), (x(1), y(1))], "muted", style="dashed")
    drawing.text((189, 339), "linear probe", "muted", anchor="middle")
    places = [(x(probe), y(zero)) for _, (probe, zero) in pairs]
    labels = Labels(places, right=_WIDTH - 4)
    for (record, (probe, zero)), place in zip(pairs, places, strict=True):
        tip = (
            f"{titles(record)}: zero-shot {percent(zero)}, probe {percent(probe)}, "
            f"{metric(record.main_metric)}"
        )
        drawing.dot(place, "accent", tip)
        labels.draw(drawing, place, titles(record))
    return Figure(
        "Zero-shot (up) against linear probe (across)", drawing,
        "Below the dashed line the probe is better. Names that would hide others are left out.",
    )  # fmt: skip


def few_shot(records: Sequence[Record], titles: Titles) -> list[Figure]:
    """A small card for each curve: the mean over draws, their spread, and zero-shot beside it."""
    cards = []
    for record in records:
        points = [
            (int(p["shots"]), p["mean"], p.get("std"))
            for p in record.details.get("curve") or ()
            if finite(p["mean"])
        ]
        if record.task == "few_shot" and not record.skipped and points:
            cards.append(_curve(record, sorted(points), titles))
    return cards


def _curve(record: Record, points: list[tuple[int, float, float | None]], titles: Titles) -> Figure:
    zero = record.details.get("zero_shot")
    drawing = Drawing(172, 132, f"Few-shot curve of {titles(record)}")
    last = max(math.log2(points[-1][0]), 1)
    # One octave below a single shot is where zero shots are drawn, off the logarithmic scale.
    x, y = Scale(-1, last, 34, 164), Scale(0, 1, 112, 8)
    shots = [p[0] for p in points]
    named = shots[:: -(-len(shots) // 6)]
    drawing.grid(x, y, [], [0, 0.5, 1], size=9)
    for count in named:
        drawing.text((x(math.log2(count)), 125), f"{count}", "muted", anchor="middle", size=9)
    at = [x(math.log2(count)) for count in shots]
    spread = [(p[2] if finite(p[2]) else 0.0) for p in points]
    upper = [(a, y(_inside(p[1] + s))) for a, p, s in zip(at, points, spread, strict=True)]
    lower = [(a, y(_inside(p[1] - s))) for a, p, s in zip(at, points, spread, strict=True)]
    if any(spread):
        drawing.area(upper + lower[::-1], "accent")
    if finite(zero):
        drawing.line([(x(-1), y(zero)), (x(last), y(zero))], "second", style="dashed")
        drawing.text((x(-1), 125), "0", "muted", anchor="middle", size=9)
        drawing.dot((x(-1), y(zero)), "second", f"zero-shot {percent(zero)}", size=3.5)
    drawing.line([(a, y(p[1])) for a, p in zip(at, points, strict=True)], "accent")
    for a, (count, mean, _) in zip(at, points, strict=True):
        drawing.dot((a, y(mean)), "accent", f"{count} shots: {percent(mean)}", size=2.5)
    keys = [("second", f"zero-shot {percent(zero)}")] if finite(zero) else []
    keys.append(("accent", f"{_shots(points[-1][0])} {percent(points[-1][1])}"))
    worth = record.details.get("efficiency")
    note = f"zero-shot is worth {_worth(worth)} shots" if worth else ""
    return Figure(titles(record), drawing, note, keys=keys, small=True)


def efficiency(records: Sequence[Record], titles: Titles) -> Figure | None:
    """How many shots a probe needs to reach zero-shot, by dataset: the paper's Figure 7."""
    shown = [r for r in records if r.task == "few_shot" and not r.skipped]
    found = [(_reach(worth), worth, r) for r in shown if (worth := r.details.get("efficiency"))]
    if not found:
        return None
    found.sort(key=lambda entry: (-entry[0], entry[1]["bound"] != ">"))
    row, top = 20, 20
    most = max(16, *(max(reach, worth["most"]) for reach, worth, _ in found))
    drawing = Drawing(_WIDTH, top + row * len(found) + 4, "Shots that zero-shot is worth")
    x = Scale(0.5, most, 130, 312, math.log2)
    for tick in (2**i for i in range(math.floor(math.log2(most)) + 1)):
        drawing.line([(x(tick), top - 4), (x(tick), top + row * len(found))], "grid")
        drawing.text((x(tick), 11), f"{tick}", "muted", anchor="middle", size=9.5)
    for i, (reach, worth, record) in enumerate(found):
        y = top + row * i
        drawing.text((124, y + 11), titles(record), anchor="end", most=122)
        kind = "muted" if worth["bound"] else "accent"
        drawing.box(x(0.5), y + 2, x(max(reach, 0.6)), y + 13, kind)
        drawing.text((_WIDTH - 4, y + 12), _worth(worth), anchor="end")
    keys = [("accent", "shots at which the probe’s curve crosses zero-shot")]
    if any(worth["bound"] for _, worth, _ in found):
        keys.append(("muted", "it is above with the fewest (≤), or below with the most (>)"))
    return Figure("How many labelled images a class zero-shot is worth", drawing,
                  _median(found), keys=keys)  # fmt: skip


def _reach(worth: Mapping[str, Any]) -> float:
    return worth["most"] if worth["shots"] is None else worth["shots"]


def _worth(worth: Mapping[str, Any]) -> str:
    sign = {"<=": "≤ ", ">": "> "}.get(worth["bound"], "")
    return f"{sign}{_reach(worth):.3g}"


def _median(found: Sequence[tuple[float, Mapping[str, Any], Record]]) -> str:
    """The median over datasets, unless it is one of those whose number is not known."""
    paper = "In the paper, whose curves go on to all training images, it is 5.4 (Figure 7)."
    ranked = sorted(found, key=lambda entry: (entry[0], entry[1]["bound"] == ">"))
    middle = ranked[(len(ranked) - 1) // 2 : len(ranked) // 2 + 1]
    if len(found) < 2 or any(worth["bound"] for _, worth, _ in middle):
        return paper.replace(" it is", " the median is")
    value = statistics.median(reach for reach, *_ in middle)
    return f"Median of {len(found)} datasets: {value:.3g}. {paper}"


def _same(record: Record) -> tuple[str, ...]:
    """What a probe and a zero-shot record of one model on the same images have in common."""
    return (
        record.dataset, record.split, record.protocol, record.model, record.model_fingerprint
    )  # fmt: skip


def _inside(share: float) -> float:
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else share


def _shots(count: int) -> str:
    return "1 shot" if count == 1 else f"{count} shots"
