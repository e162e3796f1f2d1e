"""Results in the formats of CLIP_benchmark and DataComp, for what reads those.

CLIP_benchmark (github.com/LAION-AI/CLIP_benchmark) writes a JSON file for each run and merges them
into a CSV; DataComp (github.com/mlfoundations/datacomp) writes a line of ``eval_results.jsonl`` for
each task. Neither says how a figure was made: a record of another protocol than theirs has one
more key here, ``protocol``, which their readers carry along. What was skipped is left out.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_jax.evals.datasets.catalog import CATALOG
from clip_jax.evals.metrics import caption_selection, retrieval
from clip_jax.evals.records import Record
from clip_jax.runtime.atomic import write_atomically

# Ours -> CLIP_benchmark's. Few-shot curves have no counterpart: its fewshot_k is a single run.
TASKS = {
    "zero_shot": "zeroshot_classification",
    "retrieval": "zeroshot_retrieval",
    "linear_probe": "linear_probe",
    "caption_selection": "image_caption_selection",
}

_ACCURACIES = {"acc1": "top1", "acc5": "top5", "mean_per_class_recall": "mean_per_class_recall"}
_FEWEST_FOR_TOP5 = 5

# DataComp's tasklist.yml: key -> name. Keys of the catalog's `datacomp`, and of what it lacks.
DATACOMP = {
    "vtab/caltech101": "Caltech-101",
    "cifar10": "CIFAR-10",
    "vtab/cifar100": "CIFAR-100",
    "vtab/clevr_count_all": "CLEVR Counts",
    "vtab/clevr_closest_object_distance": "CLEVR Distance",
    "country211": "Country211",
    "vtab/dtd": "Describable Textures",
    "vtab/eurosat": "EuroSAT",
    "fgvc_aircraft": "FGVC Aircraft",
    "food101": "Food-101",
    "gtsrb": "GTSRB",
    "imagenet1k": "ImageNet 1k",
    "imagenet_sketch": "ImageNet Sketch",
    "imagenetv2": "ImageNet v2",
    "imagenet-a": "ImageNet-A",
    "imagenet-o": "ImageNet-O",
    "imagenet-r": "ImageNet-R",
    "vtab/kitti_closest_vehicle_distance": "KITTI Vehicle Distance",
    "mnist": "MNIST",
    "objectnet": "ObjectNet",
    "vtab/flowers": "Oxford Flowers-102",
    "vtab/pets": "Oxford-IIIT Pet",
    "voc2007": "Pascal VOC 2007",
    "vtab/pcam": "PatchCamelyon",
    "renderedsst2": "Rendered SST2",
    "vtab/resisc45": "RESISC45",
    "cars": "Stanford Cars",
    "stl10": "STL-10",
    "sun397": "SUN397",
    "vtab/svhn": "SVHN",
    "retrieval/flickr_1k_test_image_text_retrieval": "Flickr",
    "retrieval/mscoco_2014_5k_test_image_text_retrieval": "MSCOCO",
}
DATACOMP_MAIN = {  # where it is not acc1
    "vtab/caltech101": "mean_per_class_recall",
    "fgvc_aircraft": "mean_per_class_recall",
    "vtab/flowers": "mean_per_class_recall",
    "vtab/pets": "mean_per_class_recall",
    "retrieval/flickr_1k_test_image_text_retrieval": "mean_recall@1",
    "retrieval/mscoco_2014_5k_test_image_text_retrieval": "mean_recall@1",
}
_DATACOMP_RETRIEVAL = {
    "Flickr30k": "retrieval/flickr_1k_test_image_text_retrieval",
    "COCO": "retrieval/mscoco_2014_5k_test_image_text_retrieval",
}


def clip_benchmark(
    record: Record, *, pretrained: str = "", language: str = "en", prompts: bool = False
) -> dict[str, Any]:
    """A record as CLIP_benchmark's object.

    Args:
      record: of a task in ``TASKS``, not skipped.
      pretrained: what CLIP_benchmark calls the weights; left out: the first twelve digits of the
        model's fingerprint.
      language: of class names and prompts.
      prompts: whether to add ``classnames`` and ``templates``, as ``--dump_classnames`` and
        ``--dump_templates`` do there; the name's place in a template is ``{c}``.

    Returns:
      {dataset, model, pretrained, task, metrics, language}. Names of data sets are
      CLIP_benchmark's where the catalog knows them. ``acc5`` is NaN where there are fewer than
      five classes, and ``mean_average_precision`` is the area under the steps, not the paper's of
      11 points, where the record has both: so it is there.

    Raises:
      ValueError: the record was skipped, or CLIP_benchmark has no such task.
    """
    if record.skipped or record.task not in TASKS:
        why = f"it was skipped: {record.skipped}" if record.skipped else f"known are {list(TASKS)}"
        raise ValueError(f"{_called(record)} is nothing that CLIP_benchmark could say; {why}")
    found = {
        "dataset": _clip_benchmark_name(record),
        "model": record.model,
        "pretrained": pretrained or record.model_fingerprint[:12],
        "task": TASKS[record.task],
        "metrics": _metrics(record),
        "language": language,
    }
    if record.protocol != "clip_benchmark":
        found["protocol"] = record.protocol
    if prompts and record.task == "zero_shot":
        found["classnames"] = list(record.class_names)
        found["templates"] = [t.replace("{}", "{c}") for t in record.templates]
    return found


def clip_benchmark_file(result: Mapping[str, Any]) -> str:
    """The file name of an object of ``clip_benchmark``: CLIP_benchmark's default ``--output``.

    What a file name cannot hold becomes "_" in the data set's name, as there, and "-" in others.
    """
    dataset = re.sub(r"[^\w.+-]", "_", result["dataset"])
    rest = (result[key] for key in ("pretrained", "model", "language", "task"))
    return "_".join([dataset, *(re.sub(r"[^\w.+-]+", "-", str(part)) for part in rest)]) + ".json"


def write_clip_benchmark(
    folder: Path,
    records: Iterable[Record],
    *,
    pretrained: str = "",
    language: str = "en",
    prompts: bool = False,
) -> list[Path]:
    """Writes a JSON file for each record, and ``benchmark.csv`` of them all.

    Args:
      folder: made if it is missing. Files of the same name are replaced.
      records: those skipped, and few-shot curves, are left out.
      pretrained, language, prompts: see ``clip_benchmark``.

    Returns:
      The files, the CSV last.

    Raises:
      ValueError: two records would be the same file, as CLIP_benchmark's names tell neither splits
        nor protocols apart.
    """
    files: dict[str, dict[str, Any]] = {}
    for record in records:
        if record.skipped or record.task not in TASKS:
            continue
        result = clip_benchmark(record, pretrained=pretrained, language=language, prompts=prompts)
        name = clip_benchmark_file(result)
        if name in files:
            raise ValueError(
                f"{_called(record)}: another record is {name} already, for CLIP_benchmark's names "
                "tell neither splits nor protocols apart; write them to folders of their own"
            )
        files[name] = result
    folder.mkdir(parents=True, exist_ok=True)
    for name, result in files.items():
        # With NaN as a bare word, which is not JSON but what CLIP_benchmark writes and reads.
        write_atomically(folder / name, (json.dumps(result) + "\n").encode())
    table = folder / "benchmark.csv"
    write_atomically(table, clip_benchmark_csv(list(files.values())).encode())
    return [*(folder / name for name in files), table]


def clip_benchmark_csv(results: Sequence[Mapping[str, Any]]) -> str:
    """The table that ``clip_benchmark build`` makes of such objects, as the text of a CSV file.

    A column for each metric and each key, and ``model_fullname``; what a row lacks is empty. (Their
    columns come in any order; here they come in that of the rows.)
    """
    rows = []
    for result in results:
        row = dict(result["metrics"]) | {k: v for k, v in result.items() if k != "metrics"}
        rows.append(row | {"model_fullname": f"{row['model']} {row['pretrained']}"})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def datacomp(record: Record) -> dict[str, Any]:
    """A record as a line of DataComp's ``eval_results.jsonl``.

    Args:
      record: zero-shot classification or retrieval, not skipped.

    Returns:
      {key, dataset, metrics}. ``metrics["main_metric"]`` is the value of DataComp's main metric;
      for data sets that DataComp does not have, that of the record's. ``acc5`` is None below five
      classes, as there.

    Raises:
      ValueError: the record was skipped, or is of another task.
    """
    if record.skipped or record.task not in ("zero_shot", "retrieval"):
        why = f"skipped: {record.skipped}" if record.skipped else "neither zero_shot nor retrieval"
        raise ValueError(f"{_called(record)} is nothing that DataComp could say: {why}")
    key, dataset = _datacomp_key(record)
    metrics = _metrics(record)
    if record.task == "retrieval":
        both = [metrics.get(f"{way}_retrieval_recall@1") for way in ("text", "image")]
        metrics["mean_recall@1"] = None if None in both else 0.5 * sum(both)
    main = metrics.get(DATACOMP_MAIN.get(key, "acc1")) if key in DATACOMP else record.value
    metrics = {k: _or_none(v) for k, v in (metrics | {"main_metric": main}).items()}
    found = {"key": key, "dataset": dataset, "metrics": metrics}
    return found | ({} if record.protocol == "datacomp" else {"protocol": record.protocol})


def write_datacomp(path: Path, records: Iterable[Record]) -> Path:
    """Writes ``eval_results.jsonl``, in the order of the records.

    Args:
      path: the file, replaced if it is there.
      records: those skipped, and those of other tasks than zero-shot and retrieval, are left out.

    Raises:
      ValueError: two records of one data set, of which DataComp's readers would see the last.
    """
    lines: dict[str, str] = {}
    for record in records:
        if record.skipped or record.task not in ("zero_shot", "retrieval"):
            continue
        line = datacomp(record)
        if line["key"] in lines:
            raise ValueError(
                f"{_called(record)}: another record is the line of {line['key']!r} already; write "
                "models, splits and protocols to files of their own"
            )
        lines[line["key"]] = json.dumps(line, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(lines.values()).encode())
    return path


def _metrics(record: Record) -> dict[str, Any]:
    """What a record has, by CLIP_benchmark's names; what has none there is left out."""
    if record.task == "retrieval":
        return retrieval.clip_benchmark_names(record.metrics)
    if record.task == "caption_selection":
        names = caption_selection.CLIP_BENCHMARK
        found = {k: record.metrics[ours] for k, ours in names.items() if ours in record.metrics}
        # With one picture an instance (SugarCrepe) there is one choice, which is the whole.
        return found | ({} if "acc" in found else {"acc": record.value})
    found = {k: record.metrics[ours] for k, ours in _ACCURACIES.items() if ours in record.metrics}
    if "acc5" in found and 0 < len(record.class_names) < _FEWEST_FOR_TOP5:
        found["acc5"] = math.nan
    areas = ("mean_average_precision_step", "mean_average_precision")
    for area in [name for name in areas if name in record.metrics][:1]:
        found["mean_average_precision"] = record.metrics[area]
    if record.task == "linear_probe":
        found = {f"lp_{name}": value for name, value in found.items()}
        found |= {"seed": record.seed, "fewshot_k": -1}  # -1: all of the training split
    return found


