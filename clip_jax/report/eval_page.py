"""The report of an evaluation: one self-contained HTML page about a list of records.

Like the report of a run (``run_page``) it needs no network, no JavaScript and no other file, and
shows what it is given: the records' numbers, and beside them what was published.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from clip_jax.evals.records import Record
from clip_jax.report import titles
from clip_jax.report.render import Page, Section, Tile
from clip_jax.report.sections import results
from clip_jax.report.sections.registry import SECTIONS
from clip_jax.report.sections.view import View
from clip_jax.report.text import between, duration, finite
from clip_jax.report.types import Query
from clip_jax.runtime.atomic import write_atomically

_TILES = 4
_PREPROCESS = {"mean": "pixel mean", "std": "pixel deviation"}


def write(path: Path, view: View) -> Path:
    """Writes the report, whole or not at all.

    Args:
      path: the HTML file; its folder is made if it is missing.
      view: records of any tasks, also of several models or protocols, with their images.

    Raises:
      ValueError: an image is not uint8[H, W, 3], or no record is of a model that is compared with;
        what was at ``path`` stays.
    """
    html = render(view).encode("utf-8", "replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, html)
    return path


def render(view: View) -> str:
    """The page as one string. Takes and raises what ``write`` does."""
    models = dict.fromkeys(view.titles.model(r) for r in view.records)
    title = f"Evaluation of {' and '.join(models)}" if models else "Nothing evaluated yet"
    parts = {name: (part, view.of(name)) for name, part in SECTIONS.items()}
    unscored = {id(r) for part, of_part in parts.values() if not part.scores for r in of_part}
    scored = [r for r in view.measured if id(r) not in unscored]
    others = [r for r in view.measured if view.section(r) not in SECTIONS]
    sections = [
        Section("results", "Results", results.results(view, scored)),
        *(Section(name, part.headline, part.build(view, of_part), part.template)
          for name, (part, of_part) in parts.items()),
        Section("metrics", "Other tasks", results.other(view, others)),
        Section("search", "Search", _search(view.gallery), "search.html"),
        Section("confusions", "Worst classes", results.worst_classes(view), "confusions.html"),
        Section("skipped", "Skipped", results.skipped(view), "skipped.html"),
        Section("recipe", "How it was measured", _recipe(view.records), "recipe.html"),
    ]  # fmt: skip
    tiles = [_tile(r, view) for r in _foremost(scored)]
    return Page("clip_jax evaluation", title, _properties(view), tiles, sections).html()


def _properties(view: View) -> list[tuple[str, str]]:
    count = len({r.dataset for r in view.measured})
    return [
        (_distinct(r.protocol for r in view.records), "protocol"),
        (_distinct(r.split for r in view.records), "split"),
        (_distinct(r.model_fingerprint[:12] for r in view.records), "model fingerprint"),
        (_distinct(_preprocess(r) for r in view.records), "preprocessing"),
        (f"{count:,}" if count else "", "dataset" if count == 1 else "datasets"),
        (duration(sum(r.seconds for r in view.measured)) if count else "", "of computing"),
    ]


def _tile(record: Record, view: View) -> Tile:
    interval = between(record.intervals.get(record.main_metric, (None, None)))
    name = f"{view.task(record.task)}, {titles.metric(record.main_metric)}"
    return Tile(view.titles(record), name, record.value, interval)


def _foremost(scored: Sequence[Record]) -> list[Record]:
    """What a reader looks for first: one of each task, ImageNet's if it is there; then others."""
    ranked = sorted(scored, key=lambda r: (r.dataset != "ImageNet", not finite(r.value)))
    first = {r.task: r for r in reversed(ranked)}
    chosen = [first[name] for name in dict.fromkeys(r.task for r in scored)]
    return [*chosen, *(r for r in ranked if not any(r is c for c in chosen))][:_TILES]


def _search(gallery: Sequence[Query]) -> dict[str, object] | None:
    texts = [
        (text, [a if isinstance(a, tuple) else (a, None) for a in answers], "".join(source))
        for text, answers, *source in gallery
    ]
    return {"texts": texts, "images": ()} if texts else None


def _recipe(records: Sequence[Record]) -> list[tuple[str, str]]:
    """What all numbers have in common, and what they do not."""
    known = {
        name.replace("_", " "): _distinct(str(getattr(r, name)) for r in records)
        for name in ("model", "model_fingerprint", "protocol", "split", "seed")
    }
    for key in dict.fromkeys(key for r in records for key in r.preprocess):
        name = _PREPROCESS.get(key, key.replace("_", " "))
        known[name] = _distinct(_plain(r.preprocess.get(key)) for r in records)
    return [(name, value) for name, value in known.items() if value]


def _preprocess(record: Record) -> str:
    known = record.preprocess
    size = f"{known['image_size']} px" if "image_size" in known else ""
    return ", ".join(filter(None, (size, known.get("resize"), known.get("interpolation"))))


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def _distinct(values: Iterable[str]) -> str:
    """The different ones among the values, but for empty ones."""
    return " | ".join(dict.fromkeys(filter(None, values)))
