"""The section on test images that are in the training data."""

import math
from collections.abc import Iterable, Sequence

from clip_jax.evals.metrics import overlap
from clip_jax.evals.records import Record
from clip_jax.report.render import Cell, Row, Table
from clip_jax.report.sections.view import View
from clip_jax.report.text import between, finite, percent, plural, points
from clip_jax.report.types import Details

_COLUMNS = ("Found", "All", "Clean", "Overlap", "All − Clean", "p")


def section(view: View, records: Sequence[Record]) -> dict[str, object] | None:
    """The table of all datasets, most overlap first, and each one's most similar pairs."""
    measured = [(r, row) for r in records if (row := _row(r))]
    ranked = list(_corrected(measured))
    rows = [Row(view.titles(record), _note(record), _cells(row)) for record, row in ranked]
    pairs = [_pairs(record, view) for record, _ in ranked]
    table = Table("Dataset", _COLUMNS, [("", rows)])
    return {"table": table, "pairs": pairs, "shown": bool(view.pairs)} if rows else None


def _row(record: Record) -> overlap.OverlapRow | None:
    """The record's row; JSON has null where there is no number."""
    stored = record.details.get("row") or {}
    row = {k: math.nan if v is None else v for k, v in stored.items()}
    return overlap.OverlapRow(**row) if row else None


Measured = tuple[Record, overlap.OverlapRow]


def _corrected(measured: Sequence[Measured]) -> Iterable[Measured]:
    """Corrects what is tested together: datasets of one model, protocol and way of comparing."""
    groups: dict[tuple[str | None, ...], list[Measured]] = {}
    for r, row in measured:
        key = (r.model, r.model_fingerprint, r.protocol, r.details.get("by"))
        groups.setdefault(key, []).append((r, row))
    for group in groups.values():
        rows = [row._replace(name=str(i)) for i, (_, row) in enumerate(group)]
        yield from ((group[int(row.name)][0], row) for row in overlap.table(rows))


def _note(record: Record) -> str:
    known = record.details
    sign, unit = ("≤", " bits") if known["unit"] == "bits" else ("≥", " cosine")
    return (
        f"{record.n:,} images against {known['training_pictures']:,}, "
        f"{sign}\xa0{known['threshold']:g}{unit}"
    )


def _cells(row: overlap.OverlapRow) -> list[Cell]:
    interval = between((row.low, row.high))
    return [
        Cell(percent(row.contamination), f"{row.n_overlap:,}"),
        Cell(percent(row.all)),
        Cell(percent(row.clean)),
        Cell(percent(row.overlap), interval and f"99.5%: {interval}"),
        Cell(points(row.difference) if finite(row.difference) else "–"),
        Cell(f"{row.p_corrected:.2g}" if finite(row.p_corrected) else "–"),
    ]


def _pairs(record: Record, view: View) -> tuple[str, list[tuple[str, ...]], list[tuple]]:
    """Its name; pairs as (test, value, training); and with images (found, value, images...)."""
    unit = record.details["unit"]
    listed = [(p["test"], _value(p, unit), p["training"]) for p in record.details.get("pairs", ())]
    with_images = view.pairs.get(record.file_name, ())
    loaded = [(p["found"], _value(p, unit), *images) for p, *images in with_images]
    return view.titles(record), listed, loaded


def _value(pair: Details, unit: str) -> str:
    return plural(pair[unit], "bit") if unit == "bits" else f"{pair[unit]:.3f}"
