"""How the report looks: one palette for page and figures, the page's frame and its style sheet.

Text on every background keeps a contrast of at least 4.5 to 1 (WCAG AA), in both modes.
"""

import math
from string import Template
from typing import NamedTuple


class Theme(NamedTuple):
    """Colours of one mode, as #rrggbb."""

    ink: str
    muted: str
    grid: str
    surface: str
    lines: tuple[str, ...]
    ramp: tuple[str, ...]


LIGHT = Theme(
    ink="#18202c",
    muted="#566172",
    grid="#e3e7ee",
    surface="#ffffff",
    lines=("#3b5bdb", "#d9480f", "#2b8a3e", "#9c36b5", "#0b7285", "#a61e4d"),
    ramp=("#f4f6fd", "#c9d4fb", "#8ea6f5", "#5673e0", "#2f46a8", "#1c2b6b"),
)
DARK = Theme(
    ink="#e8ecf2",
    muted="#9da9b9",
    grid="#2b3442",
    surface="#171d27",
    lines=("#91a7ff", "#ffa94d", "#69db7c", "#e599f7", "#66d9e8", "#faa2c1"),
    ramp=("#1b2230", "#263763", "#3a55a3", "#5d7ee0", "#9db4ff", "#dfe7ff"),
)


def shade(position: float, ramp: tuple[str, ...]) -> tuple[str, str]:
    """Returns the background at `position` (0 to 1) of a ramp, and the readable ink on it.

    Black or white, whichever contrasts more, always reaches 4.5 to 1.
    """
    scaled = min(max(position, 0.0), 1.0) * (len(ramp) - 1) if math.isfinite(position) else 0.0
    low = min(int(scaled), len(ramp) - 2)
    ends = [[int(ramp[i][j : j + 2], 16) for j in (1, 3, 5)] for i in (low, low + 1)]
    colour = [round(a + (b - a) * (scaled - low)) for a, b in zip(*ends, strict=True)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in
              (channel / 255 for channel in colour)]  # fmt: skip
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#{:02x}{:02x}{:02x}".format(*colour), "#000000" if luminance > 0.179 else "#ffffff"


# The content policy makes the promise checkable: a browser loads nothing but this file.
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #18202c; --muted: #566172; --line: #dfe4ec; --page: #f5f7fa; --surface: #ffffff;
  --track: #e6eaf1; --accent: #3b5bdb; --good: #237032; --good-bar: #37a44b; --bad: #b02525;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e8ecf2; --muted: #9da9b9; --line: #2b3442; --page: #0f141b; --surface: #171d27;
    --track: #2a3341; --accent: #91a7ff; --good: #69db7c; --good-bar: #3fae55; --bad: #ff8787;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: clamp(1.6rem, 4vw, 2.3rem); line-height: 1.15; margin: 4px 0 10px;
  letter-spacing: -0.02em; overflow-wrap: anywhere; text-wrap: balance; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 + .card { margin-top: 14px; }
h3 { font-size: 1rem; margin: 24px 0 10px; }
p { margin: 0; }
a { color: var(--accent); text-underline-offset: 3px; }
img { display: block; }
.eyebrow { color: var(--accent); font-size: .8rem; font-weight: 650; letter-spacing: .08em;
  text-transform: uppercase; }
.facts, .lead, .small { color: var(--muted); }
.facts { display: flex; flex-wrap: wrap; gap: 2px 20px; font-variant-numeric: tabular-nums; }
.facts b { color: var(--ink); font-weight: 600; }
.lead { max-width: 84ch; margin-bottom: 18px; }
.small { font-size: .82rem; font-weight: 400; }
.small b { color: var(--ink); font-weight: 600; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 20px 0 0; font-size: .92rem; }
section { margin-top: 44px; scroll-margin-top: 16px; }
.card { background: var(--surface); border: 1px solid var(--line); border-radius: 14px; }
.grid { display: grid; gap: 16px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); margin-top: 26px; }
.tiles .card { padding: 16px 18px; }
.tiles .value { font-size: 2.1rem; line-height: 1.2; font-weight: 680; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; }
.tiles .value small { font-size: 1rem; font-weight: 500; color: var(--muted);
  letter-spacing: 0; }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); }
