"""The section on bias probes: what each group is given, by every attribute."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from clip_jax.evals.records import Record
from clip_jax.report.render import between, percent
from clip_jax.report.titles import Titles

_SHOWN = 5  # labels of each threshold
_CLASSES = {"default": "The paper’s classes", "with child": "With the class “child” besides"}
_PEOPLE = "person"

Cells = list[tuple[str, str]]  # value and note


def probes(records: Sequence[Record], titles: Titles) -> list[tuple[str, list[dict[str, Any]]]]:
    """For every record its name and, for every attribute, rates, agreement and labels."""
    shown = []
    for record in records:
        rates = record.details.get("rates") or ()
        if record.task == "bias" and not record.skipped and rates:
            names = dict.fromkeys(row["attribute"] for row in rates)
            shown.append((titles(record), [_attribute(record.details, name) for name in names]))
    return shown


def _attribute(details: Mapping[str, Any], attribute: str) -> dict[str, Any]:
    def of(key: str) -> list[Mapping[str, Any]]:
        return [row for row in details.get(key) or () if row["attribute"] == attribute]

    rates, gaps = of("rates"), of("disparities")
    categories = list(dict.fromkeys(r["category"] for r in rates if r["category"] != _PEOPLE))
    return {
        "attribute": attribute,
        "groups": len({row["group"] for row in rates}) - 1,  # but for "all"
        "categories": categories,
        "rates": [
            (_CLASSES.get(classes, classes), _rates(rates, gaps, classes, categories))
            for classes in dict.fromkeys(row["class_set"] for row in rates)
        ],
        "agreement": [
            (sorted(row["rates"], key=lambda rate: _order(rate["group"])), row.get("disparity"))
            for row in of("agreement")
        ],
        "labels": _labels(of("gendered_labels"), details),
    }


def _rates(
    rates: Sequence[Mapping[str, Any]], gaps: Sequence[Mapping[str, Any]], classes: str,
    categories: Sequence[str],
) -> list[tuple[str, str, Cells, bool]]:  # fmt: skip
    """Rows are groups and the largest gap; columns are categories but for people."""
    cells = {(r["group"], r["category"]): r for r in rates if r["class_set"] == classes}
    rows = [
        (group, f"n\xa0=\xa0{cells[group, _PEOPLE]['n']:,}",
         [_cell(cells.get((group, name)), "share") for name in categories], group == "all")
        for group in sorted({group for group, _ in cells}, key=_order)
    ]  # fmt: skip
    gap = {row["category"]: row for row in gaps if row["class_set"] == classes}
    if gap:
        found = [_cell(gap.get(name), "difference") for name in categories]
        rows.append(("largest gap", "", found, False))
    return rows


def _cell(row: Mapping[str, Any] | None, key: str) -> tuple[str, str]:
    if row is None:
        return "", ""
    return percent(row[key]) if key == "share" else f"{100 * row[key]:.1f}", between(row)


def _order(group: str) -> tuple[bool, list[tuple[int, str]]]:
    """Sorts "3-9" before "10-19", and "all" after the others."""
    parts = re.findall(r"([0-9]*)([^0-9]*)", group)
    return group == "all", [(int(digits or -1), text) for digits, text in parts]


def _labels(
    tables: Sequence[Mapping[str, Any]], details: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The labels that differ most between two groups, at either threshold."""
    if not tables:
        return None
    rows = [
        (f"{100 * table['threshold']:g}", [
            (label["label"], "", [(s, "") for s in (*map(percent, label["shares"]),
                                                    _p_value(label["p_value"]))])
            for label in table["labels"][:_SHOWN]
        ])
        for table in tables
    ]  # fmt: skip
    return {
        "groups": tables[0]["groups"],
        "count": f"{details.get('labels', 0):,}",
        "logit_scale": f"{details.get('logit_scale', 0):g}",
        "tables": rows,
    }


def _p_value(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else "< 0.001"
