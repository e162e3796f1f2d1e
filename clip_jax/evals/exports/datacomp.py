"""Results in DataComp's format (github.com/mlfoundations/datacomp): lines of JSON."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NotRequired, TypedDict

from clip_jax.evals.datasets.catalog import CATALOG
from clip_jax.evals.exports.clip_benchmark import describe, is_single_label_voc, metrics_of
from clip_jax.evals.records import Record
from clip_jax.runtime.atomic import write_atomically

# DataComp's tasklist.yml: key -> name. Keys of the catalog's ``datacomp``, and of what it lacks.
TASKS: dict[str, str] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
_RETRIEVAL = {
    "Flickr30k": "retrieval/flickr_1k_test_image_text_retrieval",
    "COCO": "retrieval/mscoco_2014_5k_test_image_text_retrieval",
}
_BY_CLASS = ("vtab/caltech101", "fgvc_aircraft", "vtab/flowers", "vtab/pets")
MAIN_METRIC = {  # where it is not acc1
    **dict.fromkeys(_BY_CLASS, "mean_per_class_recall"),
    **dict.fromkeys(_RETRIEVAL.values(), "mean_recall@1"),
}


class Result(TypedDict):
    """A line of DataComp's file; ``protocol`` is added where it is not theirs."""

    key: str
    dataset: str
    metrics: dict[str, float | None]
    protocol: NotRequired[str]


def convert(record: Record) -> Result:
    """Converts a record to a line of DataComp's ``eval_results.jsonl``.

    ``metrics["main_metric"]`` is the value of DataComp's main metric; for datasets that DataComp
    does not have, that of the record's. ``acc5`` is None below five classes, as there.

    Raises:
      ValueError: The record was skipped, or is of another task than zero-shot and retrieval.
    """
    if not _has_form(record):
        why = f"skipped: {record.skipped}" if record.skipped else "neither zero_shot nor retrieval"
        raise ValueError(f"{describe(record)} has no form in DataComp: {why}")
    key, dataset = _key_and_name(record)
    metrics: dict[str, float | None] = {**metrics_of(record)}
    if record.task == "retrieval":
        recalls = [metrics.get(f"{way}_retrieval_recall@1") for way in ("text", "image")]
        metrics["mean_recall@1"] = None if None in recalls else 0.5 * sum(recalls)
    main = metrics.get(MAIN_METRIC.get(key, "acc1")) if key in TASKS else record.value
    metrics = {k: _finite_or_none(v) for k, v in (metrics | {"main_metric": main}).items()}
    result = Result(key=key, dataset=dataset, metrics=metrics)
    if record.protocol != "datacomp":
        result["protocol"] = record.protocol
    return result


def write(path: Path, records: Iterable[Record]) -> Path:
    """Writes the records that have a form in DataComp to a file, in their order.

    Raises:
      ValueError: Two records of one dataset, of which DataComp's readers would see the last.
    """
    lines: dict[str, str] = {}
    for record in filter(_has_form, records):
        line = convert(record)
        if line["key"] in lines:
            raise ValueError(
                f"{describe(record)}: another record is the line of {line['key']!r} already; write "
                "models, splits and protocols to files of their own"
            )
        lines[line["key"]] = json.dumps(line, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(lines.values()).encode())
    return path


def _has_form(record: Record) -> bool:
    return not record.skipped and record.task in ("zero_shot", "retrieval")


def _key_and_name(record: Record) -> tuple[str, str]:
    """DataComp's key and name; the catalog's or the record's own for what DataComp lacks."""
    if record.dataset in _RETRIEVAL:
        key = _RETRIEVAL[record.dataset]
        return key, TASKS[key]
    entry = CATALOG.get(record.dataset)
    if entry is None:
        return record.dataset, TASKS.get(record.dataset, record.dataset)
    if entry.datacomp and (entry.kind != "multilabel" or is_single_label_voc(record)):
        return entry.datacomp, TASKS[entry.datacomp]
    return entry.webdataset or record.dataset, entry.title


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
