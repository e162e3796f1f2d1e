"""Results in others' formats: names as their programs write them, values as our records have them.

The expected names were read off CLIP_benchmark 1.6.2 (cli.py, metrics/*.py, datasets/builder.py)
and DataComp (evaluate.py, tasklist.yml, eval_utils/*.py).
"""

import csv
import dataclasses
import io
import json
import math

import pytest

from clip_jax.evals.datasets.catalog import CATALOG
from clip_jax.evals.exports import clip_benchmark, datacomp
from clip_jax.evals.records import Record

COMMON = {"model": "ViT-B/32", "model_fingerprint": "0123456789abcdef" * 4, "seed": 3}
CLASSES = ("cat", "dog", ("crane", "bird"), "ox", "hen")


def record(task="zero_shot", dataset="CIFAR10", protocol="clip_benchmark", metrics=None, **more):
    metrics = {"top1": 0.5, "top5": 0.9, "mean_per_class_recall": 0.4,
               "mean_top1_top5": 0.7} if metrics is None else metrics  # fmt: skip
    main = next(iter(metrics), "")
    return Record(task, dataset, "test", protocol, 100, main, metrics, **(COMMON | more))


def retrieval(dataset="COCO", **more):
    metrics = {"image_to_text_r@1": 0.6, "text_to_image_r@1": 0.25, "image_to_text_r@5": 0.8,
               "text_to_image_r@5": 0.45, "mean_r@1": 0.425}  # fmt: skip
    return record("retrieval", dataset, metrics=metrics, **more)


SKIPPED = record(metrics={}, skipped="it is not here")
FEW_SHOT = record("few_shot", metrics={"top1@16": 0.8})


def test_clip_benchmark_zero_shot():
    found = clip_benchmark.convert(record(class_names=CLASSES), pretrained="openai")
    assert found == {
        "dataset": "vtab/cifar10",
        "model": "ViT-B/32",
        "pretrained": "openai",
        "task": "zeroshot_classification",
        "metrics": {"acc1": 0.5, "acc5": 0.9, "mean_per_class_recall": 0.4},
        "language": "en",
    }
    assert list(found) == ["dataset", "model", "pretrained", "task", "metrics", "language"]


@pytest.mark.parametrize(("classes", "is_nan"), [(2, True), (4, True), (5, False), (10, False)])
def test_top5_needs_five_classes(classes, is_nan):
    shown = record(class_names=["x"] * classes)
    assert math.isnan(clip_benchmark.convert(shown)["metrics"]["acc5"]) == is_nan
    assert (datacomp.convert(shown)["metrics"]["acc5"] is None) == is_nan


def test_clip_benchmark_multilabel_has_the_area_under_the_steps():
    both = {"mean_average_precision": 0.83, "mean_average_precision_step": 0.85}
    found = clip_benchmark.convert(record(dataset="PascalVOC2007", metrics=both))
    assert found["dataset"] == "voc2007_multilabel"
    assert found["metrics"] == {"mean_average_precision": 0.85}
    only = clip_benchmark.convert(record(metrics={"mean_average_precision": 0.83}))
    assert only["metrics"] == {"mean_average_precision": 0.83}
    single = clip_benchmark.convert(record(dataset="PascalVOC2007"))
    assert single["dataset"] == "voc2007"


def test_clip_benchmark_retrieval_is_named_by_what_is_found():
    found = clip_benchmark.convert(retrieval())
    assert (found["task"], found["dataset"]) == ("zeroshot_retrieval", "mscoco_captions")
    assert found["metrics"] == {
        "text_retrieval_recall@1": 0.6, "image_retrieval_recall@1": 0.25,
        "text_retrieval_recall@5": 0.8, "image_retrieval_recall@5": 0.45,
    }  # fmt: skip


def test_clip_benchmark_linear_probe():
    found = clip_benchmark.convert(record("linear_probe"))
    assert found["task"] == "linear_probe"
    assert found["metrics"] == {
        "lp_acc1": 0.5, "lp_acc5": 0.9, "lp_mean_per_class_recall": 0.4, "seed": 3,
        "fewshot_k": -1,
    }  # fmt: skip


def test_clip_benchmark_caption_selection():
    metrics = {"text_score": 0.3, "image_score": 0.2, "group_score": 0.1}
    found = clip_benchmark.convert(record("caption_selection", "winoground", metrics=metrics))
    assert found["task"] == "image_caption_selection"
    assert found["metrics"] == {"text_acc": 0.3, "image_acc": 0.2, "acc": 0.1}


