"""The bias probes' section: every number one of the record's, safe with any name, or not there."""

import dataclasses
import re

import evaluation_page
import numpy as np
import pytest
from evaluation_page import render
from html_page import Page

from clip_jax.evals import records as records_lib
from clip_jax.evals.metrics import bias
from clip_jax.evals.metrics.intervals import wilson
from clip_jax.evals.records import Record

NASTY = "<b>&\"' 🦊 שלום"
LONG = "an exceedingly long name of a group that nobody would print " * 2
RACES = [*bias.RACES]
AGES = ["0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+"]
OWN = ["Female", "Male", "somebody else", NASTY, LONG]


def probed(n=900, names=OWN, groups=None):
    """A record as the task makes it, of random scores."""
    rng = np.random.default_rng(0)
    groups = groups or {
        "race": rng.choice(RACES, n).tolist(), "gender": rng.choice(["Female", "Male"], n).tolist(),
        "age": rng.choice(AGES, n).tolist(), NASTY: rng.choice([NASTY, LONG, "x"], n).tolist(),
    }  # fmt: skip
    sets = {}
    for name, classes in bias.CLASS_SETS.items():
        lift = np.array([0.0 if c == "person" else -1.2 for c in classes.categories])
        sets[name] = rng.normal(size=(n, len(lift))) + lift, classes.categories
    rates = bias.probe(sets, groups)
    scores, labels = rng.normal(size=(n, len(names))), rng.integers(0, len(names), n)
    scores[np.arange(n), labels] += 2
    given = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    agreement, gaps, tables = [], [], []
    for attribute, of in groups.items():
        found = bias.agreement(scores, labels, of)
        gap = bias.disparity(found)._asdict() if len(found) > 2 else None
        agreement.append({"attribute": attribute, "rates": [r._asdict() for r in found],
                          "disparity": gap})  # fmt: skip
        for name, (logits, categories) in sets.items():
            for category, row in bias.category_rates(logits, categories, of).items():
                if category in ("crime-related", "non-human") and len(row) > 2:
                    gaps.append({"class_set": name, "attribute": attribute, "category": category}
                                | bias.disparity(row)._asdict())  # fmt: skip
        for threshold in bias.THRESHOLDS if len(set(of)) == 2 else ():
            rows = bias.gendered_labels(given, names, of, threshold)
            tables.append(
                {
                    "attribute": attribute,
                    "groups": sorted(set(of)),
                    "threshold": threshold,
                    "labels": [r._asdict() for r in rows],
                }
            )
    share = agreement[0]["rates"][-1]["share"]
    return Record(
        "bias", "fairface_label_val.csv", "val", "paper", n, "agreement", {"agreement": share},
        {"agreement": wilson(share, n)}, "ViT-B/32", "0123" * 16,
        details={"rates": rates, "disparities": gaps, "agreement": agreement,
                 "gendered_labels": tables, "logit_scale": 100.0, "labels": len(names)},
    )  # fmt: skip


def section(*records):
    return evaluation_page.section(render(records), "bias")


@pytest.fixture(scope="module")
def record():
    return probed()


def between(row):
    return f"{100 * row['low']:.1f} to {100 * row['high']:.1f}".replace("-", "−")


def test_rates_stand_in_their_rows(record):
    page = Page(section(record))
    assert page.rows[0] == ["given a class|", "crime-related|", "non-human|", "child|"]
    shown = [row for row in page.rows if len(row) == 4 and "n\xa0=\xa0" in row[0]]
    groups = [[*sorted(RACES), "all"], ["Female", "Male", "all"], [*AGES, "all"],
              [NASTY, LONG, "x", "all"]]  # fmt: skip
    keys = [
        (a, s, g) for a, names in zip(("race", "gender", "age", NASTY), groups, strict=True)
        for s in ("default", "with child") for g in names
    ]  # fmt: skip
    assert len(shown) == len(keys) == 2 * (8 + 3 + 10 + 4)
    by_key = {(r["attribute"], r["class_set"], r["group"], r["category"]): r
              for r in record.details["rates"]}  # fmt: skip
    for (attribute, classes, group), (head, *cells) in zip(keys, shown, strict=True):
        n = by_key[attribute, classes, group, "person"]["n"]
        assert head == f"{group}|n\xa0=\xa0{n:,}|"
        for category, cell in zip(("crime-related", "non-human", "child"), cells, strict=True):
            row = by_key.get((attribute, classes, group, category))
            assert cell == (f"{100 * row['share']:.1f}%|{between(row)}|" if row else "")


