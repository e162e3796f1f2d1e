"""The command line as users run it: results on disk, errors, several processes."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from small_clip import small_clip

import clip_jax
from clip_jax import evaluation
from clip_jax.data.test_sets.types import Options
from clip_jax.evals import records
from clip_jax.evals.types import EvalSettings
from clip_jax.interop.write import write
from clip_jax.runtime import distributed

NAMES = ("green", "red", "blue sky")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model of CLIP's vocabulary."""
    return write(tmp_path_factory.mktemp("model") / "small", small_clip(), "clip_jax")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of classes with two splits, and a table of captions."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    with open(root / "captions.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for split, count in (("train", 6), ("test", 9)):
            for name in NAMES:
                (root / split / name).mkdir(parents=True)
                for i in range(count):
                    pixels = rng.integers(0, 256, (40, 36, 3), np.uint8)
                    Image.fromarray(pixels).save(root / split / name / f"{i}.png")
                    if split == "test":
                        rows.writerow([f"test/{name}/{i}.png", f"{name} {i}"])
    return root


def arguments(folder, data, out, *more):
    return [
        f"--model={folder}", f"--data=folder:{data},csv:{data}/captions.csv", f"--out={out}",
        f"--cache-dir={out}/cache", "--shots=1,2", "--seeds=2", "--batch-size=8", *more,
    ]  # fmt: skip


def written(out):
    found = [records.read(p) for p in sorted((out / "records").glob("*.json"))]
    assert all(found)
    return {(r.dataset, r.task): r for r in found}


@pytest.fixture(scope="module")
def evaluated(folder, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert evaluation.main(arguments(folder, data, out)) == distributed.OK
    return out


def test_one_command_writes_everything(evaluated, data, capsys):
    found = written(evaluated)
    assert {task for _, task in found} == {"zero_shot", "linear_probe", "few_shot", "retrieval"}
    for record in found.values():
        assert record.model == "small" and record.intervals.keys() == record.metrics.keys()
    assert (evaluated / "report.html").stat().st_size > 10_000
    lines = (evaluated / "paper" / "eval_results.jsonl").read_text().splitlines()
    assert {json.loads(line)["key"] for line in lines} == {data.name, "captions"}
    assert list((evaluated / "paper" / "clip_benchmark").glob("*.csv"))


def test_a_second_run_reads_what_is_there(evaluated, folder, data, capsys):
    before = {p: p.stat().st_mtime_ns for p in (evaluated / "records").iterdir()}
    assert evaluation.main(arguments(folder, data, evaluated)) == distributed.OK
    assert capsys.readouterr().out.count("(read)") == len(before)
    assert {p: p.stat().st_mtime_ns for p in (evaluated / "records").iterdir()} == before


def test_earlier_results_stay_in_the_report(folder, data, tmp_path):
    for task, spec in (("zero_shot", f"folder:{data}"), ("retrieval", f"csv:{data}/captions.csv")):
        flags = arguments(folder, data, tmp_path, f"--data={spec}", f"--tasks={task}")
        assert evaluation.main(flags) == distributed.OK
    page = (tmp_path / "report.html").read_text()
    assert "Zero-shot classification" in page and "image → text" in page
    assert len((tmp_path / "paper" / "eval_results.jsonl").read_text().splitlines()) == 2
    flags = arguments(folder, data, tmp_path, f"--data=folder:{data}", "--tasks=zero_shot")
    assert evaluation.main([*flags, "--protocol=datacomp"]) == distributed.OK
    assert len((tmp_path / "datacomp" / "eval_results.jsonl").read_text().splitlines()) == 1
    # Another choice of templates is not laid beside them.
    flags = arguments(folder, data, tmp_path, f"--data=csv:{data}/captions.csv")
    assert evaluation.main([*flags, "--templates=plain"]) == distributed.OK
    assert len((tmp_path / "paper" / "eval_results.jsonl").read_text().splitlines()) == 1


def test_python_gives_what_the_command_does(evaluated, folder, data):
    clip = clip_jax.load(folder, batch_size=5)
    found = clip_jax.evaluate(
        clip, [f"folder:{data}"], ["zero_shot"], name="small",
    )  # fmt: skip
    (record,) = found
    want = written(evaluated)[data.name, "zero_shot"]
    assert record.metrics == pytest.approx(want.metrics, abs=1e-9)
    assert record.model_fingerprint == want.model_fingerprint


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks=zeroshot"], "tasks: 'zeroshot' is not one of"),
        (["--data=ImageNett"], "'ImageNett' is no dataset of the catalog; did you mean"),
        (["--protocol=mine"], "argument --protocol: invalid choice: 'mine'"),
        (["--templates=80"], "templates='80' is not one of"),
        (["--shots=one"], "argument --shots: one must be whole numbers"),
        (["--model=/nowhere"], "/nowhere"),
        (["--shot=1"], "unrecognized arguments: --shot=1"),
        (["--batch-size=0"], "--batch-size=0 must be at least 1"),
        (["--seeds=0"], "seeds=0 must be at least 1"),
        (["--shots=0,1"], "shots=(0, 1) must be at least 1"),
        (["--class-names=/nowhere.txt"], "class_file='/nowhere.txt': no such file"),
        (["--data="], "data: none are named"),
        (["--tasks=overlap"], "'overlap' needs overlap_with"),
        (["--data=CIFAR11=folder:/x/split=a"], "'CIFAR11' is no dataset of the catalog"),
    ],
)
def test_errors_are_one_line(folder, data, tmp_path, capsys, flags, message):
    code = evaluation.main(arguments(folder, data, tmp_path, "--data=digits", *flags))
    error = capsys.readouterr().err
    assert code == distributed.USAGE, error
    assert error.startswith("error: ") and message in error and error.count("\n") == 1, error


