"""The report's colours, by the rules of WCAG AA."""

import math
import re

import numpy as np

from clip_jax.report import style


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_is_readable_on_every_background():
    for colors, ramp in zip(style.colors(), (style.LIGHT_RAMP, style.DARK_RAMP), strict=True):
        for text in ("ink", "muted", "accent", "good", "bad"):
            for background in ("page", "surface"):
                assert contrast(colors[text], colors[background]) >= 4.5, (text, background)
        for position in np.linspace(-0.1, 1.1, 121):
            assert contrast(*style.shade(position, ramp)) >= 4.5
        for line in ("accent", "second", "third", "fourth", "fifth", "sixth"):
            assert contrast(colors[line], colors["surface"]) >= 3
    assert style.shade(math.nan, style.LIGHT_RAMP)[0] == style.LIGHT_RAMP[0]


def test_every_class_of_the_style_sheet_is_used(root):
    folder = root / "clip_jax" / "report"
    sheet = (folder / "templates" / "style.css").read_text(encoding="utf-8")
    named = set(re.findall(r"\.([a-z][\w-]*)", re.sub(r"\{[^{}]*\}", "{}", sheet)))
    files = [*folder.rglob("*.py"), *folder.rglob("*.html")]
    words = {w for f in files for w in re.findall(r"[a-z][\w-]*", f.read_text(encoding="utf-8"))}
    assert named - words == set() and len(named) > 40
