"""The page of an evaluation: complete, self-contained, safe with any name, no number made up."""

import dataclasses
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from evaluation_page import ESCAPED, LONG, NASTY, gallery, measured, realistic, render, section
from html_page import Page

from clip_jax.evals import records as records_lib
from clip_jax.evals.datasets import published
from clip_jax.evals.records import Record
from clip_jax.evals.tasks import registry
from clip_jax.report import eval_page
from clip_jax.report.render import Blocks
from clip_jax.report.sections.registry import SECTIONS, Part
from clip_jax.report.sections.view import View


def percents(text):
    """All percentages, without those that name the lines of a plot."""
    text = re.sub(r'<text class="muted"[^>]*>[0-9]+%</text>', "", text)
    return set(re.findall(r"[0-9]+\.[0-9]%", text))


@pytest.fixture(scope="module")
def records():
    return realistic()


@pytest.fixture(scope="module")
def html(records):
    return render(records, gallery())


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
    assert page.sections == ["results", "zero-shot", "linear-probe", "few-shot", "retrieval",
                             "search", "confusions", "skipped", "recipe"]  # fmt: skip
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


def test_no_number_is_made_up(records, html):
    """Every percentage on the page is one that it was given, or known from the paper."""
    given = {row.value for row in published.everything()}
    for record in records:
        given |= set(record.metrics.values())
        given |= set((record.details.get("plain") or {}).values())
        given |= {row["recall"] for row in record.details.get("per_class", ())} - {None}
        given |= {point["mean"] for point in record.details.get("curve", ())}
        given |= {record.details.get("zero_shot", 0.0)}
    shown = {f"{100 * value:.1f}%" for value in given}
    for name in ("results", "retrieval", "few-shot", "confusions", "skipped"):
        assert percents(section(html, name)) <= shown, name
    plots = re.sub(r"<figure[^>]*><figcaption[^>]*>Accuracy under.*?</figure>|<h3>Natural.*$", "",
                   section(html, "zero-shot"), flags=re.DOTALL)  # fmt: skip
    plots += section(html, "linear-probe")
    assert len(percents(plots)) > 40 and percents(plots) <= shown


TASKS = ("zero_shot", "linear_probe", "few_shot", "retrieval")


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
    html = render(shown)
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
        records_lib.read(records_lib.write(tmp_path / str(i), record, "k"), "k")
        for i, record in enumerate(shown)
    ]
    assert render(read) == render(shown)


def test_several_models_and_splits_are_told_apart():
    one = measured("zero_shot", "MNIST", 100, "top1", 0.5)
    page = Page(render([one, dataclasses.replace(one, model="mine")]))
    assert "MNIST, ViT-B/32" in page.text and "MNIST, mine" in page.text
    page = Page(render([one, dataclasses.replace(one, model_fingerprint="abcdef99")]))
    assert "MNIST, ViT-B/32 (abcdef)" in page.text
    page = Page(render([one, dataclasses.replace(one, protocol="datacomp")]))
    assert "MNIST, paper" in page.text and "MNIST, datacomp" in page.text
    page = Page(render([one, dataclasses.replace(one, split="val")]))
    assert "MNIST, val" in page.text and "MNIST, paper" not in page.text


def test_tiles_show_each_task_first_and_imagenet_before_others():
    shown = [measured("zero_shot", f"set {i}", 9, "top1", i / 10) for i in range(5)]
    shown += [measured("zero_shot", "ImageNet", 9, "top1", 0.9)]
    shown += [measured("linear_probe", "set 3", 9, "top1", 0.77)]
    header = re.search("<header>.*?</header>", render(shown), re.DOTALL)[0]
    assert re.findall(r'"value">([0-9.]+%)', header) == ["90.0%", "77.0%", "0.0%", "10.0%"]


def view(records, gallery=()):
    return View(records, registry.TASKS, gallery)


def test_written_whole_or_not_at_all(tmp_path, records, monkeypatch):
    path = eval_page.write(tmp_path / "new" / "report.html", view(records[:3]))
    assert path == tmp_path / "new" / "report.html"
    before = path.read_bytes()
    assert before.decode() == render(records[:3])
    with pytest.raises(ValueError, match=r"an image must be uint8\[H, W, 3\]"):
        eval_page.write(path, view(records, [("q", [np.zeros((2, 2))])]))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        eval_page.write(path, view(records))
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_broken_unicode_in_a_name_is_no_reason_to_fail(tmp_path):
    shown = [measured("zero_shot", "a\ud800b\x00c", 9, "top1", 0.5)]
    text = eval_page.write(tmp_path / "report.html", view(shown)).read_text("utf-8")
    assert "a?b\ufffdc" in text


def test_needs_neither_jax_nor_matplotlib():
    code = (
        "import sys; from clip_jax.report import eval_page;"
        "from clip_jax.report.sections.view import View; eval_page.render(View([]));"
        "print({'jax', 'matplotlib', 'flax'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize("shown", [0, 1])
def test_tasks_of_ones_own_have_their_names_and_numbers(shown):
    """With and without the task that made the records."""

    class Spread:
        title = "Spread of the embeddings"
        section = "metrics"

    record = Record("spread", "Squares", "test", "paper", 12, "spread", {"spread": 0.25, "x": 0.5},
                    {"spread": (0.125, 0.375)})  # fmt: skip
    tasks = registry.TASKS | {"spread": Spread()} if shown else registry.TASKS
    title = ["Spread", "Spread of the embeddings"][shown]
    html = eval_page.render(View([record], tasks))
    assert f'class="group">{title}</th>' in section(html, "results")
    assert "25.0%" in re.search("<header>.*?</header>", html, re.DOTALL)[0]
    part = section(html, "metrics")
    assert f"<h3>{title}</h3>" in part and "12.5 to 37.5" in part and "50.0%" in part
    assert Page(html).sections == ["results", "metrics", "recipe"]


def test_a_task_may_name_a_section_of_its_own(monkeypatch):
    class Copies:
        title, section = "Copies", "copies"

    def build(view, records):
        return Blocks(f"{view.titles(records[0])}: {len(records)} records") if records else None

    monkeypatch.setitem(SECTIONS, "copies", Part("Copies found", build, scores=False))
    record = Record("copies", "Squares", "test", "paper", 12, "copies", {"copies": 0.25})
    html = eval_page.render(View([record], {"copies": Copies()}))
    assert "Squares: 1 records" in section(html, "copies")
    assert "25.0%" not in html and section(html, "results") == section(html, "metrics") == ""
    assert "Copies found" not in eval_page.render(View([record]))
