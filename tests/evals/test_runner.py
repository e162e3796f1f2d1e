"""The suite: one record a task, the same for all batches and devices, skipped, resumed, cached."""

import dataclasses
import math

import numpy as np
import pytest
from colours import COLOURS, model, run, tokenize

from clip_jax.config import ConfigError
from clip_jax.data.errors import DataError
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets import registry
from clip_jax.data.test_sets.types import (
    ClassificationDataset,
    CompositionalityDataset,
    RetrievalDataset,
)
from clip_jax.evals import records, runner
from clip_jax.evals.probes import few_shot
from clip_jax.evals.tasks import few_shot as few_shot_task
from clip_jax.evals.tasks import registry as task_registry
from clip_jax.evals.types import EvalSettings


@pytest.fixture(scope="module")
def measured(folders):
    """All tasks on the classes and the captions: task -> record."""
    return {
        r.task: r for r in run(folders, data=[f"folder:{folders}", f"csv:{folders}/captions.csv"])
    }


def test_every_task_that_fits_gives_a_record(measured):
    assert set(measured) == {"zero_shot", "linear_probe", "few_shot", "retrieval"}
    found = {task: record for task, record in measured.items() if task != "retrieval"}
    for record in found.values():
        assert record.n == 33 and not record.skipped
        assert 0.5 < record.value < 1
        assert set(record.intervals) == set(record.metrics)
        for name, (low, high) in record.intervals.items():
            assert 0 <= low <= record.metrics[name] <= high <= 1, name
    zero = found["zero_shot"]
    assert zero.class_names == ["blue", "green", "red"] and "{}" in zero.templates[0]
    assert sum(row["n"] for row in zero.details["per_class"]) == 33
    few = found["few_shot"]
    assert [p["shots"] for p in few.details["curve"]] == [1, 4]
    assert few.details["zero_shot"] == zero.metrics["top1"]


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 7), (8, 64), (8, 1000)])
def test_batches_and_devices_change_nothing(folders, measured, devices, batch_size):
    data = [f"folder:{folders}", f"csv:{folders}/captions.csv"]
    got = run(folders, data=data, of=model(devices, batch_size))
    assert [r.task for r in got] == list(measured)
    for a, b in zip(got, measured.values(), strict=True):
        assert a.metrics == pytest.approx(b.metrics, abs=1e-9), a.task


def test_probes_do_not_learn_from_what_is_scored(folders, tmp_path):
    rows = ["image,label"] + [f"{folders}/test/{n}/{i}.png,{n}" for n in COLOURS for i in range(4)]
    (tmp_path / "flat.csv").write_text("\n".join(rows))
    for spec in (f"csv:{tmp_path}/flat.csv", f"folder:{folders}/test"):
        (probe,) = run(folders, ["linear_probe"], [spec])
        assert "train has images of test" in probe.skipped and ".png" in probe.skipped
    # A validation split that is the test split is not looked at.
    rows = [r + (",split" if i == 0 else ",test") for i, r in enumerate(rows)]
    rows += [r.replace(",test", ",val") for r in rows[1:]]
    rows += [f"{folders}/train/{n}/{i}.png,{n},train" for n in COLOURS for i in range(20)]
    (tmp_path / "split.csv").write_text("\n".join(rows))
    (probe,) = run(folders, ["linear_probe"], [f"csv:{tmp_path}/split.csv"])
    assert (probe.details["train"], probe.details["val"]) == (60, 0)


def test_a_probe_is_made_anew_where_what_it_learns_from_changed(folders, tmp_path):
    rows = [f"{folders}/test/{n}/{i}.png,{n},test" for n in COLOURS for i in range(4)]
    train = [f"{folders}/train/{n}/{i}.png,{n},train" for n in COLOURS for i in range(20)]
    values = []
    for learned in (train[::2] * 2, train, train):  # as many rows: the same program
        (tmp_path / "t.csv").write_text("\n".join(["image,label,split", *rows, *learned]))
        said = []
        (probe,) = run(
            folders, ["linear_probe"], [f"csv:{tmp_path}/t.csv"], folder=tmp_path / "r",
            say=said.append,
        )  # fmt: skip
        values.append((probe.details["train"], any("(read)" in line for line in said)))
    assert values == [(60, False), (60, False), (60, True)]


