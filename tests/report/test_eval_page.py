"""The suite's page: complete, self-contained, safe with any name, and every number a record's."""

import dataclasses
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from html_page import Page
from markupsafe import escape

from clip_jax.evals import records as records_room
from clip_jax.evals.datasets import published
from clip_jax.evals.datasets.catalog import CATALOG
from clip_jax.evals.metrics import robustness
from clip_jax.evals.metrics.intervals import wilson
from clip_jax.evals.records import Record
from clip_jax.report import eval_page

NASTY = "<b>&\"' 🦊 漢字 $x^$ שלום"
ESCAPED = "&lt;b&gt;&amp;&#34;&#39; 🦊 漢字 $x^$ שלום"
LONG = "an exceedingly long class name that nobody would print " * 3
NAMES = ["tabby cat", "🦊 fox", "富士山", LONG, "<script>alert(1)</script>", "crème brûlée", "שלום"]
MODEL = "ViT-B/32"

COMMON = {
    "split": "test",
    "protocol": "paper",
    "model": MODEL,
    "model_fingerprint": "5ac99f1e20b1" * 5 + "0123",
    "data_fingerprint": "d" * 64,
    "preprocess": {"image_size": 224, "resize": "shortest", "interpolation": "bicubic",
                   "mean": [0.48145466, 0.4578275, 0.40821073], "fill": 0},
    "seconds": 41.5,
}  # fmt: skip


def measured(task, dataset, n, metric, value, details=None, **more):
    return Record(
        task=task, dataset=dataset, n=n, main_metric=metric, metrics={metric: value},
        intervals={metric: wilson(value, n)}, details=details or {}, **(COMMON | more),
    )  # fmt: skip


def confused(rng, names, n=50):
    rows = []
    for i, name in enumerate(names):
        recall = float(rng.uniform(0, 1))
        other = int((i + 1) % len(names))
        rows.append({"index": i, "name": name, "n": n, "recall": recall, "precision": 0.5,
                     "taken_for": names[other], "taken_for_n": int((1 - recall) * n)})  # fmt: skip
    rows.append({"index": len(names), "name": "never seen", "n": 0, "recall": None,
                 "precision": None, "taken_for": "", "taken_for_n": 0})  # fmt: skip
    return rows


def zero_shot(rng, name, entry, value):
    names = [f"{NAMES[i % 7]} {i}" for i in range(min(entry.classes, 30))]
    details = {"plain": {entry.metric: max(value - float(rng.uniform(-0.02, 0.08)), 0.01)}}
    if entry.kind == "classification":
        details["per_class"] = confused(rng, names)
    value += float(rng.uniform(-0.004, 0.004))
    found = measured("zero_shot", name, entry.test, entry.metric, value, details,
                     class_names=names, templates=["a photo of a {}."] * 80)  # fmt: skip
    return dataclasses.replace(found, metrics=found.metrics | {"top1": value})


def few_shot(rng, name, entry, zero):
    means = [zero + 0.13 * (i - 1.5) * (1 - zero) for i in range(5)]
    curve = [
        {"shots": 2**i, "mean": mean, "std": 0.04 / (i + 1), "values": [mean] * 3}
        for i, mean in enumerate(means)
    ]
    worth = {"shots": 3.4, "bound": "", "most": 16}
    details = {"curve": curve, "zero_shot": zero, "efficiency": worth}
    return measured("few_shot", name, entry.test, "top1@16", means[-1], details)