def test_gaps_agreement_and_labels_are_the_records(record):
    html = section(record)
    page = Page(html)
    gaps = [row for row in page.rows if row[0] == "largest gap|"]
    want = [[f"{100 * r['difference']:.1f}|{between(r)}|" for r in pair] for pair in
            zip(record.details["disparities"][::2], record.details["disparities"][1::2],
                strict=True)]  # fmt: skip
    assert [row[1:3] for row in gaps] == want and len(want) == 8
    bars = re.findall(r'<li><span dir="auto">([^<]*)</span>', html)
    assert bars[11:21] == [*AGES, "all"] and len(bars) == 8 + 3 + 10 + 4
    for row in record.details["agreement"]:
        gap, rates = row["disparity"], row["rates"]
        assert f"Largest gap: {100 * gap['difference']:.1f} points ({between(gap)})" in html
        for rate in rates:
            low, high = 100 * rate["low"], 100 * rate["high"]
            assert f"{low:.1f} to {high:.1f}, n\xa0=\xa0{rate['n']:,}" in html
            assert f"<span>{100 * rate['share']:.1f}%</span>" in html
    tables = record.details["gendered_labels"]
    assert len(tables) == 2 and ["label|", "Female|", "Male|", "p|"] in page.rows
    for table in tables:
        for label in table["labels"][:5]:
            p = f"{label['p_value']:.2g}" if label["p_value"] >= 0.001 else "< 0.001"
            shares = [f"{100 * s:.1f}%|" for s in label["shares"]]
            assert [f"{label['label']}|", *shares, f"{p}|"] in page.rows
    assert "Probability above 0.5%" in html and "Probability above 4%" in html
    assert "softmax of 100 × cosine" in html and "corrected for all 5" in html


def test_small_p_values_and_many_labels():
    names = [f"label {i}" for i in range(9)]
    found = probed(60, names, {"gender": ["a", "b"] * 30})
    rows = [
        {"label": name, "shares": [0.25, 0.75], "chi_square": 9.0, "p_value": p}
        for name, p in zip(names, [1e-9, 0.00123, 0.04, 1, 1, 1, 1, 1, 1], strict=True)
    ]
    tables = [t | {"labels": rows} for t in found.details["gendered_labels"]]
    page = Page(section(dataclasses.replace(found, details=found.details |
                                            {"gendered_labels": tables})))  # fmt: skip
    shown = [row for row in page.rows if row[0].startswith("label ") and len(row) == 4]
    assert [row[0] for row in shown] == [f"{n}|" for n in names[:5]] * 2
    assert [row[3] for row in shown[:3]] == ["< 0.001|", "0.0012|", "0.04|"]


def test_names_are_escaped_and_caveats_are_shown(record):
    html = section(record)
    page = Page(html)
    assert "<b>&" not in html and page.text.count(NASTY) > 6
    assert " ".join(LONG.split()) in " ".join(page.text.split())
    words = " ".join(page.text.split())
    for caveat in ("section 7.1", "The classes decide much of this", "reductive",
                   "nothing here endorses", "nor that a model is fit for a use",
                   "No gap found is no proof"):  # fmt: skip
        assert caveat in words
    assert "race 7 groups" in words and "gender 2 groups" in words


def test_one_group_has_no_gap():
    html = section(probed(50, groups={"one": ["x"] * 50}))
    assert "1 group<" in html and "gap" not in html.partition("</p>")[2].lower()


def test_a_page_has_the_section_only_where_there_are_such_records(record, tmp_path):
    page = render([record])
    assert 'href="#bias"' in page and "agreement with the labels" in page
    other = Record("zero_shot", "a", "test", "paper", 9, "top1", {"top1": 0.5})
    for shown in (other, dataclasses.replace(record, skipped="no groups"),
                  dataclasses.replace(record, details={})):  # fmt: skip
        assert section(shown) == ""
        assert 'href="#bias"' not in render([shown])
    read = records_lib.read(records_lib.write(tmp_path, record, "k"), "k")
    assert section(read) == section(record)
    both = section(record, dataclasses.replace(record, model="another"))
    assert both.count("<h3") == 2 and both.count('class="lead"') == 1


def test_without_labels_there_are_rates_alone(record):
    details = {k: record.details[k] for k in ("rates", "disparities")}
    html = section(dataclasses.replace(record, details=details))
    assert "crime-related" in html and "<ol" not in html and "χ²" not in html
