"""The section on test images that are in the training data."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clip_jax.evals.metrics import overlap
from clip_jax.evals.records import Record
from clip_jax.report.render import between, finite, percent, points
from clip_jax.report.titles import Titles
from clip_jax.report.types import Pairs


def section(records: Sequence[Record], titles: Titles, pairs: Pairs) -> dict[str, Any] | None:
    """The table of all datasets, most overlap first, and each one's most similar pairs."""
    shown = [r for r in records if r.task == "overlap" and not r.skipped and _row(r)]
    ranked = list(itertools.chain.from_iterable(_corrected(group) for group in _groups(shown)))
    rows = [(titles(record), _note(record), _cells(row)) for record, row in ranked]
    cards = [_pairs(record, titles, pairs) for record, _ in ranked]
    return {"rows": rows, "pairs": cards, "shown": bool(pairs)} if rows else None


def _row(record: Record) -> overlap.OverlapRow | None:
    """The record's row; JSON has null where there is no number."""
    stored = record.details.get("row")
    if not stored:
        return None
    return overlap.OverlapRow(**{k: math.nan if v is None else v for k, v in stored.items()})


def _groups(records: Sequence[Record]) -> Iterable[list[Record]]:
    """Records that are tested together: datasets of one model, protocol and way of comparing."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for r in records:
        key = (r.model, r.model_fingerprint, r.protocol, r.details.get("by"))
        groups.setdefault(key, []).append(r)
    return groups.values()


def _corrected(group: Sequence[Record]) -> list[tuple[Record, overlap.OverlapRow]]:
    rows = [_row(record)._replace(name=str(i)) for i, record in enumerate(group)]
    return [(group[int(row.name)], row) for row in overlap.table(rows)]


def _note(record: Record) -> str:
    known = record.details
    sign, unit = ("≤", " bits") if known["unit"] == "bits" else ("≥", " cosine")
    return (
        f"{record.n:,} images against {known['training_pictures']:,}, "
        f"{sign}\xa0{known['threshold']:g}{unit}"
    )


def _cells(row: overlap.OverlapRow) -> list[tuple[str, ...]]:
    interval = between((row.low, row.high))
    return [
        (percent(row.contamination), f"{row.n_overlap:,}"),
        (percent(row.all),),
        (percent(row.clean),),
        (percent(row.overlap), interval and f"99.5%: {interval}"),
        (points(row.difference) if finite(row.difference) else "–",),
        (f"{row.p_corrected:.2g}" if finite(row.p_corrected) else "–",),
    ]


def _pairs(record: Record, titles: Titles, pairs: Pairs) -> tuple[str, list[Any], list[Any]]:
    """Its name; pairs as (test, value, training); and with images (found, value, images...)."""
    unit = record.details["unit"]
    known = record.details.get("pairs") or ()
    listed = [(p["test"], _value(p, unit), p["training"]) for p in known]
    loaded = [(p["found"], _value(p, unit), *both) for p, *both in pairs.get(record.file_name, ())]
    return titles(record), listed, loaded


def _value(pair: Mapping[str, Any], unit: str) -> str:
    value = pair[unit]
    return f"{value} bit{'' if value == 1 else 's'}" if unit == "bits" else f"{value:.3f}"
