"""The report: complete, self-contained, safe with any caption, written whole or not at all."""

import base64
import dataclasses
import io
import math
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from html_page import Page
from PIL import Image

from clip_jax.report import curves as curves_lib
from clip_jax.report import run_page
from clip_jax.report.run_page import render_html, write_report
from clip_jax.report.types import (
    ImageQuery,
    Prediction,
    ReportData,
    Result,
    Similarity,
    TextQuery,
)

NASTY = "<b>&\"' $x^$ 🦊 漢字 \x00 שלום"
ESCAPED = "&lt;b&gt;&amp;&#34;&#39; $x^$ 🦊 漢字 \ufffd שלום"

# Warnings are errors here: a caption without a glyph must not clutter a training log.
pytestmark = pytest.mark.filterwarnings("error")


def noise(seed, height=24, width=24):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def records(steps=12):
    train = [
        {
            "step": step,
            "examples": 64 * step,
            "loss": 4.0 / step,
            "accuracy": 1 - 1 / step,
            "logit_scale": 14.0 + step,
            "learning_rate": 1e-4 * step,
            "images_per_second": 900.0 + step,
            "seconds": 2.0 * step,
            "data_wait": 0.01,
        }
        for step in range(1, steps + 1)
    ]
    evals = [
        {"step": step, "seconds": 2.0 * step, "eval/unseen_vendor/top1": step / 20}
        for step in range(3, steps + 1, 3)
    ]
    return train + evals


@pytest.fixture(scope="module")
def data():
    images = [noise(seed) for seed in range(4)]
    captions = [NASTY, "a dog", "x" * 90, ""]
    return ReportData(
        title=f"Run {NASTY}",
        config_summary=[("model", "tiny"), ("note", NASTY)],
        curves=records(),
        results=[
            Result("unseen_vendor", "top1", 0.8125, 1671, 0.0187, 0.0006),
            Result("broken", "top1", math.nan, 3),
        ],
        similarity=Similarity(np.stack(images), captions, np.eye(4) * 0.3 + 0.1),
        predictions=[Prediction(images[0], NASTY, [("a cat", 0.7), (NASTY, 0.3)])],
        text_to_image=[TextQuery(NASTY, [(images[0], True), (images[1], False)])],
        image_to_text=[ImageQuery(noise(9, 30, 50), [(NASTY, True), ("a dog", False)])],
    )


@pytest.fixture(scope="module")
def written(data, tmp_path_factory):
    html_path, png_path = write_report(tmp_path_factory.mktemp("run") / "new" / "folder", data)
    return SimpleNamespace(html=html_path.read_text("utf-8"), png=png_path, path=html_path)


def test_page_is_well_formed_and_self_contained(written):
    page = Page(written.html, "")
    tags = {tag for tag, _ in page.seen}
    assert not tags & {"script", "link", "iframe", "object", "base", "form"}
    for _, attrs in page.seen:
        for name in ("src", "srcset"):
            assert attrs.get(name, "data:image/").startswith("data:image/")
        assert attrs.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attrs)
    style = re.search("<style>(.*?)</style>", written.html, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    [policy] = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    ids = [attrs["id"] for _, attrs in page.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)


def test_every_image_has_an_alt_text_and_decodes(written):
    page = Page(written.html, "")
    images, drawings = page.all("img"), page.all("svg")
    assert len(images) + len(drawings) > 10
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)
    for image in images:
        assert "alt" in image
        kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", image["src"]).groups()
        content = base64.b64decode(data, validate=True)
        assert Image.open(io.BytesIO(content)).format.lower() == kind


def test_captions_are_escaped_and_shown(written):
    assert '<b>&"' not in written.html
    # Title twice, recipe, matrix, image, card, guess, query, answer.
    assert written.html.count(ESCAPED) == 9
    assert NASTY.replace("\x00", "\ufffd") in Page(written.html, "").text


def test_numbers_are_shown(written):
    text = Page(written.html, "").text
    assert "81.2%" in text and "± 1.9" in text and "n = 1,671" in text and "baseline 0.1%" in text
    assert "4 of 4 captions are closest" in text
    assert "The first guess is right for 0 of these 1" in text
    assert "12 steps" in text and "768 image-text pairs seen" in text and "24 seconds" in text
    assert "0.40" in text and "nan" not in text


def test_a_tie_in_the_matrix_is_not_a_hit(data):
    tied = data.similarity._replace(matrix=np.ones((4, 4)))
    page = render_html(dataclasses.replace(data, similarity=tied))
    assert "0 of 4 captions are closest" in page


def test_summary_image_decodes(written):
    with Image.open(written.png) as image:
        image.load()
        assert image.format == "PNG"
        assert 1200 <= image.width <= 3000 and 600 <= image.height <= 2000
        assert np.asarray(image.convert("L")).std() > 10


def test_same_data_gives_the_same_bytes(data, written, tmp_path):
    html_path, png_path = write_report(tmp_path, data)
    assert html_path.read_bytes() == written.path.read_bytes()
    assert png_path.read_bytes() == written.png.read_bytes()


