"""The example images of both reports: read again from the test sets that the records are of.

Records name images by their indices, so a report of records that were read has its images too.
What is missing by now, or has changed, is left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image

from clip_jax.data.errors import DataError
from clip_jax.data.image_file import on_white, open_image
from clip_jax.data.test_sets.types import ImageDataset
from clip_jax.evals.datasets.resolve import DatasetSplits, resolve_all
from clip_jax.evals.records import Record
from clip_jax.evals.types import EvalSettings
from clip_jax.report import run_page, types
from clip_jax.report.titles import Titles

SIZE = 160  # of the longer side, in pixels
DATASETS = 3  # with images on the page: more would make it too large
_AROUND = 3  # pairs on each side of the threshold


def load(
    records: Sequence[Record], data: Sequence[str], settings: EvalSettings
) -> tuple[list[types.Query], types.Pairs]:
    """The images of an evaluation's report.

    Args:
      records: of ``evals.runner.run``.
      data, settings: its arguments.

    Returns:
      Texts with the images retrieved for them, of at most ``DATASETS`` datasets; and pairs of test
      and training images, of as many.

    Raises:
      ConfigError: as ``evals.runner.run``.
    """
    openers = {opener.title: opener for opener in resolve_all(data, settings)}
    titles = Titles(records)
    galleries = (_queries(r, _opened(r, openers), titles) for r in _searched(records))
    pairs = ((r.file_name, _pairs(r, openers, settings)) for r in _overlapping(records))
    gallery = chain.from_iterable(islice(filter(None, galleries), DATASETS))
    return list(gallery), dict(islice((named for named in pairs if named[1]), DATASETS))


# The metrics of the first rows; the report's tiles show the first four.
_FIRST = ("top1", "image_to_text_r@1", "text_to_image_r@1")


def results(records: Mapping[str, Record]) -> list[types.Result]:
    """The numbers of a run's records by evaluator, as rows of its report."""
    rows = []
    for name, record in records.items():
        baselines = record.details.get("baselines", {})
        for key, value in record.metrics.items():
            low, high = record.intervals.get(key, (None, None))
            half = None if low is None else (high - low) / 2
            rows.append(types.Result(name, key, value, record.n, half, baselines.get(key)))
    return sorted(rows, key=lambda row: row.metric not in _FIRST)


def of_run(records: Sequence[tuple[Record, ImageDataset]]) -> dict[str, Sequence]:
    """The examples of a run's report: fields of ``ReportData``.

    Args:
      records: with the test sets that they are of. Each kind of example is taken from the first
        record that has it, searches for captions rather than for classes.
    """

    def first(key: str) -> tuple[Sequence[types.Details], ImageDataset]:
        known = [(r.details[key], test) for r, test in records if r.details.get(key)]
        return min(known, key=lambda f: key == "search" and "recall" in f[0][0], default=((), None))

    def with_image(key: str) -> list[tuple[np.ndarray, types.Details]]:
        rows, test = first(key)
        loaded = [(thumbnail(test, row["image"]), row) for row in rows]
        return [(image, row) for image, row in loaded if image is not None]

    fields: dict[str, Sequence] = {
        "predictions": [types.Prediction(image, row["text"], [tuple(g) for g in row["guesses"]])
                        for image, row in with_image("predictions")],
        "image_to_text": [types.ImageQuery(image, [tuple(a) for a in row["answers"]])
                          for image, row in with_image("image_search")],
    }  # fmt: skip
    rows, test = first("search")
    answers = [(row["text"], _answers(row, test)) for row in rows]
    fields["text_to_image"] = [types.TextQuery(*query) for query in answers if query[1] is not None]
    row, test = first("similarity")
    if row and (images := _thumbnails(test, row["images"])):
        fields["similarity"] = types.Similarity(images, row["texts"], np.array(row["cosines"]))
    return {name: shown for name, shown in fields.items() if shown}


def write_run(
    workdir: Path,
    config_summary: Sequence[tuple[str, object]],
    curves: Sequence[types.Details],
    tested: Mapping[str, tuple[Record, ImageDataset]],
) -> tuple[Path, Path]:
    """Writes the report of a complete run into its workdir; see ``run_page.write_report``.

    Args:
      workdir: the run's folder, which names it.
      config_summary: what was trained, in words.
      curves: the records of its metrics.jsonl.
      tested: by evaluator, the last record and the test set that it is of.
    """
    data = types.ReportData(
        title=f"clip_jax: {workdir.name}",
        config_summary=config_summary,
        curves=curves,
        results=results({name: record for name, (record, _) in tested.items()}),
        **of_run(list(tested.values())),
    )
    return run_page.write_report(workdir, data)


def _answers(query: types.Details, test: ImageDataset) -> list[tuple[np.ndarray, bool]] | None:
    """The images retrieved for a text, each with whether it is right; None if one is unreadable."""
    images = _thumbnails(test, query["found"])
    return None if images is None else list(zip(images, query["right"], strict=True))


def _searched(records: Sequence[Record]) -> Iterable[Record]:
    """Captions and classes by turns, first where there are most of them to choose from."""
    ranked = sorted(
        (r for r in records if not r.skipped and r.details.get("search")),
        key=lambda r: -(len(r.class_names) or r.n),
    )
    turns = [[r for r in ranked if bool(r.class_names) is kind] for kind in (False, True)]
    order = [(i, turn, r) for turn, group in enumerate(turns) for i, r in enumerate(group)]
    return [r for *_, r in sorted(order, key=lambda entry: entry[:2])]


def _overlapping(records: Sequence[Record]) -> Iterable[Record]:
    with_pairs = [r for r in records if r.details.get("pairs") and not r.skipped]
    return sorted(with_pairs, key=lambda r: -r.value)


def _opened(record: Record, openers: Mapping[str, DatasetSplits]) -> ImageDataset | None:
    """The dataset that the record is of, or None."""
    if record.dataset not in openers:
        return None
    return _same(lambda: openers[record.dataset].open(record.split), record.data_fingerprint)


def _same(open_dataset: Callable[[], ImageDataset], fingerprint: str) -> ImageDataset | None:
    """The dataset, if it is there and still has this fingerprint."""
    try:
        dataset = open_dataset()
    except (DataError, OSError):
        return None
    return dataset if dataset.fingerprint == fingerprint else None


def _queries(record: Record, test: ImageDataset | None, titles: Titles) -> list[types.Query]:
    queries = []
    for query in record.details["search"] if test is not None else ():
        note = titles(record) + (f", recall {query['recall']:.0%}" if "recall" in query else "")
        if (answers := _answers(query, test)) is not None:
            queries.append((query["text"], answers, note))
    return queries


def _pairs(
    record: Record, openers: Mapping[str, DatasetSplits], settings: EvalSettings
) -> list[types.Pair]:
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


def _thumbnails(data: ImageDataset, indices: Sequence[int]) -> list[np.ndarray] | None:
    """Images of a dataset; None if one of them cannot be read."""
    images = [thumbnail(data, index) for index in indices]
    return None if any(image is None for image in images) else images


def thumbnail(data: ImageDataset, index: int, size: int = SIZE) -> np.ndarray | None:
    """Image ``index`` of a dataset, whole, as uint8[H, W, 3] of at most ``size`` pixels a side;
    None if it cannot be read.
    """
    try:
        image = data.images[index]
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        image = on_white(image if isinstance(image, Image.Image) else open_image(image))
    except Exception:  # whatever the data did: a report does without the image
        return None
    image.thumbnail((size, size))
    return np.array(image)
