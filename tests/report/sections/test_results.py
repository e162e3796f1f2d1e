"""Results beside what was published, retrieval, worst classes, other tasks, what was skipped."""

import dataclasses
import math
import re

import pytest
from evaluation_page import MODEL, measured, realistic, render, section
from markupsafe import escape

from clip_jax.evals.datasets import published
from clip_jax.evals.datasets.catalog import CATALOG


@pytest.fixture(scope="module")
def records():
    return realistic()


@pytest.fixture(scope="module")
def html(records):
    return render(records)


def test_results_show_value_interval_and_what_was_published(records, html):
    rows = section(html, "results").split("<tr ")
    for record in records:
        if record.skipped:
            continue
        title = CATALOG[record.dataset].title if record.dataset in CATALOG else record.dataset
        value = f'data-head="Result">{100 * record.value:.1f}%<'
        low, high = (100 * bound for bound in record.intervals[record.main_metric])
        fitting = [
            row for row in rows
            if f">{escape(title)}</span>" in row and value in row
            and f"{low:.1f} to {high:.1f}" in row and f"n\xa0=\xa0{record.n:,}" in row
        ]  # fmt: skip
        assert fitting, (title, record.task)
        known = published.published(
            record.dataset, record.task, record.protocol, MODEL, record.main_metric
        )
        cell = '<td role="cell" data-head="Published">{}</td>'
        shown = cell.format(f"{100 * known[0].value:.1f}%" if known else "")
        assert (any if known else all)(shown in row for row in fitting), (title, record.task)
    assert "paper, Table 11" in html


def test_worst_classes_are_the_ten_with_the_lowest_recall():
    rows = [
        {"index": i, "name": f"class {i}", "n": 50, "recall": i / 20, "precision": math.nan,
         "taken_for": "other" if i else "", "taken_for_n": 50 - i if i else 0}
        for i in reversed(range(12))
    ]  # fmt: skip
    rows.append(rows[0] | {"name": "unseen", "recall": None})
    rows.append(rows[0] | {"name": "unseen too", "recall": math.nan})
    details = {"per_class": rows}
    page = section(render([measured("zero_shot", "a", 9, "top1", 0.5, details)]),
                   "confusions")  # fmt: skip
    assert re.findall(r'dir="auto">(class \d+)<', page) == [f"class {i}" for i in range(10)]
    assert "10 of 12 classes" in page and "unseen" not in page
    assert "49 of 50 taken for other" in page and page.count("taken for other") == 9
    assert page.count("50 images") == 1


def test_skipped_ones_are_listed_with_the_reason(records, html):
    found = section(html, "skipped")
    assert found.count("<li>") == 4 and "Hateful Memes" in found
    assert "<code>hf download clip-benchmark/wds_birdsnap --repo-type=dataset</code>" in found
    assert "Hateful Memes" not in section(html, "results")


def test_retrieval_lies_beside_what_was_published():
    values = {f"{way}_r@{k}": 0.001 * k for way in ("image_to_text", "text_to_image")
              for k in (1, 5, 10)}  # fmt: skip
    found = measured("retrieval", "COCO", 25_010, "image_to_text_r@1", 0.001,
                     model="ViT-L/14@336")  # fmt: skip
    page = section(render([dataclasses.replace(found, metrics=values)]), "retrieval")
    cells = re.findall(r'<td role="cell"[^>]*>([^<]*)<div class="small">([^<]*)', page)
    known = published.published("COCO", "retrieval", "paper", "ViT-L/14@336")
    by_metric = {row.metric: row.value for row in known}
    assert [ours for ours, _ in cells] == ["0.1%", "0.5%", "1.0%"] * 2
    assert [theirs for _, theirs in cells] == [f"{by_metric[name]:.1%}" for name in values]
    assert cells[0][1] == "58.4%" and "25,010 captions" in page
