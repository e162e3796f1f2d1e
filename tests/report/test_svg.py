"""Drawings in the page: scales, words that fit, labels that hide nothing, no way out of the SVG."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from clip_jax.report.render import macro
from clip_jax.report.svg import (
    Drawing,
    Figure,
    Labels,
    Scale,
    in_percent,
    ticks,
)

NASTY = "<b>&\"' ]]> 🦊 漢字 \x00"


def elements(drawing):
    return ET.fromstring(drawing.__html__())


def test_scales():
    assert [Scale(0.2, 1.0, 300, 10)(v) for v in (0.2, 0.6, 1.0)] == pytest.approx([300, 155, 10])
    octaves = Scale(1, 16, 0, 40, math.log2)
    assert [octaves(v) for v in (1, 2, 4, 16)] == [0, 10, 20, 40]


@pytest.mark.parametrize("low", np.arange(0, 1, 0.1))
def test_ticks_are_round_and_few(low):
    shown = ticks(low, 1, inside=True)
    assert 2 <= len(shown) <= 6 and shown[-1] == pytest.approx(1)
    assert min(shown) >= low - 1e-9
    np.testing.assert_allclose(np.asarray(shown) * 100, np.round(np.asarray(shown) * 100))


@pytest.mark.parametrize(
    ("low", "high", "want"),
    [(0, 5.4, [0, 2, 4, 6]), (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.3, 1, [-0.5, 0, 0.5, 1]),
     (0, 48e4, [0, 1e5, 2e5, 3e5, 4e5, 5e5]), (0, 3e-4, [0, 1e-4, 2e-4, 3e-4])],
)  # fmt: skip
def test_ticks_of_any_scale_are_round_and_include_the_ends(low, high, want):
    np.testing.assert_allclose(ticks(low, high), want, atol=1e-12)


def test_drawing_is_whole_and_says_what_it_shows():
    drawing = Drawing(100, 50, NASTY)
    drawing.line([(0, 0), (math.nan, 1), (10, 20.04)], "accent", style="dashed")
    drawing.area([(0, 0), (1, 1), (1, 0)], "accent")
    drawing.box(0, 1, 10, 3, "muted")
    drawing.dot((5, 6), "second", NASTY)
    drawing.text((1, 2), NASTY + "x" * 50, most=60)
    root = elements(drawing)
    assert root.attrib["viewBox"] == "0 0 100 50" and root.attrib["role"] == "img"
    shown = NASTY.replace("\x00", "\ufffd")
    assert root.attrib["aria-label"] == shown
    line, _, box, dot, text = root
    assert line.attrib["points"] == "0.0,0.0 10.0,20.0" and "dashed" in line.attrib["class"]
    assert (box.attrib["width"], box.attrib["height"]) == ("10.0", "2.0")
    assert dot[0].tag == "title" and dot[0].text == shown
    assert text[0].text == shown + "x" * 50 and text[0].tail.startswith("<b>&")


def test_what_is_not_a_number_is_not_drawn():
    drawing = Drawing(9, 9, "")
    drawing.line([(0, math.nan), (1, 1)], "accent")
    drawing.box(0, 0, math.nan, 1, "accent")
    drawing.dot((math.inf, 0), "accent")
    drawing.area([], "accent")
    assert len(elements(drawing)) == 0
    drawing.box(5, 0, 4, 1, "accent")
    assert elements(drawing)[0].attrib["width"] == "0.0"


def test_grid_names_its_lines():
    drawing = Drawing(100, 100, "")
    drawing.grid(Scale(0, 1, 20, 90), Scale(0, 1, 80, 5), in_percent([0.5]), in_percent([0, 1]))
    texts = [e.text for e in elements(drawing) if e.tag == "text"]
    assert texts == ["0%", "100%", "50%"]
    assert sum(e.tag == "polyline" for e in elements(drawing)) == 3


def test_labels_hide_neither_dots_nor_each_other():
    rng = np.random.default_rng(0)
    dots = [tuple(row) for row in rng.uniform((40, 20), (350, 300), (60, 2))]
    drawing, labels = Drawing(360, 320, ""), Labels(dots, right=356)
    drawn = [labels.draw(drawing, dot, f"dataset {i}") for i, dot in enumerate(dots)]
    texts = elements(drawing)
    assert len(texts) == sum(drawn) and 20 < sum(drawn) < 60
    boxes = [(*dot, *dot) for dot in dots]
    for text in texts:
        x, y, size = (float(text.attrib[k]) for k in ("x", "y", "font-size"))
        boxes.append((x, y - 0.8 * size, x + 0.55 * size * len(text.text), y))
        assert x >= 30 and boxes[-1][2] <= 356
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[max(i + 1, len(dots)) :]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            assert apart


def test_figure_escapes_and_leaves_out_what_is_not_there():
    card = macro("figure", Figure(NASTY, Drawing(9, 9, ""), NASTY, [("accent", NASTY)]))
    assert card.count("&lt;b&gt;") == 3 and "<b>" not in card and "small-plot" not in card
    bare = macro("figure", Figure("t", Drawing(9, 9, ""), small=True))
    assert "<p" not in bare and "small-plot" in bare
    assert re.fullmatch(r"<figure.*</figure>", bare.strip(), re.DOTALL)
