"""Tables that fold: every value is named twice, once for wide screens and once for narrow ones."""

import re

import pytest

from clip_jax.report.render import Cell, Row, Table, macro


def test_values_carry_the_names_of_their_columns():
    rows = [Row("<b>a</b>", "", [Cell("1"), Cell()]), Row("b", "", [Cell("2"), Cell("3")])]
    html = macro("table", Table("row", ["x & y", '"z"'], [("", rows)]))
    heads = re.findall(r'role="columnheader">([^<]*)<', html)
    assert heads == ["row", "x &amp; y", "&#34;z&#34;"]
    cells = re.findall(r'<td role="cell" data-head="([^"]*)">([^<]*)</td>', html)
    assert cells == [("x &amp; y", "1"), ("&#34;z&#34;", ""), ("x &amp; y", "2"),
                     ("&#34;z&#34;", "3")]  # fmt: skip
    assert (
        '<th scope="row" role="rowheader"><span dir="auto">&lt;b&gt;a&lt;/b&gt;</span></th>' in html
    )
    with pytest.raises(ValueError):
        macro("table", Table("row", ["x"], [("", [Row("a", "", [Cell("1"), Cell("2")])])]))


def test_what_belongs_to_a_value_is_below_it():
    rows = [Row("a", "", [Cell("<1", "<2"), Cell("1")])]
    html = macro("table", Table("row", ["x", "y"], [("", rows)]))
    assert '>&lt;1<div class="small">&lt;2</div></td>' in html and '"y">1</td>' in html
