"""Tables of an evaluation's report: results, retrieval, confusions, and what was skipped."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from clip_jax.evals.datasets import published
from clip_jax.evals.records import Record
from clip_jax.report.render import Row, between, finite
from clip_jax.report.titles import TASKS, Titles, data_set, metric, task

_WORST = 10
_RECALL = re.compile(r"(image_to_text|text_to_image)_r@(\d+)")
_WAYS = ("image_to_text", "text_to_image")


def results(records: Sequence[Record], titles: Titles) -> dict[str, Any]:
    """Rows by task: value, interval, and what was published for the same model."""
    shown = [r for r in records if not r.skipped]
    known = {id(r): published_value(r, r.main_metric) for r in shown}
    names = dict.fromkeys([*TASKS, *(r.task for r in shown)])
    groups = [(task(n), [_row(r, titles, known[id(r)]) for r in shown if r.task == n])
              for n in names]  # fmt: skip
    sources = dict.fromkeys(k.source for k in known.values() if k)
    lead = "Below a value, in grey, its 95% interval; on a bar, the thin line."
    if sources:
        lead += (" Red: what was published for the model by the same protocol "
                 f"({'; '.join(sources)}).")  # fmt: skip
    reference = "Published" if sources else ""
    return shown and {"lead": lead, "reference": reference, "groups": [g for g in groups if g[1]]}


def published_value(record: Record, name: str) -> published.Published | None:
    """What was published for the record's model, by its protocol, of one metric."""
    if not record.model or not name:
        return None
    known = published.published(
        record.dataset, record.task, record.protocol, record.model, metric=name
    )
    return known[0] if known else None


def _row(record: Record, titles: Titles, known: published.Published | None) -> Row:
    low, high = record.intervals.get(record.main_metric, (None, None))
    notes = [metric(record.main_metric), f"n\xa0=\xa0{record.n:,}"]
    if record.task == "zero_shot" and record.templates:
        many = len(record.templates) > 1
        notes.append(f"{len(record.templates):,}\xa0template{'s' if many else ''}")
    if record.details.get("converged") is False:
        notes.append("the fit did not converge")
    return Row(titles(record), ", ".join(notes), record.value, low, high, between((low, high)),
               known.value if known else None)  # fmt: skip


def retrieval(records: Sequence[Record], titles: Titles) -> dict[str, Any] | None:
    """Recall at every k, both ways, with the published values below."""
    shown = [r for r in records if r.task == "retrieval" and not r.skipped]
    ks = sorted({int(m[2]) for r in shown for name in r.metrics if (m := _RECALL.fullmatch(name))})
    names = [f"{way}_r@{k}" for way in _WAYS for k in ks]
    rows = []
    for record in shown:
        known = [published_value(record, name) for name in names]
        theirs = [k.value if k else None for k in known] if any(known) else []
        ours = [record.metrics.get(name) for name in names]
        rows.append((titles(record), f"{record.n:,}", ours, theirs))
    return {"ks": ks, "rows": rows, "published": any(row[3] for row in rows)} if ks else None


def confusions(
    records: Sequence[Record], titles: Titles
) -> list[tuple[str, list[Mapping[str, Any]], int]]:
    """For each dataset its name, the ten classes of the lowest recall, and how many there are."""
    cards = []
    for record in records:
        rows = [r for r in record.details.get("per_class") or () if finite(r.get("recall"))]
        if record.task == "zero_shot" and not record.skipped and rows:
            worst = sorted(rows, key=lambda row: row["recall"])[:_WORST]
            worst = [row | {"note": _taken_for(row)} for row in worst]
            cards.append((titles(record), worst, len(rows)))
    return cards


def _taken_for(row: Mapping[str, Any]) -> str:
    if not row["taken_for_n"]:
        return f"{row['n']:,} images"
    return f"{row['taken_for_n']:,} of {row['n']:,} taken for {row['taken_for']}"


def skipped(records: Sequence[Record]) -> list[tuple[str, str, list[str]]]:
    """What has no results: its name, what was asked for, and why, divided at backquotes."""
    return [
        (data_set(r), ", ".join(filter(None, (_asked(r), r.split, r.protocol))),
         r.skipped.split("`"))
        for r in records if r.skipped
    ]  # fmt: skip


def _asked(record: Record) -> str:
    return "any task" if record.task == "any" else task(record.task).lower()
