"""Results in CLIP_benchmark's format (github.com/LAION-AI/CLIP_benchmark): JSON files and a CSV."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict, Unpack

from clip_jax.evals.datasets.catalog import CATALOG
from clip_jax.evals.metrics import caption_selection, retrieval
from clip_jax.evals.records import Record
from clip_jax.runtime.atomic import write_atomically

# Our tasks -> CLIP_benchmark's. A few-shot curve has no counterpart: its fewshot_k is one run.
TASKS = {
    "zero_shot": "zeroshot_classification",
    "retrieval": "zeroshot_retrieval",
    "linear_probe": "linear_probe",
    "caption_selection": "image_caption_selection",
}

_ACCURACIES = {"acc1": "top1", "acc5": "top5", "mean_per_class_recall": "mean_per_class_recall"}
_FEWEST_FOR_TOP5 = 5


class Result(TypedDict):
    """CLIP_benchmark's object of one run; ``protocol`` is added where it is not theirs."""

    dataset: str
    model: str
    pretrained: str
    task: str
    metrics: dict[str, float]
    language: str
    protocol: NotRequired[str]
    classnames: NotRequired[list[str | Sequence[str]]]
    templates: NotRequired[list[str]]


class ConvertOptions(TypedDict, total=False):
    """The options of ``convert``."""

    pretrained: str
    language: str
    prompts: bool


def convert(
    record: Record, *, pretrained: str = "", language: str = "en", prompts: bool = False
) -> Result:
    """Converts a record to CLIP_benchmark's object.

    Datasets have CLIP_benchmark's names where the catalog knows them. ``acc5`` is NaN below five
    classes. ``mean_average_precision`` is that of steps if the record has it, else of 11 points.

    Args:
      record: of a task in ``TASKS``, not skipped.
      pretrained: CLIP_benchmark's name of the weights; by default the first twelve digits of the
        model's fingerprint.
      language: of class names and prompts.
      prompts: whether to add ``classnames`` and ``templates`` (``--dump_classnames`` and
        ``--dump_templates`` there); the placeholder of the name in a template is ``{c}``.

    Raises:
      ValueError: The record was skipped, or CLIP_benchmark has no such task.
    """
    if record.skipped or record.task not in TASKS:
        why = f"it was skipped: {record.skipped}" if record.skipped else f"known are {list(TASKS)}"
        raise ValueError(f"{describe(record)} has no form in CLIP_benchmark; {why}")
    result = Result(
        dataset=_dataset_name(record),
        model=record.model,
        pretrained=pretrained or record.model_fingerprint[:12],
        task=TASKS[record.task],
        metrics=metrics_of(record),
        language=language,
    )
    if record.protocol != "clip_benchmark":
        result["protocol"] = record.protocol
    if prompts and record.task == "zero_shot":
        result["classnames"] = list(record.class_names)
        result["templates"] = [t.replace("{}", "{c}") for t in record.templates]
    return result


def file_name(result: Result) -> str:
    """Returns the file name of a result: CLIP_benchmark's default ``--output``.

    Other characters become "_" in the dataset's name, as there, and "-" in the other parts.
    """
    dataset = re.sub(r"[^\w.+-]", "_", result["dataset"])
    rest = (result["pretrained"], result["model"], result["language"], result["task"])
    return "_".join([dataset, *(re.sub(r"[^\w.+-]+", "-", part) for part in rest)]) + ".json"


def write(folder: Path, records: Iterable[Record], **options: Unpack[ConvertOptions]) -> list[Path]:
    """Writes a JSON file for each record, and ``benchmark.csv`` with all of them.

    Args:
      folder: created if it is missing. Files of the same name are replaced.
      records: skipped ones and few-shot curves are left out.
      options: see ``convert``.

    Returns:
      The files, the CSV last.

    Raises:
      ValueError: Two records would have the same file name.
    """
    files: dict[str, Result] = {}
    for record in records:
        if record.skipped or record.task not in TASKS:
            continue
        result = convert(record, **options)
        name = file_name(result)
        if name in files:
            raise ValueError(
                f"{describe(record)}: another record has the file name {name} already, for "
                "CLIP_benchmark's names distinguish neither splits nor protocols; write them to "
                "folders of their own"
            )
        files[name] = result
    folder.mkdir(parents=True, exist_ok=True)
    for name, result in files.items():
        # With a bare NaN, which is not JSON but what CLIP_benchmark writes and reads.
        write_atomically(folder / name, (json.dumps(result) + "\n").encode())
    table = folder / "benchmark.csv"
    write_atomically(table, csv_table(list(files.values())).encode())
    return [*(folder / name for name in files), table]


def csv_table(results: Sequence[Result]) -> str:
    """Returns the CSV text that ``clip_benchmark build`` makes of results.

    It has a column for each metric and each key, and ``model_fullname``; missing values are empty.
    Columns are in the order of the rows (there, in arbitrary order).
    """
    rows = []
    for result in results:
        row = result["metrics"] | {k: v for k, v in result.items() if k != "metrics"}
        rows.append(row | {"model_fullname": f"{row['model']} {row['pretrained']}"})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def metrics_of(record: Record) -> dict[str, float]:
    """Returns the metrics that CLIP_benchmark has, by its names."""
    if record.task == "retrieval":
        return retrieval.clip_benchmark_names(record.metrics)
    if record.task == "caption_selection":
        metrics = _renamed(record, caption_selection.CLIP_BENCHMARK)
        # With one image an instance (SugarCrepe) there is one choice, which is the group's.
        metrics.setdefault("acc", record.value)
        return metrics
    metrics = _renamed(record, _ACCURACIES)
    if "acc5" in metrics and 0 < len(record.class_names) < _FEWEST_FOR_TOP5:
        metrics["acc5"] = math.nan
    for area in ("mean_average_precision_step", "mean_average_precision"):
        if area in record.metrics:
            metrics.setdefault("mean_average_precision", record.metrics[area])
    if record.task == "linear_probe":
        metrics = {f"lp_{name}": value for name, value in metrics.items()}
        metrics |= {"seed": record.seed, "fewshot_k": -1}  # -1: all of the training split
    return metrics


def is_single_label_voc(record: Record) -> bool:
    """Returns whether a record is of VOC 2007 with one class an image: there another dataset."""
    entry = CATALOG.get(record.dataset)
    return entry is not None and entry.kind == "multilabel" and "top1" in record.metrics


def describe(record: Record) -> str:
    """Returns what error messages call a record."""
    return f"the record {record.dataset}, {record.split}, {record.task}, {record.protocol}"


def _renamed(record: Record, names: dict[str, str]) -> dict[str, float]:
    return {k: record.metrics[ours] for k, ours in names.items() if ours in record.metrics}


def _dataset_name(record: Record) -> str:
    entry = CATALOG.get(record.dataset)
    if entry is None:
        return record.dataset
    # DataComp has its names from CLIP_benchmark, also those that are in no list of the hub
    # (Food-101's, VOC 2007's with one class an image).
    names = [entry.webdataset, entry.datacomp]
    return next(filter(None, names[is_single_label_voc(record) :]), record.dataset)
