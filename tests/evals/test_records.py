"""Records survive the way to a file and back, and are read for nothing else."""

import json
import math

import numpy as np
import pytest

from clip_jax.evals import records

RECORD = records.Record(
    "zero_shot", "wds:/data/food 101", "test", "paper", 10, "top1",
    {"top1": 0.5, "top5": math.nan}, {"top1": (0.2, 0.8)}, "ViT-B/32", "ab", "cd",
    {"image_size": 224}, ["a", ["b", "c"]], ["a photo of a {}."], 1,
    {"per_class": [{"recall": math.nan, "n": np.int64(3)}]}, 1.5,
)  # fmt: skip


def test_a_record_comes_back(tmp_path):
    path = records.write(tmp_path / "records", RECORD, "key")
    assert path.name == "wds-data-food-101_test_zero_shot_paper_cd.json"
    found = records.read(path, "key")
    assert found.metrics["top1"] == found.value == 0.5 and math.isnan(found.metrics["top5"])
    assert found.intervals == RECORD.intervals
    assert found.details == {"per_class": [{"recall": None, "n": 3}]}
    assert records.read(path) == found
    assert "NaN" not in path.read_text()


def test_what_is_not_its_result_is_not_read(tmp_path):
    path = records.write(tmp_path, RECORD, "key")
    assert records.read(path, "another key") is None
    assert records.read(tmp_path / "none.json") is None
    for damage in (path.read_text()[:-20], "[]", "{}", json.dumps({"key": "key", "metrics": 3})):
        path.write_text(damage)
        assert records.read(path, "key") is None


def test_a_skipped_task_has_no_value():
    skipped = records.Record("zero_shot", "Food101", "test", "paper", skipped="not here")
    assert math.isnan(skipped.value)


@pytest.mark.parametrize("field", ["dataset", "split", "task", "protocol", "data_fingerprint"])
def test_names_differ(field):
    import dataclasses

    other = dataclasses.replace(RECORD, **{field: "another"})
    assert other.file_name != RECORD.file_name


def test_a_folder_has_its_own_records_alone(tmp_path):
    import dataclasses

    assert records.of_folder(tmp_path / "none") == []
    other = dataclasses.replace(RECORD, task="few_shot", intervals={"top1": (math.nan, 0.5)})
    paths = [records.write(tmp_path, r, "key") for r in (other, RECORD)]
    for name in (".12.x.json", f".9-ab.{paths[0].name}", "copy of it.json"):
        (tmp_path / name).write_bytes(paths[0].read_bytes())
    (tmp_path / "broken.json").write_text("{")
    found = records.of_folder(tmp_path)
    assert [r.task for r in found] == ["few_shot", RECORD.task]
    low, high = found[0].intervals["top1"]
    assert math.isnan(low) and high == 0.5
