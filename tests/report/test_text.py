"""Numbers and texts as the report prints them."""

import pytest

from clip_jax.report.text import points, shortened, text_width


@pytest.mark.parametrize(
    ("difference", "shown"),
    [(0.0123, "+1.2"), (-0.0123, "−1.2"), (0.0, "0.0"), (-0.0004, "0.0"), (0.0004, "0.0")],
)
def test_points(difference, shown):
    assert points(difference) == shown


@pytest.mark.parametrize(
    ("text", "width"),
    [("abc", 3), ("漢字", 4), ("🦊", 2), ("e\u0301", 1), ("", 0)],
)
def test_width_of_letters(text, width):
    assert text_width(text) == width


@pytest.mark.parametrize(
    ("text", "most", "short"),
    [("a longer name", 13, "a longer name"), ("a longer name", 12, "a longer na…"),
     ("a longer name", 3, "a…"), ("漢字漢字", 7, "漢字漢…"), ("漢字漢字", 6, "漢字…"),
     ("two\nlines  here", 99, "two lines here"), ("👩\u200d🔬 lab", 4, "👩…"),
     ("abc", 0, "…"), ("", 5, "")],
)  # fmt: skip
def test_shortened(text, most, short):
    assert shortened(text, most) == short