.charts .card { padding: 10px; }
.charts img { width: 100%; height: auto; }
.cards { grid-template-columns: repeat(auto-fill, minmax(min(310px, 100%), 1fr)); }
.cards .card, .rows .card { padding: 16px; }
.rows { grid-template-columns: repeat(auto-fill, minmax(min(500px, 100%), 1fr)); }
.picture { border-radius: 10px; padding: 3px; object-fit: contain; background: #ffffff;
  border: 1px solid var(--line); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.results th, .results td { padding: 11px 16px; text-align: left; vertical-align: middle;
  border-top: 1px solid var(--line); }
.results tr:first-child > * { border-top: 0; }
.results th { font-weight: 600; }
.results .number { text-align: right; white-space: nowrap; }
.results .wide { width: 42%; }
.bar { display: block; position: relative; height: 10px; border-radius: 5px;
  background: var(--track); }
.bar > i { position: absolute; inset: 0 auto 0 0; border-radius: 5px; background: var(--accent); }
.bar > s { position: absolute; top: 50%; height: 2px; margin-top: -1px; background: var(--ink); }
.bar > u { position: absolute; top: -4px; bottom: -4px; width: 2px; margin-left: -1px;
  background: var(--bad); }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
.matrix { padding: 14px; }
.matrix table { border-collapse: separate; border-spacing: 3px; }
.matrix th { font-weight: 500; font-size: .88rem; line-height: 1.3; text-align: left; }
.matrix tbody th { position: sticky; left: 0; background: var(--surface); padding: 2px 10px 2px 0;
  min-width: 116px; max-width: 230px; overflow-wrap: anywhere; z-index: 1; }
.matrix .corner { position: sticky; left: 0; background: var(--surface); z-index: 1; }
.matrix thead img { width: 100%; min-width: 48px; max-width: 84px; aspect-ratio: 1;
  margin: 0 auto; }
.matrix td { text-align: center; font-size: .82rem; height: 42px; min-width: 48px;
  border-radius: 6px; background: var(--b); color: var(--f); }
.matrix td.own { box-shadow: inset 0 0 0 2px var(--good-bar); font-weight: 700; }
@media (prefers-color-scheme: dark) { .matrix td { background: var(--db); color: var(--df); } }
.guess { display: grid; grid-template-columns: 84px minmax(0, 1fr); gap: 14px;
  align-items: start; }
.guess .caption, .query { font-weight: 620; line-height: 1.35; overflow-wrap: anywhere; }
.guess ol { list-style: none; margin: 12px 0 0; padding: 0; grid-column: 1 / -1; }
.guess li { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 1px 12px;
  font-size: .88rem; padding: 3px 0; font-variant-numeric: tabular-nums; }
.guess li .bar { grid-column: 1 / -1; height: 6px; }
.guess li .bar > i { background: var(--muted); }
.guess li.right .bar > i { background: var(--good-bar); }
.guess li > span:first-child { overflow-wrap: anywhere; }
.right, .right .mark { color: var(--good); font-weight: 600; }
.mark { color: var(--bad); font-weight: 700; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(64px, 1fr)); gap: 10px;
  list-style: none; padding: 0; margin: 12px 0 0; }
.strip li { text-align: center; font-size: .8rem; color: var(--muted); }
.strip .right { color: var(--good); }
.strip img { width: 100%; aspect-ratio: 1; margin-bottom: 3px; }
.strip .right img { outline: 3px solid var(--good-bar); outline-offset: -1px; }
.found { display: grid; grid-template-columns: 84px minmax(0, 1fr); gap: 16px; }
.answers { margin: 0; padding-left: 1.3em; font-size: .9rem; line-height: 1.45; }
.answers li { padding: 1px 0; overflow-wrap: anywhere; }
.answers li::marker { color: var(--muted); font-weight: 400; }
.recipe { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr));
  gap: 0 32px; margin: 0; padding: 8px 18px; }
.recipe div { display: flex; justify-content: space-between; gap: 16px; padding: 7px 0;
  border-bottom: 1px solid var(--line); }
