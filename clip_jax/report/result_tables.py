"""The tables of the suite's report: results, retrieval, confusions, and what was skipped."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clip_jax.evals.datasets import published
from clip_jax.evals.records import Record
from clip_jax.report.parts import bar, escaped, finite, percent
from clip_jax.report.titles import TASKS, Titles, data_set, metric, task

_WORST = 10
_RECALL = re.compile(r"(image_to_text|text_to_image)_r@(\d+)")


def results(records: Sequence[Record], titles: Titles) -> str:
    """One row for each result: value, interval, and what was published for the same model."""
    bodies, sources = [], []
    for name, group in _by_task(records):
        rows = []
        for record in group:
            known = published_value(record, record.main_metric)
            sources += [known.source] if known else []
            rows.append(_row(record, titles, known))
        bodies.append(
            f'<tbody role="rowgroup"><tr role="row"><th scope="rowgroup" colspan="4" '
            f'role="rowheader" class="group">{escaped(task(name))}</th></tr>{"".join(rows)}</tbody>'
        )
    if not bodies:
        return ""
    lead = "Below a value, in grey, its 95% interval; on a bar, the thin line."
    if sources:
        which = "; ".join(dict.fromkeys(sources))
        lead += f" Red: what was published for the model by the same protocol ({which})."
    return (
        f'<p class="lead">{escaped(lead)}</p><div class="card suite"><table role="table">'
        '<thead role="rowgroup"><tr role="row"><th scope="col" role="columnheader">Data set</th>'
        '<td class="wide"></td><th scope="col" role="columnheader">Result</th>'
        f'<th scope="col" role="columnheader">{"Published" if sources else ""}</th></tr></thead>'
        f"{''.join(bodies)}</table></div>"
    )


def published_value(record: Record, name: str) -> published.Published | None:
    """What was published for the record's model, by its protocol, of one metric."""
    if not record.model or not name:
        return None
    found = published.published(
        record.dataset, record.task, record.protocol, record.model, metric=name
    )
    return found[0] if found else None


def _row(record: Record, titles: Titles, known: published.Published | None) -> str:
    low, high = record.intervals.get(record.main_metric, (None, None))
    facts = [metric(record.main_metric), f"n\xa0=\xa0{record.n:,}"]
    if record.task == "zero_shot" and record.templates:
        many = len(record.templates) > 1
        facts.append(f"{len(record.templates):,}\xa0template{'s' if many else ''}")
    if record.details.get("converged") is False:
        facts.append("the fit did not converge")
    shown = bar(record.value, low, high, known.value if known else None)
    return (
        f'<tr role="row"><th scope="row" role="rowheader"><span dir="auto">'
        f'{escaped(titles(record))}</span><div class="small">{escaped(", ".join(facts))}</div></th>'
        f'<td class="wide" role="cell">{shown}</td>'
        f'<td class="number" role="cell"><b>{percent(record.value)}</b>'
        f'<div class="small">{_between(low, high)}</div></td>'
        f'<td class="number" role="cell">{percent(known.value) if known else ""}</td></tr>'
    )


def _between(low: float | None, high: float | None) -> str:
    if not finite(low) or not finite(high):
        return ""
    return f"{100 * low:.1f} to {100 * high:.1f}"