def realistic():
    """A suite as it comes: some forty records of OpenAI's ViT-B/32, a few data sets missing."""
    rng = np.random.default_rng(0)
    missing = ("Birdsnap", "Kinetics700", "HatefulMemes", "UCF101")
    records = []
    for name, entry in CATALOG.items():
        if entry.kind == "retrieval":
            values = {f"{way}_r@{k}": v for way, v0 in (("image_to_text", 0.79),
                      ("text_to_image", 0.59)) for k, v in ((1, v0), (5, v0 + 0.1),
                      (10, v0 + 0.15))}  # fmt: skip
            found = measured("retrieval", name, 5 * entry.test, "image_to_text_r@1", 0.79)
            records.append(dataclasses.replace(found, metrics=values))
            continue
        if name in missing:
            why = (f"{name} ({entry.title}), split 'test', is not here: get it by `hf download "
                   f"clip-benchmark/wds_{name.lower()} --repo-type=dataset`.")  # fmt: skip
            records.append(Record(task="any", dataset=name, skipped=why, **COMMON))
            continue
        known = published.published(name, "zero_shot", model=MODEL, metric=entry.metric)
        value = known[0].value if known else 0.45
        records.append(zero_shot(rng, name, entry, value))
        if probe := published.published(name, "linear_probe", "paper", MODEL, entry.metric):
            better = probe[0].value + float(rng.uniform(-0.004, 0.004))
            if len(records) % 3 == 0:
                records.append(measured("linear_probe", name, entry.test, entry.metric, better))
            if len(records) % 4 == 0:
                records.append(few_shot(rng, name, entry, value))
    records.append(zero_shot(rng, NASTY, CATALOG["CIFAR10"], 0.31))
    records.append(zero_shot(rng, LONG, CATALOG["CIFAR10"], 0.62))
    return records


def gallery():
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (20, 24, 3), np.uint8) for _ in range(6)]
    return [
        (NASTY, [(picture, i == 1) for i, picture in enumerate(pictures)]),
        (LONG, pictures),
    ]


def section(html, name):
    return re.search(f'<section id="{name}".*?</section>', html, re.DOTALL)[0]


def percents(text):
    """All percentages, without those that name the lines of a plot."""
    text = re.sub(r'<text class="muted"[^>]*>[0-9]+%</text>', "", text)
    return set(re.findall(r"[0-9]+\.[0-9]%", text))


@pytest.fixture(scope="module")
def records():
    return realistic()


@pytest.fixture(scope="module")
def html(records):
    return eval_page.render(records, gallery())