def test_every_setting_has_a_flag(capsys):
    flags = evaluation.parse(["--model=m"])
    for settings, without in ((EvalSettings, {"options"}), (Options, {"class_names"})):
        for field in dataclasses.fields(settings):
            if field.name not in without:
                assert getattr(flags, field.name) == field.default, field.name
    given = evaluation.parse(
        ["--model=m", "--group-keys=age, race", "--overlap-threshold=0.9", "--class-names=x",
         "--data-root=y", "--shots=2,4", "--seeds=1"]
    )  # fmt: skip
    assert given.group_keys == ("age", "race") and given.overlap_threshold == 0.9
    assert (given.class_file, given.root, given.shots, given.seeds) == ("x", "y", (2, 4), 1)
    with pytest.raises(SystemExit):
        evaluation.parse(["--help"])
    shown = capsys.readouterr().out
    assert "--caption-key" in shown and "training images to be looked for" in " ".join(
        shown.split()
    )


def test_names_that_other_programs_cannot_tell_apart(folder, data, tmp_path, capsys):
    """The report is there all the same."""
    (tmp_path / "MNIST.csv").write_text(f"image,label\n{data}/test/red/0.png,1\n")
    (tmp_path / "mnist.csv").write_text(f"image,label\n{data}/test/red/1.png,7\n")
    both = f"--data=MNIST=csv:{tmp_path}/MNIST.csv,csv:{tmp_path}/mnist.csv"
    names = tmp_path / "names.txt"
    names.write_text("\n".join(map(str, range(10))))
    flags = arguments(folder, data, tmp_path / "out", both, f"--class-names={names}")
    assert evaluation.main([*flags, "--tasks=zero_shot,zero_shot"]) == distributed.OK
    assert "not written for other programs: the record mnist" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").is_file()
    assert len(list((tmp_path / "out" / "records").iterdir())) == 2


def test_a_name_given_later_is_another_question(folder, data, tmp_path):
    """The same images with a catalog's prompts: not read from what was asked before."""
    table = tmp_path / "CIFAR10.csv"
    table.write_text(f"image,label\n{data}/test/red/0.png,cat\n{data}/test/red/1.png,dog\n")
    for spec, classes in ((f"csv:{table}", 2), (f"CIFAR10=csv:{table}", 10)):
        flags = arguments(folder, data, tmp_path / "out", f"--data={spec}", "--tasks=zero_shot")
        assert evaluation.main(flags) == distributed.OK
        (record,) = written(tmp_path / "out").values()
        assert len(record.class_names) == classes


def test_nothing_to_evaluate_is_a_failure(folder, tmp_path, capsys):
    flags = [f"--model={folder}", "--data=ImageNet,folder:/nowhere", f"--out={tmp_path}/out",
             f"--cache-dir={tmp_path}", f"--data-dir={tmp_path}"]  # fmt: skip
    assert evaluation.main(flags) == distributed.BAD_DATA
    said = capsys.readouterr().out
    assert "hf download clip-benchmark/wds_imagenet1k" in said and "0 results, 2 skipped" in said
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_data_set_named_twice_is_evaluated_once(folder, data, tmp_path):
    twice = f"--data=folder:{data},folder:{data}"
    flags = arguments(folder, data, tmp_path, twice, "--tasks=zero_shot")
    assert evaluation.main(flags) == distributed.OK
    assert len(written(tmp_path)) == 1


def test_two_sets_of_one_name_do_not_overwrite_each_other(folder, data, tmp_path):
    other = tmp_path / "other" / data.name / "red"
    other.mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(other / "0.png")
    flags = arguments(
        folder, data, tmp_path / "out", f"--data=folder:{data},folder:{other.parent}",
        "--tasks=zero_shot",
    )  # fmt: skip
    assert evaluation.main(flags) == distributed.OK
    assert sorted(r.n for r in written(tmp_path / "out").values()) == [1, 27]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_give_the_numbers_of_one(trainer, evaluated, folder, data, tmp_path):
    group = trainer.start_group(
        tmp_path, 2, devices=2,
        program=("-c", TWO, json.dumps(arguments(folder, data, tmp_path / "out"))),
    )  # fmt: skip
    outputs = [p.communicate(timeout=300)[0] for p in group]
    assert [p.returncode for p in group] == [0, 0], outputs
    assert "zero_shot" not in outputs[1]  # the lead alone speaks
    got, want = written(tmp_path / "out"), written(evaluated)
    assert got.keys() == want.keys()
    for key, record in got.items():
        assert record.metrics == pytest.approx(want[key].metrics, abs=1e-9), key
        assert record.n == want[key].n and record.class_names == want[key].class_names


# The command line, behind the flags that the fixture adds.
TWO = """
import json, sys
from clip_jax import evaluation
from clip_jax.runtime import distributed

distributed.shut_down(evaluation.main(json.loads(sys.argv[1])))
"""
