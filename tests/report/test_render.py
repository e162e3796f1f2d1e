"""Tables that fold: every value is named twice, once for wide screens and once for narrow ones."""

import re

import pytest

from clip_jax.report.render import macro, points


def test_values_carry_the_names_of_their_columns():
    rows = [("<b>a</b>", "", [("1",), ("",)]), ("b", "", [("2",), ("3",)])]
    html = macro("folding", "row", ["x & y", '"z"'], rows)
    heads = re.findall(r'role="columnheader">([^<]*)<', html)
    assert heads == ["row", "x &amp; y", "&#34;z&#34;"]
    cells = re.findall(r'<td role="cell" data-head="([^"]*)">([^<]*)</td>', html)
    assert cells == [("x &amp; y", "1"), ("&#34;z&#34;", ""), ("x &amp; y", "2"),
                     ("&#34;z&#34;", "3")]  # fmt: skip
    assert (
        '<th scope="row" role="rowheader"><span dir="auto">&lt;b&gt;a&lt;/b&gt;</span></th>' in html
    )
    with pytest.raises(ValueError):
        macro("folding", "row", ["x"], [("a", "", [("1",), ("2",)])])


@pytest.mark.parametrize(
    ("difference", "shown"),
    [(0.0123, "+1.2"), (-0.0123, "−1.2"), (0.0, "0.0"), (-0.0004, "0.0"), (0.0004, "0.0")],
)
def test_points(difference, shown):
    assert points(difference) == shown


def test_what_belongs_to_a_value_is_below_it():
    assert macro("cell", "<1", "<2").strip() == '&lt;1<div class="small">&lt;2</div>'
    assert macro("cell", "1").strip() == "1"