def retrieval(records: Sequence[Record], titles: Titles) -> str:
    """Recall at every k, both ways, with the published values below."""
    shown = [r for r in records if r.task == "retrieval" and not r.skipped]
    found = [m for r in shown for name in r.metrics if (m := _RECALL.fullmatch(name))]
    if not found:
        return ""
    ks = sorted({int(m[2]) for m in found})
    ways = ("image_to_text", "text_to_image")
    names = [f"{way}_r@{k}" for way in ways for k in ks]
    bodies, red = [], False
    for record in shown:
        ours = _cells("", [record.metrics.get(name) for name in names], "b")
        known = [published_value(record, name) for name in names]
        theirs = _cells("theirs", [k.value if k else None for k in known], "span")
        red = red or any(known)
        bodies.append(
            f'<tbody><tr><th scope="rowgroup" colspan="{len(names)}" dir="auto">'
            f'{escaped(titles(record))}<span class="small">, {record.n:,} captions</span></th></tr>'
            f"{ours}{theirs if any(known) else ''}</tbody>"
        )
    heads = "".join(
        f'<th scope="colgroup" colspan="{len(ks)}">{words}</th>'
        for words in ("Image → text", "Text → image")
    )
    return (
        '<p class="lead">Share of pictures that find one of their captions among the best k, and '
        f"of captions that find their picture.{' In red: published values.' if red else ''}</p>"
        f'<div class="card recalls"><table><thead><tr>{heads}</tr><tr>'
        + "".join(f'<th scope="col">R@{k}</th>' for _ in ways for k in ks)
        + f"</tr></thead>{''.join(bodies)}</table></div>"
    )


def _cells(kind: str, values: Sequence[float | None], tag: str) -> str:
    cells = "".join(
        f"<td>{'' if v is None else f'<{tag}>{percent(v)}</{tag}>'}</td>" for v in values
    )
    return f'<tr class="{kind}">{cells}</tr>' if kind else f"<tr>{cells}</tr>"


def confusions(records: Sequence[Record], titles: Titles) -> str:
    """For each data set the ten classes that fare worst, and what they are taken for."""
    cards = []
    for record in records:
        rows = [
            row for row in record.details.get("per_class") or () if finite(row.get("recall"))
        ]  # fmt: skip
        if record.task == "zero_shot" and not record.skipped and rows:
            cards.append(_worst(titles(record), rows, opened=not cards))
    if not cards:
        return ""
    return (
        '<p class="lead">The classes with the lowest recall: the share of a class’s pictures that '
        "the classifier takes for it. Below each, what it is taken for most.</p>"
        f'<div class="worst">{"".join(cards)}</div>'
    )


def _worst(title: str, rows: Sequence[Mapping[str, Any]], opened: bool) -> str:
    worst = sorted(rows, key=lambda row: row["recall"])[:_WORST]
    items = "".join(
        f'<li><span dir="auto">{escaped(row["name"])}</span>'
        f"<span>{percent(row['recall'])}</span>{bar(row['recall'])}"
        f'<span class="small" dir="auto">{_taken_for(row)}</span></li>'
        for row in worst
    )
    return (
        f'<details class="card"{" open" if opened else ""}><summary><span dir="auto">'
        f'{escaped(title)}</span> <span class="small">{len(worst)} of {len(rows):,} classes</span>'
        f"</summary><ol>{items}</ol></details>"
    )


def _taken_for(row: Mapping[str, Any]) -> str:
    if not row["taken_for_n"]:
        return f"{row['n']:,} pictures"
    return f"{row['taken_for_n']:,} of {row['n']:,} taken for {escaped(row['taken_for'])}"


def skipped(records: Sequence[Record]) -> str:
    """What there are no figures of, and why; commands stand out."""
    items = "".join(
        f'<li><b dir="auto">{escaped(data_set(r))}</b> <span class="small">'
        f"{escaped(', '.join(filter(None, (_asked(r), r.split, r.protocol))))}</span>"
        f"<p>{_with_code(r.skipped)}</p></li>"
        for r in records
        if r.skipped
    )
    return f'<ul class="card skipped">{items}</ul>' if items else ""


def _asked(record: Record) -> str:
    return "any task" if record.task == "any" else task(record.task).lower()


def _with_code(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", escaped(text))


def _by_task(records: Sequence[Record]) -> Iterable[tuple[str, list[Record]]]:
    """Results, those of one task together, in the order of ``TASKS``."""
    shown = [r for r in records if not r.skipped]
    names = dict.fromkeys([*TASKS, *(r.task for r in shown)])
    groups = ((name, [r for r in shown if r.task == name]) for name in names)
    return [(name, group) for name, group in groups if group]
