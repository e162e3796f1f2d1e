"""The report of an evaluation: one self-contained HTML page about a list of records.

Like the report of a run (``run_page``) it needs no network, no JavaScript and no other file, and
shows what it is handed: the records' numbers, and beside them what was published.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from clip_jax.evals.records import Record
from clip_jax.report.curves import duration
from clip_jax.report.render import Section, Tile, between, finite, page
from clip_jax.report.sections import bias, overlap, plots, results, robustness
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
    shifts: robustness.Compared | None = None,
) -> Path:
    """Writes the report, whole or not at all.

    Args:
      path: the HTML file; its folder is made if it is missing.
      records: of any tasks, also of several models or protocols; none is needed.
      gallery: texts with the images retrieved for them.
      pairs: test images beside the training images that are most like them.
      shifts: which of the records' models others are compared with under natural shift.

    Raises:
      ValueError: an image is not uint8[H, W, 3], or no record is of a model in ``shifts``; what
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
    shifts: robustness.Compared | None = None,
) -> str:
    """The page as one string. Takes and raises what ``write`` does."""
    titles = Titles(records)
    models = dict.fromkeys(titles.model(r) for r in records)
    title = f"Evaluation of {' and '.join(models)}" if models else "Nothing evaluated yet"
    # What is found of the training data is no result of the model's.
    scored = [r for r in records if r.task != "overlap"]
    sections = [
        Section("results", "Results", results.results(scored, titles)),
        Section("plots", "Zero-shot", _plots(records, titles, shifts or robustness.Compared())),
        Section("few-shot", "Few-shot probes", _few_shot(records, titles)),
        Section("retrieval", "Retrieval", results.retrieval(records, titles)),
        Section("search", "Search", _search(gallery)),
        Section("overlap", "Overlap with training data",
                overlap.section(records, titles, pairs or {})),
        Section("confusions", "Worst classes", results.confusions(records, titles)),
        Section("people", "Bias probes", bias.probes(records, titles)),
        Section("skipped", "Skipped", results.skipped(records)),
        Section("recipe", "How it was measured", _recipe(records)),
    ]  # fmt: skip
    measured = [r for r in records if not r.skipped]
    tiles = [_tile(r, titles) for r in _foremost(measured) if r.task != "overlap"]
    return page("clip_jax evaluation", title, _facts(records, measured), tiles, sections)


def _facts(records: Sequence[Record], measured: Sequence[Record]) -> list[tuple[str, str]]:
    count = len({r.dataset for r in measured})
    return [
        (_some(r.protocol for r in records), "protocol"),
        (_some(r.split for r in records), "split"),
        (_some(r.model_fingerprint[:12] for r in records), "model fingerprint"),
        (_some(_preprocess(r) for r in records), "preprocessing"),
        (f"{count:,}" if count else "", "dataset" if count == 1 else "datasets"),
        (duration(sum(r.seconds for r in measured)) if count else "", "of computing"),
    ]


def _tile(record: Record, titles: Titles) -> Tile:
    interval = between(record.intervals.get(record.main_metric, (None, None)))
    name = f"{task(record.task)}, {metric(record.main_metric)}"
    return Tile(titles(record), name, record.value, "", interval)


def _foremost(measured: Sequence[Record]) -> list[Record]:
    """What a reader looks for first: one of each task, ImageNet's if it is there; then others."""
    ranked = sorted(measured, key=lambda r: (r.dataset != "ImageNet", not finite(r.value)))
    first = {r.task: r for r in reversed(ranked)}
    chosen = [first[name] for name in dict.fromkeys(r.task for r in measured)][:_TILES]
    others = [r for r in ranked if not any(r is c for c in chosen)]
    return [*chosen, *others[: _TILES - len(chosen)]]


def _plots(
    records: Sequence[Record], titles: Titles, compared: robustness.Compared
) -> dict[str, Any] | None:
    rows = robustness.rows(records, titles, compared)
    left = [plots.bars(records, titles)]
    right = [plots.scatter(records, titles), robustness.plot(rows, compared)]
    stacks = [shown for stack in (left, right) if (shown := [drawn for drawn in stack if drawn])]
    shifts = robustness.table(rows, compared)
    return {"stacks": stacks, "shifts": shifts} if stacks or shifts else None


def _few_shot(records: Sequence[Record], titles: Titles) -> dict[str, Any] | None:
    curves = plots.few_shot(records, titles)
    return {"curves": curves, "worth": plots.efficiency(records, titles)} if curves else None


def _search(gallery: Sequence[Query]) -> dict[str, Any] | None:
    texts = [
        (text, [a if isinstance(a, tuple) else (a, None) for a in answers], "".join(source))
        for text, answers, *source in gallery
    ]
    return {"texts": texts, "images": ()} if texts else None


def _recipe(records: Sequence[Record]) -> list[tuple[str, str]]:
    """What all numbers have in common, and what they do not."""
    names = dict.fromkeys(key for r in records for key in r.preprocess)
    known = [
        ("model", _some(r.model for r in records)),
        ("model fingerprint", _some(r.model_fingerprint for r in records)),
        ("protocol", _some(r.protocol for r in records)),
        ("split", _some(r.split for r in records)),
        ("seed", _some(str(r.seed) for r in records)),
        *((_PREPROCESS.get(n, n.replace("_", " ")),
           _some(_plain(r.preprocess.get(n)) for r in records)) for n in names),
    ]  # fmt: skip
    return [(name, value) for name, value in known if value]


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
