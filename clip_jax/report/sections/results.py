"""Tables of an evaluation's report: results, retrieval, worst classes, other tasks, and what was
skipped.
"""

import re
from collections.abc import Sequence

from clip_jax.evals.datasets import published
from clip_jax.evals.records import Record
from clip_jax.report import render, titles
from clip_jax.report.render import Blocks, Cell, Row, Table, result
from clip_jax.report.sections.view import View
from clip_jax.report.text import between, finite, percent, plural
from clip_jax.report.types import Details

_WORST = 10
_RECALL = re.compile(r"(image_to_text|text_to_image)_r@(\d+)")


def results(view: View, scored: Sequence[Record]) -> Blocks | None:
    """Rows by task: value, interval, and what was published for the same model."""
    known = {id(r): published_value(r, r.main_metric) for r in scored}
    groups = [(headline, [_row(r, view, known[id(r)]) for r in of_task])
              for headline, of_task in view.by_task(scored)]  # fmt: skip
    sources = dict.fromkeys(k.source for k in known.values() if k)
    lead = "Below a value, in grey, its 95% interval; on a bar, the thin line."
    if sources:
        lead += (" Red: what was published for the model by the same protocol "
                 f"({'; '.join(sources)}).")  # fmt: skip
    return render.results(lead, groups, "Published" if sources else "")


def published_value(record: Record, name: str) -> published.Published | None:
    """What was published for the record's model, by its protocol, of one metric."""
    if not record.model or not name:
        return None
    known = published.published(
        record.dataset, record.task, record.protocol, record.model, metric=name
    )
    return known[0] if known else None


def _row(record: Record, view: View, known: published.Published | None) -> Row:
    bounds = record.intervals.get(record.main_metric, (None, None))
    notes = [titles.metric(record.main_metric), f"n\xa0=\xa0{record.n:,}"]
    if record.class_names and record.templates:
        notes.append(plural(len(record.templates), "template").replace(" ", "\xa0"))
    if record.details.get("converged") is False:
        notes.append("the fit did not converge")
    bar = (record.value, *bounds, known.value if known else None)
    return result(view.titles(record), ", ".join(notes), bar, between(bounds))


def retrieval(view: View, records: Sequence[Record]) -> Blocks | None:
    """Recall at every k, both ways, with the published values below."""
    recalls = {m[0]: m for r in records for name in r.metrics if (m := _RECALL.fullmatch(name))}
    names = sorted(recalls, key=lambda name: (recalls[name][1], int(recalls[name][2])))
    rows, any_published = [], False
    for record in records:
        known = [published_value(record, name) for name in names]
        any_published |= any(known)
        cells = [
            Cell(percent(record.metrics[name]) if name in record.metrics else "",
                 percent(k.value) if k else "")
            for name, k in zip(names, known, strict=True)
        ]  # fmt: skip
        rows.append(Row(view.titles(record), f"{record.n:,} captions", cells))
    lead = "Share of images that retrieve one of their captions among the best k, and of captions "
    lead += "that retrieve their image." + any_published * " In red: published values."
    columns = [f"{titles.WAYS[m[1]]} R@{m[2]}" for m in map(_RECALL.fullmatch, names)]
    table = Table("Dataset", columns, [("", rows)])
    return Blocks(lead, tables=[("", table, "")]) if names else None


def other(view: View, records: Sequence[Record]) -> Blocks | None:
    """All metrics of tasks that have no section of their own, with their intervals."""
    tables = []
    for headline, of_task in view.by_task(records):
        names = list(dict.fromkeys(name for r in of_task for name in r.metrics))
        rows = [
            Row(view.titles(r), f"n\xa0=\xa0{r.n:,}", [
                Cell(percent(r.metrics[name]), between(r.intervals.get(name, (None, None))))
                if name in r.metrics else Cell() for name in names
            ]) for r in of_task
        ]  # fmt: skip
        columns = [titles.metric(name) for name in names]
        if names:
            tables.append((headline, Table("Dataset", columns, [("", rows)]), ""))
    lead = "All metrics, and below each its 95% interval."
    return Blocks(lead, tables=tables) if tables else None


def worst_classes(view: View) -> list[tuple[str, list[tuple[str, str, str, list[float]]], int]]:
    """For each dataset its name, the ten classes of the lowest recall, and how many there are."""
    cards = []
    for record in view.measured:
        rows = [r for r in record.details.get("per_class") or () if finite(r.get("recall"))]
        worst = [
            (row["name"], percent(row["recall"]), _taken_for(row), [row["recall"]])
            for row in sorted(rows, key=lambda row: row["recall"])[:_WORST]
        ]
        if rows:
            cards.append((view.titles(record), worst, len(rows)))
    return cards


def _taken_for(row: Details) -> str:
    if not row["taken_for_n"]:
        return f"{row['n']:,} images"
    return f"{row['taken_for_n']:,} of {row['n']:,} taken for {row['taken_for']}"


def skipped(view: View) -> list[tuple[str, str, list[str]]]:
    """What has no results: its name, what was to be measured, and why, divided at backquotes."""

    def note(r: Record) -> str:
        task = "any task" if r.task == "any" else view.task(r.task).lower()
        return ", ".join(filter(None, (task, r.split, r.protocol)))

    return [(titles.dataset(r), note(r), r.skipped.split("`")) for r in view.records if r.skipped]
