"""Few-shot curves, and how many shots zero-shot is worth."""

import re

import numpy as np
import pytest
from evaluation_page import measured, render, section


def test_few_shot_axis_is_logarithmic():
    curve = [{"shots": s, "mean": 0.5, "std": 0.1} for s in (1, 2, 4, 8, 16)]
    worth = {"shots": 1.0, "bound": "<=", "most": 16}
    details = {"curve": curve, "zero_shot": 0.25, "efficiency": worth}
    page = section(render([measured("few_shot", "a", 9, "top1@16", 0.5, details)]), "few-shot")
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
    return render(found)


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
def test_median_is_shown_where_it_is_known(shots, median):
    page = worth_of(*shots)
    assert ("Median of" in page) == (median is not None)
    assert ("the median is 5.4" in page) == (median is None)
    assert median is None or f"Median of {len(shots)} datasets: {median}. " in page


def test_few_shot_without_spread_and_zero_shot():
    details = {"curve": [{"shots": 4, "mean": 0.5, "std": None}], "zero_shot": None,
               "efficiency": None}  # fmt: skip
    page = render([measured("few_shot", "a", 9, "top1@4", 0.5, details)])
    assert "4 shots 50.0%<" in page and "is worth" not in page and "How many" not in page
    assert "<polygon" not in page and "dot second" not in page
