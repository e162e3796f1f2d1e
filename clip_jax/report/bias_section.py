"""The bias probes in the suite's report: what each group is given, by every attribute."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from clip_jax.evals.records import Record
from clip_jax.report.parts import bar, escaped, percent
from clip_jax.report.titles import Titles

_SHOWN = 5  # labels of each threshold
_CLASSES = {"default": "The paper’s classes", "with child": "With the class “child” besides"}
_PEOPLE = "person"

STYLE = """
.people { align-items: start; }
.people .card { padding: 0; }
.people details table { table-layout: fixed; width: calc(100% - 32px); margin: 0 16px 12px; }
.people td, .people th { padding: 4px 2px; text-align: right; font-size: .88rem; font-weight: 400;
  vertical-align: top; overflow-wrap: anywhere; }
.people th:first-child { text-align: left; width: 31%; }
.people thead th { color: var(--muted); font-size: .82rem; }
.people thead + tbody th[colspan], .people tbody th[colspan] { color: var(--muted);
  font-size: .82rem; padding-top: 10px; border-top: 1px solid var(--line); }
.people td .small, .people .whole .small { display: block; font-size: .74rem; }
.people .whole > * { font-weight: 600; }
.people .note { padding: 0 16px 12px; overflow-wrap: anywhere; }
"""


def probes(records: Sequence[Record], titles: Titles) -> str:
    """For every attribute a card: rates by category, agreement, labels; and the caveats before."""
    parts = []
    for record in records:
        rates = record.details.get("rates") or ()
        if record.task != "bias" or record.skipped or not rates:
            continue
        names = dict.fromkeys(row["attribute"] for row in rates)
        cards = "".join(_card(record.details, name) for name in names)
        parts.append(
            f'<h3 dir="auto">{escaped(titles(record))}</h3><div class="grid rows people">{cards}'
            "</div>"
        )
    return _lead() + "".join(parts) if parts else ""


def _lead() -> str:
    return (
        '<p class="lead">Paper, section 7.1: how often one classifier gives each group’s pictures '
        "a crime-related or non-human class (the others get one of people), and how often its best "
        "class is the annotated one. Small: n and 95% intervals; those of gaps, in points, hold "
        "for all pairs of groups at once. The classes decide much of this: one more, or another "
        "wording, changes who is given the others. Such groups are reductive, agreement with them "
        "is a poor measure of fairness, and nothing here endorses classifying people by race, "
        "gender or age. No gap found is no proof that there is none, nor that a model is fit for "
        "a use.</p>"
    )


def _card(details: Mapping[str, Any], attribute: str) -> str:
    rates = [row for row in details["rates"] if row["attribute"] == attribute]
    count = len({row["group"] for row in rates}) - 1  # but for "all"
    gaps = [row for row in details.get("disparities") or () if row["attribute"] == attribute]
    own = [row for row in details.get("agreement") or () if row["attribute"] == attribute]
    labels = [row for row in details.get("gendered_labels") or () if row["attribute"] == attribute]
    return (
        f'<details class="card" open><summary>By <span dir="auto">{escaped(attribute)}</span> '
        f'<span class="small">{count:,} group{"" if count == 1 else "s"}</span></summary>'
        f"{_rates(rates, gaps)}{''.join(map(_agreement, own))}{_labels(labels, details)}</details>"
    )


def _rates(rates: Sequence[Mapping[str, Any]], gaps: Sequence[Mapping[str, Any]]) -> str:
    """Rows are groups, within the two sets of classes; columns are categories but for people."""
    categories = list(dict.fromkeys(r["category"] for r in rates if r["category"] != _PEOPLE))
    heads = "".join(f'<th scope="col">{escaped(name)}</th>' for name in categories)
    bodies = []
    for classes in dict.fromkeys(row["class_set"] for row in rates):
        of_set = [row for row in rates if row["class_set"] == classes]
        found = {(row["group"], row["category"]): row for row in of_set}
        gap = {row["category"]: row for row in gaps if row["class_set"] == classes}
        rows = "".join(
            _row(f'<span dir="auto">{escaped(group)}</span><br><span class="small">'
                 f"n\xa0=\xa0{found[group, _PEOPLE]['n']:,}</span>",
                 [_share(found.get((group, name))) for name in categories],
                 whole=group == "all")
            for group in sorted({row["group"] for row in of_set}, key=_order)
        )  # fmt: skip
        if gap:
            rows += _row("largest gap", [_gap(gap.get(name)) for name in categories])
        bodies.append(
            f'<tbody><tr><th scope="rowgroup" colspan="{len(categories) + 1}">'
            f"{escaped(_CLASSES.get(classes, classes))}</th></tr>{rows}</tbody>"
        )
    return (
        f'<table><thead><tr><th scope="col">given a class</th>{heads}</tr></thead>'
        f"{''.join(bodies)}</table>"
    )


def _order(group: str) -> tuple[bool, list[tuple[int, str]]]:
    """Sorts "3-9" before "10-19", and "all" after the others."""
    parts = re.findall(r"([0-9]*)([^0-9]*)", group)
    return group == "all", [(int(digits or -1), text) for digits, text in parts]


def _row(head: str, cells: Sequence[str], whole: bool = False) -> str:
    kind = ' class="whole"' if whole else ""
    cells = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr{kind}><th scope="row">{head}</th>{cells}</tr>'


def _share(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return f'{percent(row["share"])}<span class="small">{_between(row["low"], row["high"])}</span>'


def _gap(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    small = f'<span class="small">{_between(row["low"], row["high"])}</span>'
    return f"{100 * row['difference']:.1f}{small}"


def _between(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}".replace("-", "−")


def _agreement(row: Mapping[str, Any]) -> str:
    """Agreement with the labels by group, as bars; and the largest gap."""
    items = "".join(
        f'<li><span dir="auto">{escaped(rate["group"])}</span><span>{percent(rate["share"])}</span>'
        f"{bar(rate['share'], rate['low'], rate['high'])}"
        f'<span class="small">{_between(rate["low"], rate["high"])}, n\xa0=\xa0{rate["n"]:,}</span>'
        "</li>"
        for rate in sorted(row["rates"], key=lambda rate: _order(rate["group"]))
    )
    return (
        '<p class="note small">Agreement of the best class with the labels</p>'
        f"<ol>{items}</ol>{_largest(row.get('disparity'))}"
    )


def _largest(gap: Mapping[str, Any] | None) -> str:
    if not gap:
        return ""
    return (
        f'<p class="note small">Largest gap: {100 * gap["difference"]:.1f} points '
        f'({_between(gap["low"], gap["high"])}), <span dir="auto">{escaped(gap["most"])}</span> '
        f'over <span dir="auto">{escaped(gap["least"])}</span>.</p>'
    )


def _labels(tables: Sequence[Mapping[str, Any]], details: Mapping[str, Any]) -> str:
    """The labels that differ most between two groups, at either threshold."""
    if not tables:
        return ""
    heads = "".join(f'<th scope="col" dir="auto">{escaped(g)}</th>' for g in tables[0]["groups"])
    bodies = "".join(
        f'<tbody><tr><th scope="rowgroup" colspan="4">Probability above '
        f"{100 * table['threshold']:g}%</th></tr>"
        + "".join(
            _row(
                f'<span dir="auto">{escaped(label["label"])}</span>',
                [*map(percent, label["shares"]), _p_value(label["p_value"])],
            )
            for label in table["labels"][:_SHOWN]
        )
        + "</tbody>"
        for table in tables
    )
    return (
        '<p class="note small">Labels that differ most: share of pictures given one, and p by a '
        f"χ² test, corrected for all {details.get('labels', 0):,}. Probabilities are a softmax of "
        f"{details.get('logit_scale', 0):g} × cosine.</p>"
        f'<table><thead><tr><th scope="col">label</th>{heads}<th scope="col">p</th></tr></thead>'
        f"{bodies}</table>"
    )


def _p_value(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else "&lt; 0.001"