def test_own_matplotlib_settings_are_neither_used_nor_changed(data, written, tmp_path):
    import matplotlib

    mine = {"font.size": 30.0, "savefig.bbox": "tight", "axes.facecolor": "red"}
    with matplotlib.rc_context(mine):
        _, png_path = write_report(tmp_path, data)
        assert {key: matplotlib.rcParams[key] for key in mine} == mine
    assert png_path.read_bytes() == written.png.read_bytes()


@pytest.mark.parametrize(
    "curves",
    [
        [],
        records(1),
        [r for r in records() if "loss" in r],
        [r for r in records() if "loss" not in r],
        [{**r, "loss": math.nan} if r["step"] % 2 else r for r in records()],
        [{"step": 1, "examples": 1, "seconds": 1.0, "loss": None, "accuracy": "oops"}],
        [{"step": 1, "examples": 1, "seconds": 0.0, "loss": 0.0, "accuracy": 0.0}],
        [{"step": 1, "examples": math.nan, "loss": 1.0}, {"note": "no step at all"}],
        [{"step": 1, "seconds": 9e5, f"eval/$x_^$ {i}\\bad_/top1": 0.5} for i in range(30)],
        records(1500),
    ],
    ids=["none", "one", "train", "evals", "gaps", "junk", "zeros", "no_x", "many", "long"],
)
def test_any_curves_can_be_drawn(tmp_path, curves):
    html_path, png_path = write_report(tmp_path, ReportData("t", curves=curves))
    page = Page(html_path.read_text("utf-8"))
    assert len(page.all("svg")) == len(curves_lib.charts(curves))
    assert html_path.stat().st_size < 600_000
    Image.open(png_path).verify()


def test_empty_report(tmp_path):
    html_path, png_path = write_report(tmp_path, ReportData("Nothing yet"))
    page = Page(html_path.read_text("utf-8"))
    assert "Nothing yet" in page.text and page.all("section") == []
    Image.open(png_path).verify()


def test_matrix_without_contrast_or_with_gaps(tmp_path, data):
    for matrix in (np.full((4, 4), 0.2), np.full((4, 4), np.nan), np.diag([np.nan, 1, 2, 3.0])):
        similarity = data.similarity._replace(matrix=matrix)
        write_report(tmp_path, ReportData("t", similarity=similarity))


def test_large_matrix(tmp_path):
    similarity = Similarity([noise(0, 8, 8)] * 24, ["c"] * 24, np.eye(24))
    _, png_path = write_report(tmp_path, ReportData("t", similarity=similarity))
    Image.open(png_path).verify()


def test_plain_tuples_will_do(tmp_path, data):
    plain = {
        f.name: [tuple(row) for row in value]
        for f in dataclasses.fields(data)
        if isinstance(value := getattr(data, f.name), list) and f.name != "curves"
    }
    similarity = tuple(data.similarity)
    same = dataclasses.replace(data, similarity=similarity, **plain)
    assert render_html(same) == render_html(data)


def test_large_images_become_small_files():
    flat, photo = np.full((500, 800, 3), 200, np.uint8), noise(0, 500, 800)
    for image, kind in ((flat, "png"), (photo, "jpeg")):
        page = render_html(ReportData("t", image_to_text=[ImageQuery(image, [])]))
        found = re.search(r'src="data:image/(\w+);base64,([^"]+)"', page)
        content = base64.b64decode(found[2])
        assert found[1] == kind and len(content) < 60_000
        assert Image.open(io.BytesIO(content)).size == (168, 105)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)],
)
def test_refuses_other_images(tmp_path, image):
    with pytest.raises(ValueError, match=r"an image must be uint8\[H, W, 3\]"):
        write_report(tmp_path, ReportData("t", image_to_text=[ImageQuery(image, [])]))


@pytest.mark.parametrize(("captions", "shape"), [(2, (3, 3)), (3, (3, 2)), (2, (2, 3))])
def test_refuses_a_matrix_that_does_not_fit(tmp_path, captions, shape):
    similarity = Similarity([noise(0)] * 3, ["c"] * captions, np.zeros(shape))
    with pytest.raises(ValueError, match=r"3 images, \d captions and a matrix"):
        write_report(tmp_path, ReportData("t", similarity=similarity))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_report_whole(tmp_path, data, monkeypatch):
    old = ReportData("old")
    write_report(tmp_path, old)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"report.html", "report.png"}

    def full_disk(source, target):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_page.os, "replace", full_disk)
        with pytest.raises(OSError, match="no space"):
            write_report(tmp_path, data)
    with monkeypatch.context() as patch:
        patch.setattr(run_page.summary, "summary_png", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_report(tmp_path, data)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_imports_are_lazy_and_never_include_pyplot_or_jax(tmp_path):
    code = """
import sys
from clip_jax.report import run_page
from clip_jax.report.types import ReportData
print({"matplotlib", "PIL", "jax"} & set(sys.modules))
run_page.write_report(sys.argv[1], ReportData("t", curves=[{"examples": 1, "loss": 2}]))
print({"matplotlib.pyplot", "jax"} & set(sys.modules))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["set()", "set()"]
