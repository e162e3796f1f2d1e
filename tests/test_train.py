"""The command line as users run it: exit codes, errors, unreadable data, evaluations."""

import json
import signal
import types

import numpy as np
import pytest
from PIL import Image

import clip_jax.training.optim
import clip_jax.training.trainer
from clip_jax import train
from clip_jax.data.errors import DataError
from clip_jax.training import metric_writer


def result(workdir):
    return json.loads((workdir / "result.json").read_text())


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["optim.leraning_rate=1"], 64, "did you mean 'optim.learning_rate'"),
        (["train.batch_size=33"], 64, "train.batch_size=33 is not divisible"),
        (["mesh.fsdp=3"], 64, "mesh.fsdp=3"),
        (["model.variant=ViT-Z/1"], 64, "model.variant='ViT-Z/1': must be one of"),
        (["data.source=tar", "data.path=/nowhere/*.tar"], 65, "data.path='/nowhere/*.tar'"),
        (["eval.evaluators=imagenet"], 64, "eval.evaluators has 'imagenet'"),
        (["data.augmentation=mixup"], 64, "data.augmentation='mixup': must be one of"),
        (["tokenizer.model=/nowhere/x.model"], 64, "/nowhere/x.model"),
        (["tokenizer.vocab_size=30000"], 64, "tokenizer.vocab_size=30000"),
        (["optim.warmup_examples=100000"], 64, "lower optim.warmup_examples"),
    ],
)
def test_bad_input_gets_one_clear_error(root, tmp_path, capsys, flags, code, message):
    arguments = [f"--config={root}/configs/tiny.py", f"--workdir={tmp_path}"]
    assert train.main([*arguments, *(f"--config.{f}" for f in flags)]) == code
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("error: ") == 1
    assert "Traceback" not in output.err + output.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --config"),
        (["--config"], "argument --config: expected one argument"),
        (["--config=configs/tiny.py", "seed=1"], "overrides are written --config.key=value"),
        (["--config=FILE"], "FILE:2: SyntaxError"),
        (
            ["--config=configs/tiny.py", "--config.model.vision.num_heads=0"],
            "heads=0: must be positive",
        ),
    ],
)
def test_wrong_flags_are_a_usage_error(root, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(root)
    (tmp_path / "c.py").write_text("def get_config():\n  return )\n")
    file = str(tmp_path / "c.py")
    assert train.main([a.replace("FILE", file) for a in arguments]) == 64
    output = capsys.readouterr()
    assert message.replace("FILE", file) in output.err
    assert output.err.count("error: ") == 1
    assert "Traceback" not in output.err


class FakeRun:
    """A run of which one part raises."""

    def __init__(self, config, folder, find_weights):
        self.act("build")

    def act(self, part):
        if self.failing == part:
            self.fail()

    def describe(self):
        pass

    def train(self):
        self.act("train")

    def finish(self):
        self.act("finish")

    @property
    def checkpoints(self):
        return types.SimpleNamespace(close=lambda: True)


def ours():
    clip_jax.training.optim.warmup_cosine(1.0, 10, 10)


def librarys():
    np.zeros(3).reshape(2)


def bad_data():
    raise DataError("x.tar is damaged")


@pytest.mark.parametrize(
    ("failing", "fail", "code", "traceback"),
    [
        ("build", ours, 64, False),
        ("build", librarys, 1, True),
        ("train", ours, 1, True),
        ("train", librarys, 1, True),
        ("finish", librarys, 1, True),
        ("train", bad_data, 65, False),
    ],
)
def test_an_error_that_is_not_the_users_keeps_its_traceback(
    root, tmp_path, monkeypatch, capsys, failing, fail, code, traceback
):
    monkeypatch.setattr(FakeRun, "failing", failing, raising=False)
    monkeypatch.setattr(FakeRun, "fail", staticmethod(fail), raising=False)
    monkeypatch.setattr(clip_jax.training.trainer, "Run", FakeRun)
    flags = [f"--config={root}/configs/tiny.py", f"--workdir={tmp_path}"]
    assert train.main(flags) == code
    assert ("Traceback" in capsys.readouterr().err) == traceback


def test_command_line_errors(trainer, tmp_path):
    code, output = trainer.run(tmp_path, config="configs/quickstrat.py")
    assert code == 64
    assert "no such file" in output
    code, output = trainer.run("gs://bucket/run")
    assert code == 64
    assert "error: --workdir=gs://bucket/run: must be a folder" in output
    (tmp_path / "file").write_text("")
    code, output = trainer.run(tmp_path / "file")
    assert code == 1
    assert output.count("error: ") == 1
    assert "Traceback" not in output


@pytest.fixture
def broken(tmp_path):
    """Flags of a run over a table of which every tenth picture is missing or unreadable."""
    rows = []
    for i in range(40):
        name = f"{i}.png"
        if i % 20 == 10:
            (tmp_path / name).write_bytes(b"<html>404</html>")
        elif i % 20:  # every twentieth is missing
            Image.new("RGB", (20, 20), (i * 6, 0, 255 - i * 6)).save(tmp_path / name)
        rows.append(json.dumps({"image": name, "caption": f"colour number {i}"}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    return (
        "data.source=table", f"data.path={tmp_path}/pairs.jsonl", "tokenizer.vocab_size=26",
        "eval.evaluators=()", "log.report=False", "train.examples=640", "log.tensorboard=False",
    )  # fmt: skip


def test_unreadable_files_are_counted_and_then_stop_the_run(trainer, broken, tmp_path):
    code, output = trainer.run(tmp_path / "a", *broken, "data.max_bad_fraction=0.5")
    assert code == 0, output
    assert "unreadable record" in output
    assert "0.png" in output
    assert result(tmp_path / "a")["bad_records"] > 30
    code, output = trainer.run(tmp_path / "b", *broken, "data.max_bad_fraction=0.01")
    assert code == 65, output
    assert "records could not be read, more than data.max_bad_fraction=0.01" in output


@pytest.mark.slow
def test_the_count_of_unreadable_records_survives_stops(trainer, broken, tmp_path):
    """After a stop at any step, and when the complete run is evaluated again."""
    flags = (*broken, "data.max_bad_fraction=0.5")
    code, output = trainer.run(tmp_path / "a", *flags)
    assert code == 0, output
    process = trainer.start(tmp_path / "c", *flags, "log.every_steps=1")
    trainer.wait_for_step(process, tmp_path / "c", 5)
    code, output = trainer.kill(process, signal.SIGTERM)
    assert code == 75, output
    for _ in range(2):
        code, output = trainer.run(tmp_path / "c", *flags)
        assert code == 0, output
        assert result(tmp_path / "c")["bad_records"] == result(tmp_path / "a")["bad_records"]


def test_tasks_of_the_suite_on_a_schedule(trainer, tmp_path):
    """eval.evaluators=TASK@DATA: in the run's metrics, result and report."""
    rows = ["image,caption"]
    for i in range(6):
        Image.new("RGB", (20, 20), (40 * i, 200, 10)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,red number {i}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    task = f"retrieval@csv:{tmp_path}/pairs.csv"
    flags = ("train.examples=192", f"eval.evaluators={task}", "log.tensorboard=False")
    code, output = trainer.run(tmp_path / "run", *flags, "eval.every_examples=64")
    assert code == 0, output
    assert f"{task}: image_to_text_r@1 " in output
    key = f"eval/{task}/image_to_text_r@1"
    found = [r for r in metric_writer.read(tmp_path / "run" / "metrics.jsonl") if key in r]
    assert [r["step"] for r in found] == [2, 4, 6] and found[0][f"eval/{task}/n"] == 6
    assert result(tmp_path / "run")["metrics"][task]["image_to_text_r@1"] == found[2][key]
    assert task in (tmp_path / "run" / "report.html").read_text()
    (tmp_path / "3.png").write_bytes(b"gone bad")
    code, output = trainer.run(tmp_path / "run", *flags)
    assert code == 0 and f"{task}: left out this time: " in output and "3.png" in output