def test_weights_protocol_and_prompts_are_told():
    shown = record(class_names=CLASSES, templates=["a {}.", "the {} {brown}"], protocol="paper")
    found = clip_benchmark.convert(shown, language="it", prompts=True)
    assert found["pretrained"] == "0123456789ab" and found["protocol"] == "paper"
    assert found["language"] == "it"
    assert found["classnames"] == list(CLASSES)
    assert found["templates"] == ["a {c}.", "the {c} {brown}"]
    assert "classnames" not in clip_benchmark.convert(shown)
    assert "classnames" not in clip_benchmark.convert(retrieval(), prompts=True)


@pytest.mark.parametrize("shown", [SKIPPED, FEW_SHOT])
def test_what_the_formats_cannot_say_is_refused(shown):
    for convert in (clip_benchmark.convert, datacomp.convert):
        with pytest.raises(ValueError, match="the record CIFAR10, test, "):
            convert(shown)
    with pytest.raises(ValueError, match="neither zero_shot nor retrieval"):
        datacomp.convert(record("linear_probe"))


def test_file_names():
    found = clip_benchmark.convert(record(), pretrained="openai", language="en")
    assert (
        clip_benchmark.file_name(found)
        == "vtab_cifar10_openai_ViT-B-32_en_zeroshot_classification.json"
    )
    strange = found | {"dataset": "wds/../ü x", "pretrained": "/a/b.pt", "model": "漢 字/?"}
    name = clip_benchmark.file_name(strange)
    assert name == "wds_.._ü_x_-a-b.pt_漢-字-_en_zeroshot_classification.json"


def test_every_data_set_of_the_catalog_has_its_name_there():
    for name, entry in CATALOG.items():
        found = clip_benchmark.convert(record(dataset=name))["dataset"]
        known = entry.webdataset or entry.datacomp or name
        assert found == known or entry.kind == "multilabel"
    assert clip_benchmark.convert(record(dataset="Food101"))["dataset"] == "food101"
    assert clip_benchmark.convert(record(dataset="my/own"))["dataset"] == "my/own"


def merged(paths):
    """What `clip_benchmark build` does (its cli.py, main_build)."""
    rows = []
    for path in paths:
        data = json.loads(path.read_text())
        row = data["metrics"] | data
        del row["metrics"]
        row["model_fullname"] = row["model"] + " " + row["pretrained"]
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames={key for row in rows for key in row})
    writer.writeheader()
    writer.writerows(rows)
    return list(csv.DictReader(io.StringIO(text.getvalue())))


def test_written_files_merge_to_the_written_table(tmp_path):
    shown = [
        record(class_names=("no", "yes"), dataset="SST2"),
        SKIPPED,
        FEW_SHOT,
        record("linear_probe", protocol="paper"),
        retrieval(),
        record(dataset='a "b", c', templates=["{}"]),
    ]
    folder = tmp_path / "new" / "folder"
    paths = clip_benchmark.write(folder, shown, pretrained="openai", prompts=True)
    assert [p.name for p in paths] == [
        "renderedsst2_openai_ViT-B-32_en_zeroshot_classification.json",
        "vtab_cifar10_openai_ViT-B-32_en_linear_probe.json",
        "mscoco_captions_openai_ViT-B-32_en_zeroshot_retrieval.json",
        "a__b___c_openai_ViT-B-32_en_zeroshot_classification.json",
        "benchmark.csv",
    ]
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in paths)
    table = list(csv.DictReader(io.StringIO(paths[-1].read_text())))
    assert table == merged(paths[:-1])
    assert [row["model_fullname"] for row in table] == ["ViT-B/32 openai"] * 4
    assert table[0]["acc5"] == "nan" and table[2]["acc5"] == ""
    assert [row["dataset"] for row in table][-1] == 'a "b", c'
    first = json.loads(paths[0].read_text())
    assert math.isnan(first["metrics"].pop("acc5"))
    assert first["metrics"] == {"acc1": 0.5, "mean_per_class_recall": 0.4}


