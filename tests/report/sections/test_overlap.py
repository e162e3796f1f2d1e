"""The report's overlap section: Bonferroni over its datasets, and pairs that can be looked at."""

import math
import re

import evaluation_page
import numpy as np
import pytest
from evaluation_page import render

from clip_jax.evals.metrics import overlap
from clip_jax.evals.records import Record, read, write

NASTY = "a/<b>&\"' 🦊 שלום"


def record(name, correct, found, by="embedding", **more):
    row = overlap.compare(name, np.array(correct), np.array(found))
    fields = {k: None if isinstance(v, float) and math.isnan(v) else v
              for k, v in row._asdict().items() if k != "p_corrected"}  # fmt: skip
    unit, values = ("cosine", (0.9876, 0.9512)) if by == "embedding" else ("bits", (1, 5))
    pairs = [
        {"test": f"{NASTY}/{i}", "training": f"training/{i}", "test_index": i, "training_index": i,
         unit: value, "found": i == 0, "correct": True}
        for i, value in enumerate(values)
    ]  # fmt: skip
    details = {"row": fields, "by": by, "unit": unit, "threshold": 0.95 if unit == "cosine" else 6,
               "training": "folder:x", "training_pictures": 12345, "pairs": pairs,
               "around": pairs}  # fmt: skip
    metrics = {"contamination": row.contamination, "all": row.all}
    common = {"split": "test", "protocol": "paper", "model": "m", "n": row.n}
    return Record("overlap", name, main_metric="contamination", metrics=metrics,
                  intervals={"contamination": (0.0, 1.0)}, details=details,
                  **(common | more))  # fmt: skip


RNG = np.random.default_rng(0)
FOUND = [np.arange(40) < k for k in (4, 12, 0)]
CORRECT = [RNG.random(40) < 0.5 for _ in FOUND]
CORRECT[0][:4] = True


def records(**more):
    return [record(f"set {i}", c, f, **more) for i, (c, f) in enumerate(zip(CORRECT, FOUND,
            strict=True))]  # fmt: skip


def section(shown, **options):
    return evaluation_page.section(render(shown, **options), "overlap")


def table(html):
    """name -> the cells' text."""
    rows = re.findall(r'<tr role="row"><th scope="row".*?</tr>', html, re.DOTALL)
    found = {}
    for row in rows:
        name, *cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        text = [re.sub(r"<[^>]*>", " ", cell).split() for cell in cells]
        found[re.search(r'dir="auto">([^<]*)', name)[1]] = [" ".join(words) for words in text]
    return found


def test_table_is_arithmetic_with_bonferroni_over_two_tests():
    stats = pytest.importorskip("scipy.stats")
    shown = table(section(records()))
    assert list(shown) == ["set 1", "set 0", "set 2"]  # most overlap first
    for i, (c, f) in enumerate(zip(CORRECT, FOUND, strict=True)):
        cells, clean = shown[f"set {i}"], c[~f].mean()
        assert cells[0] == f"{f.mean():.1%} {f.sum()}" and cells[1] == f"{c.mean():.1%}"
        assert cells[2] == f"{clean:.1%}"
        if not f.any():
            assert cells[3:] == ["–", "0.0", "–"]
            continue
        low, high = stats.binomtest(int(c[f].sum()), int(f.sum())).proportion_ci(0.995, "exact")
        assert cells[3] == f"{c[f].mean():.1%} 99.5%: {100 * low:.1f} to {100 * high:.1f}"
        difference = f"{100 * (c.mean() - clean):+.1f}".replace("-", "−")
        assert cells[4] == difference
        # The third dataset has no overlap, and is no test.
        p = stats.binomtest(int(c[f].sum()), int(f.sum()), clean, "greater").pvalue
        assert cells[5] == f"{min(1, 2 * p):.2g}"


def test_models_and_ways_are_corrected_apart():
    alone = table(section(records()))
    both = table(section(records() + records(model="other")))
    protocols = table(section(records() + records(protocol="datacomp")))
    hashed = table(section(records() + records(by="hash", split="val")))
    for name, cells in alone.items():
        assert both[f"{name}, m"] == both[f"{name}, other"] == cells
        assert protocols[f"{name}, paper"] == protocols[f"{name}, datacomp"] == cells
        assert hashed[f"{name}, test"] == hashed[f"{name}, val"] == cells


def test_it_is_no_result_of_the_model():
    shown = [*records(), Record("zero_shot", "z", "test", "paper", 9, "top1", {"top1": 0.5})]
    html = render(shown)
    assert html.count('class="value"') == 1
    assert "set 0" not in re.search('<section id="results".*?</section>', html, re.DOTALL)[0]
    assert 'id="results"' not in render(records())
    assert section([Record("overlap", "a", "test", "paper", skipped="no images")]) == ""
    assert section(shown[3:]) == ""


def test_pairs_are_listed_and_shown():
    rng = np.random.default_rng(0)
    [one, *_] = made = records()
    image = lambda: rng.integers(0, 256, (8, 8, 3), np.uint8)  # noqa: E731
    loaded = [(pair, image(), image()) for pair in one.details["pairs"]]
    html = section(made, pairs={one.file_name: loaded})
    assert html.count("<img") == 4 and html.count('alt="Training image"') == 2
    assert html.count("<details") == 3 and html.count('class="card paired"') == 1
    assert "0.988 found</li>" in html and "0.951</li>" in html
    assert html.count("<span>0.988</span>") == 3
    assert "a/&lt;b&gt;&amp;&#34;&#39; 🦊 שלום/0" in html and "training/1" in html
    assert "40 images against 12,345, ≥\xa00.95 cosine" in html
    bits = section(records(by="hash"))
    assert "<span>1 bit</span>" in bits and "<span>5 bits</span>" in bits and "≤\xa06 bits" in bits
    assert "<img" not in bits and "paired" not in bits


def test_records_that_were_read_look_the_same(tmp_path):
    made = records()
    again = [read(write(tmp_path, r, "k"), "k") for r in made]
    assert render(again) == render(made)
    bare = [Record("overlap", "a", "test", "paper", 3, "contamination", {"contamination": 0.5})]
    assert section(bare) == ""