def test_page_is_well_formed_and_self_contained(html):
    page = Page(html)
    tags = {tag for tag, _ in page.seen}
    assert not tags & {"script", "link", "iframe", "object", "base", "form", "image", "use"}
    for _, attrs in page.seen:
        for name in ("src", "srcset"):
            assert attrs.get(name, "data:image/").startswith("data:image/")
        assert attrs.get("href", "#").startswith("#") and "xlink:href" not in attrs
        assert not any(name.startswith("on") for name in attrs)
    style = re.search("<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    [policy] = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    ids = [attrs["id"] for _, attrs in page.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)
    assert len(html) < 400_000


def test_every_part_is_there(html):
    page = Page(html)
    assert page.sections == ["results", "plots", "few-shot", "retrieval", "search", "confusions",
                             "skipped", "recipe"]  # fmt: skip
    for plot in page.all("svg"):
        assert plot["role"] == "img" and plot["aria-label"]
    assert "Evaluation of ViT-B/32" in page.text and "5ac99f1e20b1" in page.text
    assert "224 px, shortest, bicubic" in page.text
    search = section(html, "search")
    assert search.count('class="mark"') == 6 and search.count('aria-label="right"') == 1
    assert all(image["alt"] for image in page.all("img")) and len(page.all("img")) == 12


def test_names_are_escaped_and_shown(html):
    assert "<script" not in html and "<b>&" not in html
    page = Page(html)
    assert NASTY in page.text and "<script>alert(1)</script> 4" in page.text
    results = section(html, "results")
    assert ESCAPED in results and " ".join(LONG.split()) in " ".join(results.split())
    drawn = re.findall(r"<text[^>]*>(?:<title>([^<]*)</title>)?([^<]*)</text>", html)
    assert max(len(words) for _, words in drawn) <= 40
    assert any(" ".join(LONG.split()) == " ".join(title.split()) for title, _ in drawn)


def test_results_show_value_interval_and_what_was_published(records, html):
    rows = section(html, "results").split("<tr ")
    for record in records:
        if record.skipped:
            continue
        title = CATALOG[record.dataset].title if record.dataset in CATALOG else record.dataset
        value = f"<b>{100 * record.value:.1f}%</b>"
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
        shown = f'<td class="number" role="cell">{100 * known[0].value:.1f}%</td>' if known else ""
        assert any(shown in row for row in fitting), (title, record.task)
        assert known or all('<td class="number" role="cell"></td>' in row for row in fitting)
    assert "paper, Table 11" in html


def test_no_number_is_made_up(records, html):
    """Every percentage on the page is one that it was handed, or known from the paper."""
    handed = {row.value for row in published.everything()}
    for record in records:
        handed |= set(record.metrics.values())
        handed |= set((record.details.get("plain") or {}).values())
        handed |= {row["recall"] for row in record.details.get("per_class", ())} - {None}
        handed |= {point["mean"] for point in record.details.get("curve", ())}
        handed |= {record.details.get("zero_shot", 0.0)}
    shown = {f"{100 * value:.1f}%" for value in handed}
    for name in ("results", "retrieval", "few-shot", "confusions", "skipped"):
        assert percents(section(html, name)) <= shown, name
    plots = re.sub(r"<figure[^>]*><figcaption[^>]*>Accuracy under.*?</figure>|<h3>Natural.*$", "",
                   section(html, "plots"), flags=re.DOTALL)  # fmt: skip
    assert len(percents(plots)) > 40 and percents(plots) <= shown


def test_bars_are_sorted_and_as_long_as_their_values(records):
    shown = [measured("zero_shot", f"set {v}", 100, "top1", v) for v in (0.2, 1.0, 0.5)]
    page = section(eval_page.render(shown), "plots")
    widths = [float(w) for w in re.findall(r'class="box accent"[^>]*width="([0-9.]+)"', page)]
    assert widths == pytest.approx([182, 91, 36.4], abs=0.1)
    assert "box muted" not in page and "alone" not in page
    with_plain = dataclasses.replace(shown[0], details={"plain": {"top1": 0.1, "top5": 0.9}})
    page = section(eval_page.render([with_plain]), "plots")
    assert re.findall(r'class="box muted"[^>]*width="([0-9.]+)"', page) == ["18.2"]
    assert "10.0%" in page and "90.0%" not in page
    plain = {"plain": {"top1": 0.1, "mean_per_class_recall": 0.3}}
    by_class = measured("zero_shot", "a", 9, "mean_per_class_recall", 0.4, plain)
    page = section(eval_page.render([by_class]), "plots")
    assert ">30.0%<" in page and ">10.0%<" not in page


def test_scatter_has_only_pairs_of_the_same_pictures():
    zero = measured("zero_shot", "a", 100, "mean_per_class_recall", 0.6)
    probe = measured("linear_probe", "a", 100, "top1", 0.9)
    both = dataclasses.replace(probe, metrics={"top1": 0.9, "mean_per_class_recall": 0.8})
    shown = section(eval_page.render([zero, both]), "plots")
    assert "a: zero-shot 60.0%, probe 80.0%, mean per class" in shown
    for other in (
        probe,
        dataclasses.replace(both, split="val"),
        dataclasses.replace(both, model="another"),
        dataclasses.replace(both, skipped="no train split"),
        dataclasses.replace(both, metrics={"mean_per_class_recall": math.nan}),
    ):
        assert "against linear probe" not in eval_page.render([zero, other])


def test_few_shot_axis_is_logarithmic():
    curve = [{"shots": s, "mean": 0.5, "std": 0.1} for s in (1, 2, 4, 8, 16)]
    worth = {"shots": 1.0, "bound": "<=", "most": 16}
    details = {"curve": curve, "zero_shot": 0.25, "efficiency": worth}
    page = section(
        eval_page.render([measured("few_shot", "a", 9, "top1@16", 0.5, details)]), "few-shot"
    )
    dots = re.findall(r'<circle class="dot (\w+)" cx="([0-9.]+)" cy="([0-9.]+)"', page)
    across = [float(x) for kind, x, _ in dots if kind == "accent"]
    assert np.diff(across) == pytest.approx([26] * 4, abs=0.11)
    [zero] = [(float(x), float(y)) for kind, x, y in dots if kind == "second"]
    assert zero == (pytest.approx(across[0] - 26, abs=0.11), pytest.approx(86))
    assert "zero-shot 25.0%<" in page and "16 shots 50.0%<" in page
    assert "zero-shot is worth ≤ 1 shots" in page
    assert page.count("<polygon") == 1


def worth_of(*shots):
    """Few-shot records of which zero-shot is worth so many shots: ("<=", 1), (">", None), 3.4."""
    curve = [{"shots": 16, "mean": 0.5, "std": None}]
    found = []
    for i, given in enumerate(shots):
        bound, value = given if isinstance(given, tuple) else ("", given)
        details = {"curve": curve, "efficiency": {"shots": value, "bound": bound, "most": 16}}
        found.append(measured("few_shot", f"set {i}", 9, "top1@16", 0.5, details))
    return eval_page.render(found)


def test_shots_that_zero_shot_is_worth():
    page = section(worth_of(2.0, (">", None), 8.0, ("<=", 1.0)), "few-shot")
    figure = page[page.index("How many labelled images") :]
    names = re.findall(r'text-anchor="end" font-size="11">([^<]*)<', figure)
    assert names == ["set 1", "&gt; 16", "set 2", "8", "set 0", "2", "set 3", "≤ 1"]
    bars = re.findall(r'class="box (\w+)"[^>]*width="([0-9.]+)"', figure)
    # An octave is a fifth of the way from half a shot to 16.
    assert [(kind, float(width)) for kind, width in bars] == [
        ("muted", pytest.approx(182, abs=0.1)), ("accent", pytest.approx(4 * 36.4, abs=0.1)),
        ("accent", pytest.approx(2 * 36.4, abs=0.1)), ("muted", pytest.approx(36.4, abs=0.1)),
    ]  # fmt: skip
    assert "Median of 4 datasets: 5." in figure and "it is 5.4 (Figure 7)" in figure


@pytest.mark.parametrize(
    ("shots", "median"),
    [
        ((3.0,), None),
        ((3.0, 5.0, 90.0), "5"),
        ((3.0, 5.0, (">", None)), "5"),
        ((3.0, (">", None), (">", None)), None),
        ((("<=", 1.0), 3.0), None),
        ((16.0, 15.0, (">", None)), "16"),
    ],
)
def test_median_is_told_where_it_is_known(shots, median):
    page = worth_of(*shots)
    assert ("Median of" in page) == (median is not None)
    assert ("the median is 5.4" in page) == (median is None)
    assert median is None or f"Median of {len(shots)} datasets: {median}. " in page


def test_few_shot_without_spread_and_zero_shot():
    details = {"curve": [{"shots": 4, "mean": 0.5, "std": None}], "zero_shot": None,
               "efficiency": None}  # fmt: skip
    page = eval_page.render([measured("few_shot", "a", 9, "top1@4", 0.5, details)])
    assert "4 shots 50.0%<" in page and "is worth" not in page and "How many" not in page
    assert "<polygon" not in page and "dot second" not in page


TASKS = ("zero_shot", "linear_probe", "few_shot", "retrieval")
SHIFTS = {"ImageNet": 0.632, "ImageNetV2": 0.559, "ImageNetR": 0.69, "ImageNetSketch": 0.42}


def test_robustness_is_that_of_the_module():
    shown = [measured("zero_shot", k, 1000, "top1", v) for k, v in SHIFTS.items()]
    page = section(eval_page.render(shown), "plots")
    [row, *_] = robustness.shift_table(
        {"us": SHIFTS} | robustness.PAPER_TABLE_16, baselines=robustness.PAPER_BASELINES
    )
    assert f"effective robustness of {100 * row.effective.effective:+.1f} points" in page
    assert f"{100 * row.average:.1f}% on the mean" in page
    assert "ImageNet-V2, ImageNet-R, ImageNet-Sketch" in page
    assert "NS EfficientNet-L2" in page


@pytest.mark.parametrize("left_out", [("ImageNet",), ("ImageNetV2", "ImageNetR", "ImageNetSketch")])
def test_robustness_needs_imagenet_and_a_shift(left_out):
    shown = [measured("zero_shot", k, 100, "top1", v) for k, v in SHIFTS.items()
             if k not in left_out]  # fmt: skip
    assert "natural shift" not in eval_page.render(shown)


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_robustness_survives_the_ends(accuracy):
    shown = [measured("zero_shot", k, 100, "top1", accuracy) for k in SHIFTS]
    page = eval_page.render(shown)
    assert "effective robustness" in page and "nan" not in section(page, "plots").lower()


def test_models_without_a_common_shift_have_no_line():
    one = [measured("zero_shot", k, 100, "top1", 0.5) for k in ("ImageNet", "ImageNetV2")]
    two = [measured("zero_shot", k, 100, "top1", 0.5, model="b") for k in ("ImageNet", "ImageNetR")]
    assert "natural shift" in eval_page.render(one)
    assert "natural shift" not in eval_page.render(one + two)


def test_worst_classes_are_the_ten_with_the_lowest_recall():
    rows = [
        {"index": i, "name": f"class {i}", "n": 50, "recall": i / 20, "precision": math.nan,
         "taken_for": "other" if i else "", "taken_for_n": 50 - i if i else 0}
        for i in reversed(range(12))
    ]  # fmt: skip
    rows.append(rows[0] | {"name": "unseen", "recall": None})
    rows.append(rows[0] | {"name": "unseen too", "recall": math.nan})
    details = {"per_class": rows}
    page = section(eval_page.render([measured("zero_shot", "a", 9, "top1", 0.5, details)]),
                   "confusions")  # fmt: skip
    assert re.findall(r'dir="auto">(class \d+)<', page) == [f"class {i}" for i in range(10)]
    assert "10 of 12 classes" in page and "unseen" not in page
    assert "49 of 50 taken for other" in page and page.count("taken for other") == 9
    assert page.count("50 images") == 1


def test_skipped_ones_are_told_with_the_reason(records, html):
    found = section(html, "skipped")
    assert found.count("<li>") == 4 and "Hateful Memes" in found
    assert "<code>hf download clip-benchmark/wds_birdsnap --repo-type=dataset</code>" in found
    assert "Hateful Memes" not in section(html, "results")


def test_retrieval_lies_beside_what_was_published():
    values = {f"{way}_r@{k}": 0.001 * k for way in ("image_to_text", "text_to_image")
              for k in (1, 5, 10)}  # fmt: skip
    found = measured("retrieval", "COCO", 25_010, "image_to_text_r@1", 0.001,
                     model="ViT-L/14@336")  # fmt: skip
    page = section(eval_page.render([dataclasses.replace(found, metrics=values)]), "retrieval")
    cells = re.findall(r"<td>(?:<b>|<span>)([^<]*)", page)
    known = published.published("COCO", "retrieval", "paper", "ViT-L/14@336")
    by_metric = {row.metric: row.value for row in known}
    assert cells[:6] == ["0.1%", "0.5%", "1.0%"] * 2
    assert cells[6:] == [f"{100 * by_metric[name]:.1f}%" for name in values]
    assert cells[6] == "58.4%" and "25,010 captions" in page


@pytest.mark.parametrize(
    "shown",
    [
        [],
        [measured("zero_shot", "a", 9, "top1", 0.5)],
        [Record("any", "a", "test", "paper", skipped="it is not here")],
        [Record("zero_shot", "a", "test", "paper")],
        [Record("zero_shot", "a", "test", "paper", n=3, main_metric="top1",
                metrics={"top1": math.nan}, intervals={"top1": (math.nan, math.nan)},
                details={"plain": {"top1": math.nan}, "per_class": []})],
        [Record("few_shot", "a", "test", "paper", 3, "m", {"m": math.nan}, details={"curve": [
            {"shots": 1, "mean": math.nan, "std": None}], "zero_shot": math.nan})],
        [Record("retrieval", "a", "test", "paper", 3, "text_to_image_r@1",
                {"text_to_image_r@1": math.nan})],
        [Record("linear_probe", "", "", "", 0, "mystery_score", {"mystery_score": 2.5})],
    ],
    ids=["none", "one", "skipped", "bare", "nan", "few_nan", "r_nan", "strange"],
)  # fmt: skip
def test_any_records_can_be_shown(shown):
    html = eval_page.render(shown)
    page = Page(html)
    assert "nan" not in html.replace("Nan", "").lower().replace("tenant", "")
    assert ("Nothing evaluated yet" in page.text) == (not shown) == (not page.sections)
    assert "results" in page.sections or not shown or shown[0].skipped


def test_records_that_were_read_look_as_before_they_were_written(tmp_path, records):
    strange = Record(
        "zero_shot", "a", "test", "paper", 3, "top1", {"top1": math.nan},
        {"top1": (math.nan, math.nan)}, details={
            "plain": {"top1": math.nan},
            "per_class": [{"index": 0, "name": "x", "n": 0, "recall": math.nan,
                           "precision": math.nan, "taken_for": "", "taken_for_n": 0}]},
    )  # fmt: skip
    shown = [strange, *(next(r for r in records if r.task == t) for t in TASKS), records[-2]]
    read = [
        records_room.read(records_room.write(tmp_path / str(i), record, "k"), "k")
        for i, record in enumerate(shown)
    ]
    assert eval_page.render(read) == eval_page.render(shown)


def test_several_models_and_splits_are_told_apart():
    one = measured("zero_shot", "MNIST", 100, "top1", 0.5)
    page = Page(eval_page.render([one, dataclasses.replace(one, model="mine")]))
    assert "MNIST, ViT-B/32" in page.text and "MNIST, mine" in page.text
    page = Page(eval_page.render([one, dataclasses.replace(one, model_fingerprint="abcdef99")]))
    assert "MNIST, ViT-B/32 (abcdef)" in page.text
    page = Page(eval_page.render([one, dataclasses.replace(one, protocol="datacomp")]))
    assert "MNIST, paper" in page.text and "MNIST, datacomp" in page.text
    page = Page(eval_page.render([one, dataclasses.replace(one, split="val")]))
    assert "MNIST, val" in page.text and "MNIST, paper" not in page.text


def test_tiles_show_each_task_first_and_imagenet_before_others():
    shown = [measured("zero_shot", f"set {i}", 9, "top1", i / 10) for i in range(5)]
    shown += [measured("zero_shot", "ImageNet", 9, "top1", 0.9)]
    shown += [measured("linear_probe", "set 3", 9, "top1", 0.77)]
    header = re.search("<header>.*?</header>", eval_page.render(shown), re.DOTALL)[0]
    assert re.findall(r'"value">([0-9.]+%)', header) == ["90.0%", "77.0%", "0.0%", "10.0%"]


def test_written_whole_or_not_at_all(tmp_path, records, monkeypatch):
    path = eval_page.write(tmp_path / "new" / "report.html", records[:3])
    assert path == tmp_path / "new" / "report.html"
    before = path.read_bytes()
    assert before.decode() == eval_page.render(records[:3])
    with pytest.raises(ValueError, match=r"an image must be uint8\[H, W, 3\]"):
        eval_page.write(path, records, [("q", [np.zeros((2, 2))])])
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        eval_page.write(path, records)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_broken_unicode_in_a_name_is_no_reason_to_fail(tmp_path):
    shown = [measured("zero_shot", "a\ud800b\x00c", 9, "top1", 0.5)]
    text = eval_page.write(tmp_path / "report.html", shown).read_text("utf-8")
    assert "a?b\ufffdc" in text


def test_needs_neither_jax_nor_matplotlib():
    code = (
        "import sys; from clip_jax.report import eval_page; eval_page.render([]);"
        "print({'jax', 'matplotlib', 'flax'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
