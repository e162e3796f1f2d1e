"""The section on bias probes: what each group is given, by every attribute."""

import re
from collections.abc import Mapping, Sequence

from clip_jax.evals.records import Record
from clip_jax.report.render import Cell, Row, Table
from clip_jax.report.sections.view import View
from clip_jax.report.text import between, percent
from clip_jax.report.types import Details

_SHOWN = 5  # labels of each threshold
_CLASSES = {"default": "The paper’s classes", "with child": "With the class “child” besides"}
_PEOPLE = "person"


def section(
    view: View, records: Sequence[Record]
) -> list[tuple[str, list[dict[str, object]]]] | None:
    """For every record its name and, for every attribute, rates, agreement and labels."""
    shown = []
    for record in records:
        names = dict.fromkeys(row["attribute"] for row in record.details.get("rates") or ())
        if names:
            cards = [_attribute(record.details, name) for name in names]
            shown.append((view.titles(record), cards))
    return shown


def _attribute(details: Details, attribute: str) -> dict[str, object]:
    def of(key: str) -> list[Details]:
        return [row for row in details.get(key) or () if row["attribute"] == attribute]

    rates = of("rates")
    categories = list(dict.fromkeys(r["category"] for r in rates if r["category"] != _PEOPLE))
    groups = [
        (_CLASSES.get(classes, classes), _rates(rates, of("disparities"), classes, categories))
        for classes in dict.fromkeys(row["class_set"] for row in rates)
    ]
    return {
        "attribute": attribute,
        "groups": len({row["group"] for row in rates}) - 1,  # but for "all"
        "rates": Table("given a class", categories, groups, "narrow"),
        "agreement": [
            (sorted(row["rates"], key=lambda rate: _order(rate["group"])), row.get("disparity"))
            for row in of("agreement")
        ],
        "labels": _labels(of("gendered_labels"), details),
    }


def _rates(
    rates: Sequence[Details], gaps: Sequence[Details], classes: str, categories: Sequence[str]
) -> list[Row]:
    """Rows are groups and the largest gap; columns are categories but for people."""
    cells = {(r["group"], r["category"]): r for r in rates if r["class_set"] == classes}
    rows = [
        Row(group, f"n\xa0=\xa0{cells[group, _PEOPLE]['n']:,}",
            [_cell(cells.get((group, name)), "share") for name in categories], group == "all")
        for group in sorted({group for group, _ in cells}, key=_order)
    ]  # fmt: skip
    gap = {row["category"]: row for row in gaps if row["class_set"] == classes}
    if gap:
        values = [_cell(gap.get(name), "difference") for name in categories]
        rows.append(Row("largest gap", "", values))
    return rows


def _cell(row: Mapping[str, float] | None, key: str) -> Cell:
    if row is None:
        return Cell()
    return Cell(percent(row[key]) if key == "share" else f"{100 * row[key]:.1f}", between(row))


def _order(group: str) -> tuple[bool, list[tuple[int, str]]]:
    """Sorts "3-9" before "10-19", and "all" after the others."""
    parts = re.findall(r"([0-9]*)([^0-9]*)", group)
    return group == "all", [(int(digits or -1), text) for digits, text in parts]


def _labels(tables: Sequence[Details], details: Details) -> tuple[str, str, Table] | None:
    """Labels that differ most between two groups: how many there are, logit scale, the table."""
    if not tables:
        return None
    groups = [
        (f"Probability above {100 * table['threshold']:g}%", [
            Row(label["label"], "", [*(Cell(percent(share)) for share in label["shares"]),
                                     Cell(_p_value(label["p_value"]))])
            for label in table["labels"][:_SHOWN]
        ])
        for table in tables
    ]  # fmt: skip
    table = Table("label", [*tables[0]["groups"], "p"], groups, "narrow")
    return f"{details.get('labels', 0):,}", f"{details.get('logit_scale', 0):g}", table


def _p_value(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else "< 0.001"
