"""The example images of both reports: read again from the test sets that the records are of.

Records name images by their indices, so a report of records that were read has its images too.
What is missing by now, or has changed, is left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from clip_jax.data.errors import DataError
from clip_jax.data.image_file import on_white, open_image
from clip_jax.data.preprocess import ImageInput
from clip_jax.data.test_sets.types import ImageDataset
from clip_jax.evals.datasets.resolve import DatasetSplits, resolve_all
from clip_jax.evals.records import Record
from clip_jax.evals.types import EvalSettings
from clip_jax.report.titles import Titles
from clip_jax.report.types import (
    ImageQuery,
    Pairs,
    Prediction,
    Query,
    Result,
    Similarity,
    TextQuery,
)

SIZE = 160  # of the longer side, in pixels
DATA_SETS = 3  # with images on the page: more would make it too large
_AROUND = 3  # pairs on each side of the threshold


def load(
    records: Sequence[Record], data: Sequence[str], settings: EvalSettings
) -> tuple[list[Query], Pairs]:
    """The pictures for ``suite_report.write``.

    Args:
      records: of ``suite.run``.
      data, settings: what it was given.

    Returns:
      Texts with the pictures found for them, of at most ``DATA_SETS`` data sets; and pairs of test
      and training pictures, of as many.

    Raises:
      ConfigError: as ``suite.run``.
    """
    known = {opener.title: opener for opener in resolve_all(data, settings)}
    titles = Titles(records)
    gallery: list[Query] = []
    shown = 0
    for record in _searched(records):
        found = _queries(record, _opened(record, known), titles) if shown < DATA_SETS else []
        gallery += found
        shown += bool(found)
    pairs: dict[str, Any] = {}
    for record in _overlapping(records):
        if len(pairs) < DATA_SETS and (found := _pairs(record, known, settings)):
            pairs[record.file_name] = found
    return gallery, pairs


# The metrics of the first rows; the report's tiles show the first four.
_FIRST = ("top1", "image_to_text_r@1", "text_to_image_r@1")


def results(records: Mapping[str, Record]) -> list[Result]:
    """The numbers of a run's records by evaluator, as rows of its report."""
    rows = []
    for name, record in records.items():
        baselines = record.details.get("baselines", {})
        for key, value in record.metrics.items():
            low, high = record.intervals.get(key, (None, None))
            half = None if low is None else (high - low) / 2
            rows.append(Result(name, key, value, record.n, half, baselines.get(key)))
    return sorted(rows, key=lambda row: row.metric not in _FIRST)


def of_run(records: Sequence[tuple[Record, ImageDataset]]) -> dict[str, Any]:
    """The examples of a run's report: fields of ``ReportData``.

    Args:
      records: with the test sets that they are of. Each kind of example is taken from the first
        record that has it, searches for captions rather than for classes.
    """

    def first(key: str) -> tuple[Any, ImageDataset] | None:
        found = [(r.details[key], test) for r, test in records if r.details.get(key)]
        return min(found, key=lambda f: key == "search" and "recall" in f[0][0], default=None)

    fields: dict[str, Any] = {}
    if found := first("predictions"):
        rows, test = found
        shown = [(thumbnail(test, row["image"]), row) for row in rows]
        fields["predictions"] = [
            Prediction(image, row["text"], [tuple(g) for g in row["guesses"]])
            for image, row in shown
            if image is not None
        ]
    if found := first("similarity"):
        row, test = found
        images = [thumbnail(test, i) for i in row["images"]]
        if all(image is not None for image in images):
            fields["similarity"] = Similarity(images, row["texts"], np.array(row["cosines"]))
    if found := first("search"):
        rows, test = found
        fields["text_to_image"] = [
            TextQuery(row["text"], answers)
            for row in rows
            if (answers := _answers(row, test)) is not None
        ]
    if found := first("image_search"):
        rows, test = found
        shown = [(thumbnail(test, row["image"]), row) for row in rows]
        fields["image_to_text"] = [
            ImageQuery(image, [tuple(a) for a in row["answers"]])
            for image, row in shown
            if image is not None
        ]
    return fields


def _answers(query: Mapping[str, Any], test: ImageDataset) -> list[tuple[np.ndarray, bool]] | None:
    """The images retrieved for a text, each with whether it is right; None if one is unreadable."""
    images = [thumbnail(test, i) for i in query["found"]]
    if any(image is None for image in images):
        return None
    return list(zip(images, query["right"], strict=True))


def _searched(records: Sequence[Record]) -> Iterable[Record]:
    """Captions and classes by turns, first where there are most of them to choose from."""
    ranked = sorted(
        (r for r in records if not r.skipped and r.details.get("search")),
        key=lambda r: -(len(r.class_names) or r.n),
    )
    turns = [[r for r in ranked if bool(r.class_names) is kind] for kind in (False, True)]
    places = [(i, turn, r) for turn, group in enumerate(turns) for i, r in enumerate(group)]
    return [r for *_, r in sorted(places, key=lambda place: place[:2])]


def _overlapping(records: Sequence[Record]) -> Iterable[Record]:
    found = [r for r in records if r.details.get("pairs") and not r.skipped]
    return sorted(found, key=lambda r: -r.value)


def _opened(record: Record, openers: Mapping[str, DatasetSplits]) -> ImageDataset | None:
    """The pictures that the record is of, or None."""
    if record.dataset not in openers:
        return None
    return _same(lambda: openers[record.dataset].open(record.split), record.data_fingerprint)


def _same(open_dataset: Callable[[], Any], fingerprint: str) -> Any:
    """The set, if it is there and still has this fingerprint."""
    try:
        found = open_dataset()
    except (DataError, OSError):
        return None
    return found if found.fingerprint == fingerprint else None


def _queries(record: Record, test: ImageDataset | None, titles: Titles) -> list[Query]:
    if test is None:
        return []
    found = []
    for query in record.details["search"]:
        answers = _answers(query, test)
        if answers is None:
            continue
        facts = [titles(record)]
        if "recall" in query:
            facts.append(f"recall {query['recall']:.0%}")
        found.append((query["text"], answers, ", ".join(facts)))
    return found


def _pairs(
    record: Record, openers: Mapping[str, DatasetSplits], settings: EvalSettings
) -> list[tuple[Mapping[str, Any], np.ndarray, np.ndarray]]:
    """The most similar pairs, and those on both sides of the threshold."""
    known = record.details
    test = _opened(record, openers)
    if test is None or not settings.overlap_with:
        return []
    training = _same(openers[record.dataset].training_images, known["training_fingerprint"])
    if training is None:
        return []
    near = [p for p in known["around"] if p["found"]][-_AROUND:]
    near += [p for p in known["around"] if not p["found"]][:_AROUND]
    chosen = {pair["test_index"]: pair for pair in known["pairs"][: 2 * _AROUND] + near}
    loaded = [
        (p, thumbnail(test, p["test_index"]), thumbnail(training, p["training_index"]))
        for p in chosen.values()
    ]
    return [(pair, a, b) for pair, a, b in loaded if a is not None and b is not None]


def thumbnail(data: ImageDataset, index: int, size: int = SIZE) -> np.ndarray | None:
    """Image ``index`` of a set, whole, as uint8[H, W, 3] of at most ``size`` pixels a side; None
    if it cannot be read.
    """
    try:
        image = on_white(_image(data.images[index]))
    except Exception:  # whatever the data did: a report does without the picture
        return None
    image.thumbnail((size, size))
    return np.array(image)


def _image(picture: ImageInput) -> Image.Image:
    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture)
    return picture if isinstance(picture, Image.Image) else open_image(picture)
