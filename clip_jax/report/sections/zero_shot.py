"""Zero-shot classification: by dataset, under natural shift, and beside probes.

The plots show the records' own numbers and compute none.
"""

import math
from collections.abc import Sequence

from clip_jax.evals.records import Record
from clip_jax.report import titles
from clip_jax.report.charts import Bar, Dot, bar_chart, scatter_chart
from clip_jax.report.render import Blocks
from clip_jax.report.sections import robustness
from clip_jax.report.sections.view import View
from clip_jax.report.svg import Figure, Scale, in_percent, ticks
from clip_jax.report.text import finite, inside, percent

SECTION = "zero-shot"


def section(view: View, records: Sequence[Record]) -> Blocks | None:
    """Results as bars, and what ImageNet's accuracy becomes under natural shift."""
    rows = robustness.rows(view, records)
    drawn = [_bars(view, records), robustness.plot(rows, view.compared)]
    shifts = robustness.table(rows, view.compared)
    figures = [figure for figure in drawn if figure]
    return Blocks("", [("columns plots", figures)], [shifts] if shifts else ()) if figures else None


def _bars(view: View, records: Sequence[Record]) -> Figure | None:
    """The ensemble of prompts above the plain template, best first."""
    if not records:
        return None
    bars = []
    for r in sorted(records, key=lambda r: -r.value if finite(r.value) else math.inf):
        ends = r.intervals.get(r.main_metric, ())
        plain = (r.details.get("plain") or {}).get(r.main_metric)
        ends = [inside(end) for end in ends] if all(map(finite, ends)) else ()
        plain = plain if finite(plain) else None
        bars.append(Bar(view.titles(r), inside(r.value), percent(r.value), ends=ends, below=plain))
    x = Scale(0, 1, 130, 312)
    drawing = bar_chart(
        "Zero-shot results by dataset", bars, x, in_percent((0, 0.25, 0.5, 0.75, 1))
    )
    keys = [("accent", "all prompts of the protocol, with the 95% interval as a line")]
    if any(bar.below is not None for bar in bars):
        keys.append(("muted", "“a photo of a {}.” alone"))
    return Figure("Zero-shot, by dataset", drawing, keys=keys)


def against_probes(view: View, probes: Sequence[Record]) -> Blocks | None:
    """Zero-shot against a linear probe on the same dataset, as in the paper's Figure 8."""
    probe_of = {_images(r): r for r in probes}
    dots = []
    for record in view.of(SECTION):
        probe = probe_of.get(_images(record))
        point = probe and (probe.metrics.get(record.main_metric, math.nan), record.value)
        if point and all(map(finite, point)):
            name, metric = view.titles(record), titles.metric(record.main_metric)
            tip = f"{name}: zero-shot {percent(point[1])}, probe {percent(point[0])}, {metric}"
            dots.append(Dot(name, point, tip))
    if not dots:
        return None
    low = min(0.8, math.floor(5 * min(min(dot.at) for dot in dots)) / 5)
    drawing = scatter_chart(
        f"Zero-shot against linear probe on {len(dots)} datasets", dots, (low, 1),
        ticks(low, 1, inside=True), [(low, low), (1, 1)], "linear probe",
    )  # fmt: skip
    note = "Below the dashed line the probe is better. Names that would hide others are left out."
    figure = Figure("Zero-shot (up) against linear probe (across)", drawing, note)
    return Blocks("", [("columns plots", [figure])])


def _images(record: Record) -> tuple[str, ...]:
    """What a probe and a zero-shot record of one model on the same images have in common."""
    return (
        record.dataset, record.split, record.protocol, record.model, record.model_fingerprint
    )  # fmt: skip
