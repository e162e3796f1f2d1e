"""The report of the evaluation suite: one self-contained HTML page about a list of records.

Like the report of a run (``report``) it needs no network, no JavaScript and no other file, and
shows what it is handed: the records' figures, and beside them what was published.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from clip_jax.evals.records import Record
from clip_jax.report import bias_section, overlap_section, plots, result_tables, robustness_section
from clip_jax.report.curves import duration
from clip_jax.report.parts import escaped, finite, found_pictures, page, percent, recipe
from clip_jax.report.style import SUITE
from clip_jax.report.titles import Titles, metric, task
from clip_jax.report.types import Pairs, Query
from clip_jax.runtime.atomic import write_atomically

_TILES = 4
_PREPROCESS = {"mean": "pixel mean", "std": "pixel deviation"}


def write(
    path: Path,
    records: Sequence[Record],
    gallery: Sequence[Query] = (),
    pairs: Pairs | None = None,
    shifts: robustness_section.Compared | None = None,
) -> Path:
    """Writes the report, whole or not at all.

    Args:
      path: the HTML file; its folder is made if it is missing.
      records: of any tasks, also of several models or protocols; none is needed.
      gallery: texts with the pictures found for them.
      pairs: test pictures beside the training pictures that are most like them.
      shifts: which of the records' models others are compared with under natural shift.

    Raises:
      ValueError: a picture is not uint8[H, W, 3], or no record is of a model in ``shifts``; what
        was at ``path`` stays.
    """
    html = render(records, gallery, pairs, shifts).encode("utf-8", "replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, html)
    return path


def render(
    records: Sequence[Record],
    gallery: Sequence[Query] = (),
    pairs: Pairs | None = None,
    shifts: robustness_section.Compared | None = None,
) -> str:
    """The page as one string. Takes and raises what ``write`` does."""
    titles = Titles(records)
    models = dict.fromkeys(titles.model(r) for r in records)
    title = f"Evaluation of {' and '.join(models)}" if models else "Nothing evaluated yet"
    # What is found of the training data is no result of the model's.
    scored = [r for r in records if r.task != "overlap"]
    overlap = overlap_section.section(records, titles, pairs or {})
    sections = [
        ("results", "Results", result_tables.results(scored, titles)),
        ("plots", "Zero-shot", _plots(records, titles, shifts or robustness_section.Compared())),
        ("few-shot", "Few-shot probes", _few_shot(records, titles)),
        ("retrieval", "Retrieval", result_tables.retrieval(records, titles)),
        ("search", "Search", _gallery(gallery)),
        ("overlap", "Overlap with training data", overlap),
        ("confusions", "Worst classes", result_tables.confusions(records, titles)),
        ("people", "Bias probes", bias_section.probes(records, titles)),
        ("skipped", "Skipped", result_tables.skipped(records)),
        ("recipe", "How it was measured", recipe(_facts(records))),
    ]
    return page(title, _header(title, records, titles), sections, SUITE + bias_section.STYLE)


def _header(title: str, records: Sequence[Record], titles: Titles) -> str:
    measured = [r for r in records if not r.skipped]
    count = len({r.dataset for r in measured})
    facts = [
        (_some(r.protocol for r in records), "protocol"),
        (_some(r.split for r in records), "split"),
        (_some(r.model_fingerprint[:12] for r in records), "model fingerprint"),
        (_some(_preprocess(r) for r in records), "preprocessing"),
        (f"{count:,}" if count else "", "data set" if count == 1 else "data sets"),
        (duration(sum(r.seconds for r in measured)) if count else "", "of computing"),
    ]
    shown = "".join(f"<span><b>{escaped(v)}</b> {name}</span>" for v, name in facts if v)
    tiles = "".join(_tile(r, titles) for r in _foremost(measured) if r.task != "overlap")
    return (
        f'<header><p class="eyebrow">clip_jax evaluation</p><h1 dir="auto">{escaped(title)}</h1>'
        + (f'<p class="facts">{shown}</p>' if shown else "")
        + (f'<div class="grid tiles">{tiles}</div>' if tiles else "")
        + "</header>"
    )


def _tile(record: Record, titles: Titles) -> str:
    low, high = record.intervals.get(record.main_metric, (None, None))
    between = f"{100 * low:.1f} to {100 * high:.1f}" if finite(low) and finite(high) else ""
    return (
        f'<div class="card"><p class="small"><b dir="auto">{escaped(titles(record))}</b><br>'
        f"{escaped(task(record.task))}, {escaped(metric(record.main_metric))}</p>"
        f'<p class="value">{percent(record.value)}</p><p class="small">{between}</p></div>'
    )


def _foremost(measured: Sequence[Record]) -> list[Record]:
    """What a reader looks for first: one of each task, ImageNet's if it is there; then others."""
    ranked = sorted(measured, key=lambda r: (r.dataset != "ImageNet", not finite(r.value)))
    first = {r.task: r for r in reversed(ranked)}
    chosen = [first[name] for name in dict.fromkeys(r.task for r in measured)][:_TILES]
    others = [r for r in ranked if not any(r is c for c in chosen)]
    return [*chosen, *others[: _TILES - len(chosen)]]


def _plots(records: Sequence[Record], titles: Titles, compared: robustness_section.Compared) -> str:
    left = plots.bars(records, titles)
    rows = robustness_section.rows(records, titles, compared)
    right = plots.scatter(records, titles) + robustness_section.plot(rows, compared)
    stacks = "".join(f'<div class="stack">{part}</div>' for part in (left, right) if part)
    drawn = f'<div class="grid plots">{stacks}</div>' if stacks else ""
    return drawn + robustness_section.table(rows, compared)


def _few_shot(records: Sequence[Record], titles: Titles) -> str:
    cards = plots.few_shot(records, titles)
    if not cards:
        return ""
    worth = plots.efficiency(records, titles)
    return (
        '<p class="lead">Accuracy by the number of training pictures a class, on a logarithmic '
        "scale: the mean over draws, and one standard deviation as a band. The dashed line is "
        f'zero-shot.</p><div class="grid small-plots">{"".join(cards)}</div>'
        + (f'<div class="grid plots">{worth}</div>' if worth else "")
    )


def _gallery(gallery: Sequence[Query]) -> str:
    if not gallery:
        return ""
    cards = "".join(
        found_pictures(text, [a if isinstance(a, tuple) else (a, None) for a in answers], *source)
        for text, answers, *source in gallery
    )
    return (
        '<p class="lead">The pictures found for a text, best first.</p>'
        f'<div class="grid rows">{cards}</div>'
    )


def _facts(records: Sequence[Record]) -> list[tuple[str, Any]]:
    """What all figures have in common, and what they do not."""
    names = dict.fromkeys(key for r in records for key in r.preprocess)
    facts = [
        ("model", _some(r.model for r in records)),
        ("model fingerprint", _some(r.model_fingerprint for r in records)),
        ("protocol", _some(r.protocol for r in records)),
        ("split", _some(r.split for r in records)),
        ("seed", _some(str(r.seed) for r in records)),
        *((_PREPROCESS.get(n, n.replace("_", " ")),
           _some(_plain(r.preprocess.get(n)) for r in records)) for n in names),
    ]  # fmt: skip
    return [(name, value) for name, value in facts if value]


def _preprocess(record: Record) -> str:
    known = record.preprocess
    size = f"{known['image_size']} px" if "image_size" in known else ""
    return ", ".join(filter(None, (size, known.get("resize"), known.get("interpolation"))))


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def _some(values: Iterable[str]) -> str:
    """The different ones among the values, but for empty ones."""
    return " | ".join(dict.fromkeys(filter(None, values)))