.recipe dt { color: var(--muted); overflow-wrap: anywhere; }
.recipe dd { margin: 0; text-align: right; overflow-wrap: anywhere;
  font: .88rem/1.7 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media (max-width: 620px) {
  main { padding: 24px 16px 48px; }
  section { margin-top: 36px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
  .tiles .card { padding: 12px 14px; }
  .tiles .value { font-size: 1.6rem; }
  .tiles .value small { display: block; font-size: .85rem; }
  .results tr { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 4px 12px;
    padding: 12px 14px; border-top: 1px solid var(--line); }
  .results tr:first-child { border-top: 0; }
  .results th, .results td { padding: 0; border: 0; }
  .results .wide { width: auto; grid-column: 1 / -1; grid-row: 2; padding: 6px 0 4px; }
  .matrix tbody th { min-width: 96px; max-width: 96px; padding-right: 4px; }
  .strip { grid-template-columns: repeat(auto-fill, minmax(44px, 1fr)); gap: 8px; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
@media print { body { background: #fff; } .card { break-inside: avoid; } nav { display: none; } }
"""

# What the suite's page has besides.
SUITE = """
:root { --second: #b4480a; }
@media (prefers-color-scheme: dark) { :root { --second: #ffa94d; } }
.suite table { table-layout: auto; }
.suite th, .suite td { padding: 9px 16px; text-align: left; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
.suite thead th, .suite thead td { border-top: 0; color: var(--muted); font-size: .82rem;
  font-weight: 500; white-space: nowrap; }
.suite th { font-weight: 600; }
.suite .group { color: var(--accent); padding-top: 20px; font-size: .92rem; }
.suite .wide { width: 34%; }
.suite .number { white-space: nowrap; }
.suite .number:last-child { color: var(--bad); }
.grid + .grid { margin-top: 16px; }
h2 + .grid, h2 + .recipe { margin-top: 14px; }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr));
  align-items: start; }
.stack { display: grid; gap: 16px; min-width: 0; }
figure { margin: 0; padding: 14px; min-width: 0; }
figcaption { font-weight: 620; line-height: 1.3; margin-bottom: 8px; overflow-wrap: anywhere; }
figure .small { margin-top: 8px; overflow-wrap: anywhere; }
.plot { display: block; width: 100%; max-width: 500px; height: auto; margin: 0 auto; }
.plot text { font-family: inherit; paint-order: stroke; stroke: var(--surface);
  stroke-width: 2.5px; stroke-linejoin: round; font-variant-numeric: tabular-nums; }
.plot .ink { fill: var(--ink); } .plot .muted { fill: var(--muted); }
.plot .accent { fill: var(--accent); } .plot .second { fill: var(--second); }
.plot .line { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.plot .line.ink { stroke: var(--ink); } .plot .line.muted { stroke: var(--muted); }
.plot .line.accent { stroke: var(--accent); } .plot .line.second { stroke: var(--second); }
.plot .line.grid { stroke: var(--line); stroke-width: 1; }
.plot .dashed { stroke-dasharray: 4 3; }
.plot .area { opacity: .18; }
.plot .dot { stroke: var(--surface); stroke-width: 1; }
.key { display: flex; flex-wrap: wrap; gap: 2px 16px; }
.key i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
.key .accent { background: var(--accent); } .key .second { background: var(--second); }
.key .muted { background: var(--muted); }
.small-plots { grid-template-columns: repeat(auto-fill, minmax(min(150px, 100%), 1fr));
  gap: 12px; }
.small-plot { padding: 10px; }
.small-plot figcaption { font-size: .88rem; margin-bottom: 4px; }
.recalls { padding: 6px 10px 12px; }
.recalls table { table-layout: fixed; }
.recalls th, .recalls td { padding: 3px 2px; text-align: center; }
.recalls thead th { color: var(--muted); font-weight: 500; font-size: .82rem; }
.recalls tbody th { text-align: left; padding-top: 12px; overflow-wrap: anywhere; }
.recalls tbody tr:first-child th { border-top: 1px solid var(--line); }
.recalls .theirs { color: var(--bad); font-size: .88rem; }
.folding { padding: 2px 0; }
.folding th, .folding td { padding: 9px 10px; text-align: left; vertical-align: top;
  border-top: 1px solid var(--line); }
.folding th:first-child { padding-left: 16px; overflow-wrap: anywhere; }
.folding td:last-child { padding-right: 16px; }
.folding thead th { border-top: 0; color: var(--muted); font-size: .82rem; font-weight: 500;
  vertical-align: bottom; }
.folding tbody th { font-weight: 600; }
.folding td .small { white-space: nowrap; }
.folding + .small { margin-top: 8px; max-width: 100ch; }
.paired > p { padding: 12px 16px 10px; font-weight: 620; overflow-wrap: anywhere; }
.paired .strip { margin: 0; padding: 0 16px; }
.paired .strip img + img { margin-top: 7px; }
.paired summary { font-size: .88rem; }
.worst { columns: 310px; column-gap: 16px; }
.worst .card { break-inside: avoid; margin-bottom: 16px; }
summary { padding: 12px 16px; cursor: pointer; font-weight: 620; overflow-wrap: anywhere; }
summary .small { white-space: nowrap; }
details ol { list-style: none; margin: 0; padding: 0 16px 12px; }
details li { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 1px 12px;
  font-size: .88rem; padding: 5px 0; font-variant-numeric: tabular-nums; }
details li > span { overflow-wrap: anywhere; }
details li > .small, details li .bar { grid-column: 1 / -1; }
details li .bar { height: 5px; }
.recipe dt { flex: none; max-width: 55%; }
.skipped { list-style: none; margin: 14px 0 0; padding: 6px 18px; }
.skipped li { padding: 10px 0; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
.skipped li:first-child { border-top: 0; }
.skipped p { font-size: .9rem; }
.tiles .small { overflow-wrap: anywhere; }
code { font: .86em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  background: var(--track); border-radius: 4px; padding: 1px 4px; }
@media (max-width: 620px) {
  .suite .wide { display: none; }
  .suite th, .suite td { padding: 8px 6px; }
  .suite th:first-child { padding-left: 14px; }
  .suite td:last-child, .suite thead th:last-child { padding-right: 14px; }
  .folding thead { display: none; }
  .folding tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(92px, 1fr));
    gap: 8px 12px; padding: 12px 14px; border-top: 1px solid var(--line); }
  .folding tbody tr:first-child { border-top: 0; }
  .folding tbody tr > :is(th, td):nth-child(n) { padding: 0; border: 0; }
  .folding tbody th { grid-column: 1 / -1; }
  .folding td:empty { display: none; }
  .folding td::before { content: attr(data-head); display: block; color: var(--muted);
    font-size: .75rem; line-height: 1.3; }
  .recalls td { font-size: .85rem; }
  .recalls b { font-weight: 600; }
  figure { padding: 12px 8px; }
  .small-plots { gap: 8px; }
}
"""
