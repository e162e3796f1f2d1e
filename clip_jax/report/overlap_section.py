"""The report's section on test pictures that are in the training data."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from clip_jax.evals.metrics import overlap
from clip_jax.evals.records import Record
from clip_jax.report.parts import escaped, finite, percent, picture, right_class
from clip_jax.report.tables import folding, points, valued
from clip_jax.report.titles import Titles
from clip_jax.report.types import Pairs

_LEAD = (
    "Test pictures whose most similar training picture passes a threshold are Overlap, the others "
    "Clean; what Clean lacks of the accuracy on All may be memory. p: how probable so many hits "
    "on Overlap are at Clean’s accuracy, times the number of data sets (Bonferroni). How many "
    "copies were missed is unknown, and Overlap may be easier or harder for other reasons; "
    "embeddings also call pictures alike that only mean the same: look at the pairs before "
    "trusting a threshold."
)
_PAIRS = (
    "The most similar ones and those just above and below the threshold, test picture above "
    "training picture; green ones count as found."
)
_COLUMNS = ("Found", "All", "Clean", "Overlap", "All − Clean", "p")


def section(records: Sequence[Record], titles: Titles, pairs: Pairs) -> str:
    """The table of all data sets, most overlap first, and each one's most similar pairs."""
    shown = [r for r in records if r.task == "overlap" and not r.skipped and _row(r)]
    if not shown:
        return ""
    ranked = list(itertools.chain.from_iterable(_corrected(group) for group in _groups(shown)))
    rows = [(_name(record, titles), _cells(row)) for record, row in ranked]
    cards = [_pairs(record, titles, pairs) for record, _ in ranked]
    return (
        f'<p class="lead">{escaped(_LEAD)}</p>{folding("Data set", _COLUMNS, rows)}'
        f'<h3>Pairs of pictures</h3><p class="lead">{_PAIRS if pairs else ""}</p>'
        f'<div class="worst">{"".join(cards)}</div>'
    )


def _row(record: Record) -> overlap.OverlapRow | None:
    """The record's row; JSON has null where there is no number."""
    found = record.details.get("row")
    if not found:
        return None
    given = {k: math.nan if v is None else v for k, v in found.items()}
    return overlap.OverlapRow(**given)


def _groups(records: Sequence[Record]) -> Iterable[list[Record]]:
    """Records that are tested together: data sets of one model, protocol and way of comparing."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for r in records:
        key = (r.model, r.model_fingerprint, r.protocol, r.details.get("by"))
        groups.setdefault(key, []).append(r)
    return groups.values()


def _corrected(group: Sequence[Record]) -> list[tuple[Record, overlap.OverlapRow]]:
    rows = [_row(record)._replace(name=str(i)) for i, record in enumerate(group)]
    return [(group[int(row.name)], row) for row in overlap.table(rows)]


def _name(record: Record, titles: Titles) -> str:
    known = record.details
    sign, unit = ("≤", " bits") if known["unit"] == "bits" else ("≥", " cosine")
    facts = (
        f"{record.n:,} pictures against {known['training_pictures']:,}, "
        f"{sign}\xa0{known['threshold']:g}{unit}"
    )
    title = f'<span dir="auto">{escaped(titles(record))}</span>'
    return f'{title}<div class="small">{escaped(facts)}</div>'


def _cells(row: overlap.OverlapRow) -> list[str]:
    between = f"{100 * row.low:.1f} to {100 * row.high:.1f}" if finite(row.low) else ""
    return [
        valued(percent(row.contamination), f"{row.n_overlap:,}"),
        valued(percent(row.all)),
        valued(percent(row.clean)),
        valued(percent(row.overlap), between and f"99.5%: {between}"),
        valued(points(row.difference) if finite(row.difference) else "–"),
        valued(f"{row.p_corrected:.2g}" if finite(row.p_corrected) else "–"),
    ]


def _pairs(record: Record, titles: Titles, pairs: Pairs) -> str:
    known = record.details
    listed, loaded = known.get("pairs") or [], pairs.get(record.file_name, ())
    pictures = "".join(_pictures(*entry, known["unit"]) for entry in loaded)
    items = "".join(
        f'<li><span dir="auto">{escaped(pair["test"])}</span>'
        f"<span>{_value(pair, known['unit'])}</span>"
        f'<span class="small" dir="auto">{escaped(pair["training"])}</span></li>'
        for pair in listed
    )
    title = f'<span dir="auto">{escaped(titles(record))}</span>'
    words = f"the {len(listed)} most similar pairs"
    if not pictures:
        return (
            f'<details class="card"><summary>{title} <span class="small">{words}</span></summary>'
            f"<ol>{items}</ol></details>"
        )
    return (
        f'<div class="card paired"><p>{title}</p><ol class="strip">{pictures}</ol>'
        f"<details><summary>{words.capitalize()}</summary><ol>{items}</ol></details></div>"
    )


def _pictures(
    pair: Mapping[str, Any], test: np.ndarray, training: np.ndarray, unit: str
) -> str:  # fmt: skip
    return (
        f"<li{right_class(pair['found'])}>{picture(test, 'Test picture')}"
        f"{picture(training, 'Training picture')}{_value(pair, unit)}"
        f"{' found' if pair['found'] else ''}</li>"
    )


def _value(pair: Mapping[str, Any], unit: str) -> str:
    value = pair[unit]
    return f"{value} bit{'' if value == 1 else 's'}" if unit == "bits" else f"{value:.3f}"