def test_a_data_set_that_does_not_fit_its_metric_ends_nothing(folders, tmp_path):
    """VOC with one class an image (as CLIP_benchmark has it), Hateful Memes with one class."""
    rows = [f"{folders}/{s}/{n}/{i}.png,{k},{s}" for s in ("train", "test")
            for k, n in enumerate(COLOURS) for i in range(20 if s == "train" else 6)]  # fmt: skip
    (tmp_path / "voc.csv").write_text("\n".join(["image,label,split", *rows]))
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\nblue\n")
    settings = EvalSettings(class_file=str(names), shots=(4,), seeds=1)
    found = run(folders, (), [f"PascalVOC2007=csv:{tmp_path}/voc.csv"], settings)
    assert {r.task: r.main_metric for r in found} == {
        "zero_shot": "top1", "linear_probe": "top1", "few_shot": "top1@4",
    }  # fmt: skip
    assert not any(r.skipped for r in found)
    (tmp_path / "memes.csv").write_text(
        "\n".join(["image,label,split", *(r for r in rows if ",1," in r)])
    )
    names.write_text("fair\nhateful\n")
    found = run(folders, (), [f"HatefulMemes=csv:{tmp_path}/memes.csv"], settings)
    by_task = {r.task: r for r in found}
    assert by_task["zero_shot"].main_metric == "top1"
    assert by_task["linear_probe"].skipped and by_task["few_shot"].skipped


def test_processes_that_see_other_data_are_told(folders, monkeypatch):
    monkeypatch.setattr(runner.distributed, "identical_on_all_hosts", lambda fact: False)
    with pytest.raises(DataError, match="the processes do not see the same data"):
        run(folders)


def test_a_text_is_one_data_set_and_one_task(folders):
    (record,) = run(folders, "zero_shot", f"folder:{folders}")
    assert record.n == 33


def test_what_is_missing_is_skipped_with_the_way_to_get_it(folders, tmp_path):
    said = []
    found = run(
        folders, ["zero_shot"], ["Food101", "folder:/no/such/folder", f"folder:{folders}"],
        EvalSettings(root=str(tmp_path)), say=said.append,
    )  # fmt: skip
    assert [bool(r.skipped) for r in found] == [True, True, False]
    assert "hf download" in found[0].skipped and math.isnan(found[0].value)
    assert "/no/such/folder" in found[1].skipped
    assert any("skipped" in line for line in said)


def test_a_damaged_picture_spoils_one_data_set_only(folders, tmp_path):
    (tmp_path / "test" / "red").mkdir(parents=True)
    (tmp_path / "test" / "red" / "0.png").write_bytes(b"\x89PNG no more")
    broken, fine = run(folders, ["zero_shot"], [f"folder:{tmp_path}", f"folder:{folders}"])
    assert "red/0.png" in broken.skipped.replace("\\", "/") and not fine.skipped


def test_no_pictures_to_learn_from_is_a_reason(folders, tmp_path):
    (tmp_path / "test").symlink_to(folders / "test")
    found = {r.task: r for r in run(folders, data=[f"folder:{tmp_path}"])}
    assert not found["zero_shot"].skipped
    for task in ("linear_probe", "few_shot"):
        assert "images to learn from" in found[task].skipped


def test_what_was_measured_is_read(folders, tmp_path):
    calls, said = [], []
    first = run(folders, folder=tmp_path, of=model(calls=calls))
    made = len(calls)
    again = run(folders, folder=tmp_path, of=model(calls=calls), say=said.append)
    assert made and len(calls) == made
    assert sum("(read)" in line for line in said) == 3
    for a, b in zip(again, first, strict=True):
        assert (a.task, a.n, a.metrics, a.intervals) == (b.task, b.n, b.metrics, b.intervals)
    for changed in (
        dict(settings=EvalSettings(templates="names", shots=(1, 4), seeds=2)),
        dict(of=dataclasses.replace(model(), fingerprint="other weights")),
    ):
        said.clear()
        run(folders, ["zero_shot"], folder=tmp_path, say=said.append, **changed)
        assert not any("(read)" in line for line in said)
    for path in tmp_path.glob("*.json"):
        assert records.read(path) is not None


