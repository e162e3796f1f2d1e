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
    light, dark = re.findall(r":root \{(.*?)\}", style.STYLE, re.DOTALL)
    for block, theme in ((light, style.LIGHT), (dark, style.DARK)):
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        assert colours["surface"] == theme.surface and colours["ink"] == theme.ink
        for text in ("ink", "muted", "accent", "good", "bad"):
            for background in ("page", "surface"):
                assert contrast(colours[text], colours[background]) >= 4.5, (text, background)
        for position in np.linspace(-0.1, 1.1, 121):
            assert contrast(*style.shade(position, theme.ramp)) >= 4.5
        for line in theme.lines:
            assert contrast(line, theme.surface) >= 3
    seconds = re.findall(r"--second: (#\w{6})", style.SUITE)
    for colour, theme in zip(seconds, (style.LIGHT, style.DARK), strict=True):
        assert contrast(colour, theme.surface) >= 3
    assert style.shade(math.nan, style.LIGHT.ramp)[0] == style.LIGHT.ramp[0]