def _clip_benchmark_name(record: Record) -> str:
    entry = CATALOG.get(record.dataset)
    if entry is None:
        return record.dataset
    # VOC 2007 with a single class a picture is another data set there, named as DataComp's is:
    # DataComp has its names from there, also those that are in no list of the hub (Food-101's).
    names = [entry.webdataset, entry.datacomp]
    return next(filter(None, names[_single_label_voc(record) :]), record.dataset)


def _datacomp_key(record: Record) -> tuple[str, str]:
    """DataComp's key and name; the catalog's or the record's own for what DataComp lacks."""
    if record.dataset in _DATACOMP_RETRIEVAL:
        key = _DATACOMP_RETRIEVAL[record.dataset]
        return key, DATACOMP[key]
    entry = CATALOG.get(record.dataset)
    if entry is None:
        return record.dataset, DATACOMP.get(record.dataset, record.dataset)
    if entry.datacomp and (entry.kind != "multilabel" or _single_label_voc(record)):
        return entry.datacomp, DATACOMP[entry.datacomp]
    return entry.webdataset or record.dataset, entry.title


def _single_label_voc(record: Record) -> bool:
    entry = CATALOG.get(record.dataset)
    return entry is not None and entry.kind == "multilabel" and "top1" in record.metrics


def _called(record: Record) -> str:
    return f"the record {record.dataset}, {record.split}, {record.task}, {record.protocol}"


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