def test_features_are_kept(folders, tmp_path):
    calls = []
    run(folders, ["zero_shot"], of=model(calls=calls), cache=tmp_path)
    made = len(calls)
    run(folders, ["zero_shot"], of=model(calls=calls), cache=tmp_path)
    assert made and len(calls) == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(tasks=["zeroshot"]), "tasks: 'zeroshot' is not one of"),
        (dict(data=["Food102"]), "data: 'Food102' is no dataset of the catalog; did you mean"),
        (dict(data=["Food=folder:/x"]), "data: 'Food' is no dataset"),
    ],
)
def test_what_does_not_exist_is_named(folders, change, message):
    with pytest.raises(ConfigError, match=message):
        run(folders, **change)
    with pytest.raises(ConfigError, match="protocol='papers' is not one of"):
        EvalSettings(protocol="papers")


def test_every_task_has_a_kind_of_data():
    kinds = {ClassificationDataset, RetrievalDataset, CompositionalityDataset}
    assert {t.dataset_type for t in task_registry.TASKS.values()} == kinds


def test_records_name_images_that_texts_find(folders, measured):
    data = [f"folder:{folders}", f"csv:{folders}/captions.csv"]
    found = measured
    for task, spec, queries in (("zero_shot", data[0], 3), ("retrieval", data[1], 6)):
        pictures = registry.open_dataset(spec)
        rows = np.stack([pictures.load(i, Preprocess(6)) for i in range(len(pictures))])
        rows = rows.astype(float).mean((1, 2))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        search = found[task].details["search"]
        assert len(search) == queries and all(len(q["found"]) == 5 for q in search)
        for query in search:
            weight = tokenize([query["text"]])[0] + 0.1
            best = np.sort(-(rows @ weight))[:5]
            assert -(rows[query["found"]] @ weight) == pytest.approx(best, abs=1e-5)
            colour = next(c for c in COLOURS if c in query["text"])
            where = [pictures.describe(i) for i in query["found"]]
            if task == "zero_shot":
                assert query["right"] == [f"/{colour}/" in w for w in where]
            else:
                number = query["text"].rpartition(" ")[2]
                assert query["right"] == [w.endswith(f"/{colour}/{number}.png") for w in where]
    recalls = [q["recall"] for q in found["zero_shot"].details["search"]]
    assert recalls == sorted(r["recall"] for r in found["zero_shot"].details["per_class"])[::-1]


def test_what_zero_shot_is_worth_is_a_number_in_json(folders, tmp_path):
    (record,) = run(folders, ["few_shot"], folder=tmp_path)
    worth, curve = record.details["efficiency"], record.details["curve"]
    assert worth == records.read(tmp_path / record.file_name).details["efficiency"]
    means, zero = [p["mean"] for p in curve], record.details["zero_shot"]
    assert [p["shots"] for p in curve] == [1, 4] and worth["most"] == 4
    if zero <= means[0]:
        assert worth == {"shots": 1.0, "bound": "<=", "most": 4}
    elif zero > means[1]:
        assert worth == {"shots": None, "bound": ">", "most": 4}
    else:
        share = (zero - means[0]) / (means[1] - means[0])
        assert worth == {"shots": pytest.approx(4**share), "bound": "", "most": 4}


@pytest.mark.parametrize(
    ("zero", "worth"),
    [
        (0.2, {"shots": 1.0, "bound": "<=", "most": 4}),
        (0.5, {"shots": 2.0, "bound": "", "most": 4}),
        (0.9, {"shots": None, "bound": ">", "most": 4}),
    ],
)
def test_shots_beyond_the_curve_have_no_number(zero, worth):
    curve = few_shot.Curve((1, 4), np.array([[0.3, 0.5], [0.5, 0.7]]), np.ones((2, 2)))
    assert few_shot_task._efficiency(curve, zero) == worth