def test_two_records_of_one_file_are_refused_before_any_is_written(tmp_path):
    other = dataclasses.replace(record(), split="val")
    with pytest.raises(ValueError, match=r"record CIFAR10, val, .* folders of their own"):
        clip_benchmark.write(tmp_path, [record(), other])
    with pytest.raises(ValueError, match=r"record CIFAR10, val, .* 'cifar10' already"):
        datacomp.write(tmp_path / "eval_results.jsonl", [record(), other])
    assert list(tmp_path.iterdir()) == []
    again = dataclasses.replace(other, model_fingerprint="f" * 64)
    assert len(clip_benchmark.write(tmp_path, [record(), again])) == 3


def test_nothing_at_all_is_written_too(tmp_path):
    [table] = clip_benchmark.write(tmp_path, [SKIPPED])
    assert table.read_text().strip() == ""
    assert datacomp.write(tmp_path / "e.jsonl", [SKIPPED]).read_bytes() == b""


def test_datacomp_classification():
    shown = record(dataset="Caltech101", protocol="datacomp", class_names=["x"] * 102)
    assert datacomp.convert(shown) == {
        "key": "vtab/caltech101",
        "dataset": "Caltech-101",
        "metrics": {
            "acc1": 0.5, "acc5": 0.9, "mean_per_class_recall": 0.4, "main_metric": 0.4,
        },
    }  # fmt: skip
    assert datacomp.convert(record(dataset="ImageNet"))["metrics"]["main_metric"] == 0.5
    assert datacomp.convert(record(dataset="ImageNet"))["dataset"] == "ImageNet 1k"


@pytest.mark.parametrize(
    ("dataset", "key", "name"),
    [("COCO", "retrieval/mscoco_2014_5k_test_image_text_retrieval", "MSCOCO"),
     ("Flickr30k", "retrieval/flickr_1k_test_image_text_retrieval", "Flickr")],
)  # fmt: skip
def test_datacomp_retrieval_is_the_mean_of_both_ways(dataset, key, name):
    found = datacomp.convert(retrieval(dataset, protocol="datacomp"))
    assert (found["key"], found["dataset"]) == (key, name) and "protocol" not in found
    assert found["metrics"]["mean_recall@1"] == found["metrics"]["main_metric"] == 0.425
    assert found["metrics"]["text_retrieval_recall@1"] == 0.6
    only = datacomp.convert(record("retrieval", dataset, metrics={"image_to_text_r@5": 0.5}))
    assert only["metrics"] == {
        "text_retrieval_recall@5": 0.5, "mean_recall@1": None, "main_metric": None,
    }  # fmt: skip


def test_the_catalog_knows_datacomps_keys():
    keys = {entry.datacomp for entry in CATALOG.values() if entry.datacomp}
    assert keys and keys <= datacomp.TASKS.keys()


def test_what_datacomp_does_not_have_keeps_its_own_main_metric():
    area = record(dataset="HatefulMemes", metrics={"roc_auc": 0.6, "top1": 0.5}, protocol="paper")
    assert datacomp.convert(area) == {
        "key": "HatefulMemes", "dataset": "Hateful Memes",
        "metrics": {"acc1": 0.5, "main_metric": 0.6}, "protocol": "paper",
    }  # fmt: skip
    own = datacomp.convert(record(dataset="digits"))
    assert own["key"] == own["dataset"] == "digits" and own["metrics"]["main_metric"] == 0.5
    named = datacomp.convert(record(dataset="vtab/svhn"))
    assert (named["key"], named["dataset"]) == ("vtab/svhn", "SVHN")
    voc = record(dataset="PascalVOC2007", metrics={"mean_average_precision": 0.83})
    assert datacomp.convert(voc)["key"] == "voc2007_multilabel"  # voc2007 is another task there
    assert datacomp.convert(voc)["metrics"]["main_metric"] == 0.83
    assert datacomp.convert(record(dataset="PascalVOC2007"))["key"] == "voc2007"


def test_datacomp_lines(tmp_path):
    shown = [record(dataset="ImageNet"), SKIPPED, FEW_SHOT, record("linear_probe"), retrieval(),
             record(dataset="MNIST", metrics={"top1": math.nan})]  # fmt: skip
    path = datacomp.write(tmp_path / "new" / "eval_results.jsonl", shown)
    lines = path.read_text().splitlines()
    found = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [line["dataset"] for line in found] == ["ImageNet 1k", "MSCOCO", "MNIST"]
    assert [line["metrics"]["main_metric"] for line in found] == [0.5, 0.425, None]
    assert all(list(line)[:3] == ["key", "dataset", "metrics"] for line in found)
