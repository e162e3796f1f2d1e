"""Colors that Python needs: those of the style sheet, and the ramp of the similarity matrix.

Text on every background keeps a contrast of at least 4.5 to 1 (WCAG AA), in both modes.
"""

import importlib.resources
import math
import re

# From the lowest value to the highest, as #rrggbb.
LIGHT_RAMP = ("#f4f6fd", "#c9d4fb", "#8ea6f5", "#5673e0", "#2f46a8", "#1c2b6b")
DARK_RAMP = ("#1b2230", "#263763", "#3a55a3", "#5d7ee0", "#9db4ff", "#dfe7ff")


def colors() -> tuple[dict[str, str], dict[str, str]]:
    """Returns name -> #rrggbb of the style sheet's light mode and of its dark mode."""
    sheet = importlib.resources.files("clip_jax.report") / "templates" / "style.css"
    blocks = re.findall(r":root \{(.*?)\}", sheet.read_text(encoding="utf-8"), re.DOTALL)
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in blocks)
    return light, dark


def shade(position: float, ramp: tuple[str, ...]) -> tuple[str, str]:
    """Returns the background at ``position`` (0 to 1) of a ramp, and the ink on it: black or white,
    whichever contrasts more, always reaches 4.5 to 1.
    """
    scaled = min(max(position, 0.0), 1.0) * (len(ramp) - 1) if math.isfinite(position) else 0.0
    low = min(int(scaled), len(ramp) - 2)
    ends = [[int(ramp[i][j : j + 2], 16) for j in (1, 3, 5)] for i in (low, low + 1)]
    color = [round(a + (b - a) * (scaled - low)) for a, b in zip(*ends, strict=True)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in
              (channel / 255 for channel in color)]  # fmt: skip
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#{:02x}{:02x}{:02x}".format(*color), "#000000" if luminance > 0.179 else "#ffffff"
