"""The command line as users run it: exit codes, errors, killed and resumed runs."""

import contextlib
import json
import os
import pathlib
import signal
import time
import types

import numpy as np
import pytest
from PIL import Image

import clip_jax.training.optim
import clip_jax.training.trainer
from clip_jax import train
from clip_jax.data.errors import DataError
from clip_jax.training import metric_writer

# 120 steps, a checkpoint every 20, every step's loss on record.
LONG = (
    "train.examples=3840", "checkpoint.every_examples=640", "log.every_steps=1",
    "eval.evaluators=()", "log.report=False", "log.tensorboard=False",
)  # fmt: skip
TOTAL = 120


@pytest.fixture(scope="module")
def undisturbed(trainer, tmp_path_factory):
    """Workdir and output of a run that nothing happens to."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    code, output = trainer.run(workdir, *LONG)
    assert code == 0, output
    return workdir, output


def result(workdir):
    return json.loads((workdir / "result.json").read_text())


def losses(workdir):
    records = [r for r in metric_writer.read(workdir / "metrics.jsonl") if "loss" in r]
    assert [r["step"] for r in records] == list(range(1, TOTAL + 1))
    return [(r["loss"], r["accuracy"], r["grad_norm"]) for r in records]


def assert_same_run(workdir, reference):
    """Bit for bit: parameters, optimizer state, and every step's numbers."""
    a, b = result(workdir), result(reference)
    for key in ("step", "state_fingerprint", "data_fingerprint"):
        assert a[key] == b[key], key
    assert losses(workdir) == losses(reference)


def test_a_run_says_what_it_is_and_does(undisturbed):
    workdir, output = undisturbed
    for text in ('"batch_size": 32', "image_tower/encoder/blocks", "total", "120 steps of 32"):
        assert text in output
    line = next(x for x in output.splitlines() if x.startswith("step  50/120"))
    for word in ("examples", "loss", "accuracy", "scale", "lr", "images/s", "data wait", "left"):
        assert word in line
    assert losses(workdir)[-1][0] < 0.8 * losses(workdir)[0][0]
    assert "Traceback" not in output


def test_a_complete_run_is_only_evaluated_again(trainer, undisturbed):
    workdir, _ = undisturbed
    before = result(workdir)["state_fingerprint"]
    code, output = trainer.run(workdir, *LONG)
    assert code == 0, output
    assert "is complete: evaluating it again" in output
    assert result(workdir)["state_fingerprint"] == before


def test_killed_and_resumed_equals_undisturbed(trainer, undisturbed, tmp_path):
    process = trainer.start(tmp_path, *LONG)
    trainer.wait_for_step(process, tmp_path, 47)
    code, output = trainer.kill(process)
    assert code == -signal.SIGKILL, output
    code, output = trainer.run(tmp_path, *LONG)
    assert code == 0, output
    assert "resuming the run in" in output
    assert_same_run(tmp_path, undisturbed[0])


def unfinished(workdir):
    """Saves under way, or left behind in the middle: Orbax renames a folder when it is whole."""
    found = set()
    for path in workdir.glob("checkpoints/*tmp*"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ino))
    return found


def kill_while_saving(trainer, workdir):
    """Starts the run and kills it as soon as a save is under way. False if the save was faster."""
    before = unfinished(workdir)
    process = trainer.start(workdir, *LONG)
    deadline = time.time() + 120
    while not unfinished(workdir) - before:
        assert process.poll() is None, process.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.001)
    code, output = trainer.kill(process)
    assert code == -signal.SIGKILL, output
    return bool(unfinished(workdir) - before)


@pytest.mark.slow
def test_killed_twice_while_saving_equals_undisturbed(trainer, undisturbed, tmp_path):
    hits = 0
    for _ in range(6):
        hits += kill_while_saving(trainer, tmp_path)
        if hits == 2:
            break
    assert hits == 2
    code, output = trainer.run(tmp_path, *LONG)
    assert code == 0, output
    assert_same_run(tmp_path, undisturbed[0])


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_told_to_stop_saves_and_continues(trainer, undisturbed, tmp_path, number):
    process = trainer.start(tmp_path, *LONG)
    trainer.wait_for_step(process, tmp_path, 33)
    code, output = trainer.kill(process, number)
    assert code == 75, output
    assert "stopped, with a checkpoint" in output
    stopped = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert 33 <= stopped < TOTAL
    code, output = trainer.run(tmp_path, *LONG)
    assert code == 0, output
    assert f"at step {stopped} of {TOTAL}" in output
    assert_same_run(tmp_path, undisturbed[0])


def processes_of_group(group):
    """Ids of the living processes of a process group."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, number = path.read_text().rpartition(")")[2].split()[:3]
            if int(number) == group and state != "Z":
                found.append(int(path.parent.name))
    return found


def assert_group_ends(group):
    deadline = time.time() + 20
    while (left := processes_of_group(group)) and time.time() < deadline:
        time.sleep(0.1)
    assert left == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_loses_nothing(trainer, undisturbed, tmp_path, number):
    """What Ctrl-C in a terminal does: the decoding processes get the signal too."""
    process = trainer.start(tmp_path, *LONG, "data.workers=2", prefix=("setsid",))
    trainer.wait_for_step(process, tmp_path, 33)
    assert len(processes_of_group(process.pid)) >= 3
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert "stopped, with a checkpoint" in output
    assert_group_ends(process.pid)
    code, output = trainer.run(tmp_path, *LONG)
    assert code == 0, output
    assert_same_run(tmp_path, undisturbed[0])


@pytest.mark.slow
def test_decoding_processes_end_with_a_killed_run(trainer, tmp_path):
    process = trainer.start(tmp_path, *LONG, "data.workers=2", prefix=("setsid",))
    trainer.wait_for_step(process, tmp_path, 3)
    trainer.kill(process)
    assert_group_ends(process.pid)


def test_an_input_that_breaks_on_a_stop_is_a_stop(monkeypatch):
    run = object.__new__(clip_jax.training.trainer.Run)
    saved = []
    run.save = lambda: saved.append(True)

    def broken():
        yield 1
        raise RuntimeError("Worker process was terminated unexpectedly")

    with pytest.raises(RuntimeError, match="Worker process"):
        list(run._until_told_to_stop(broken()))
    assert not saved
    monkeypatch.setattr(clip_jax.training.trainer.distributed, "stop_requested", lambda: True)
    with pytest.raises(clip_jax.training.trainer.Preempted):
        list(run._until_told_to_stop(broken()))
    assert saved


def test_a_stop_during_start_up_is_honoured(trainer, tmp_path):
    process = trainer.start(tmp_path, *LONG)
    line = process.stdout.readline()
    assert "process(es)" in line
    code, output = trainer.kill(process, signal.SIGTERM)
    assert code == 75, output


def test_two_runs_in_one_workdir(trainer, tmp_path):
    first = trainer.start(tmp_path, *LONG, "train.examples=320000")
    trainer.wait_for_step(first, tmp_path, 1)
    code, output = trainer.run(tmp_path, *LONG, "train.examples=320000", timeout=60)
    assert code == 73, output
    assert "is being used by another process" in output
    trainer.kill(first)


def test_a_workdir_of_another_config_is_refused(trainer, undisturbed):
    workdir, _ = undisturbed
    before = sorted(p.name for p in workdir.iterdir())
    code, output = trainer.run(workdir, *LONG, "optim.learning_rate=0.5", "log.every_steps=9")
    assert code == 78, output
    assert "optim.learning_rate: 0.003 (this run) -> 0.5 (given)" in output
    assert "log.every_steps" not in output
    assert sorted(p.name for p in workdir.iterdir()) == before


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
def test_bad_input_gets_one_clear_error(trainer, tmp_path, flags, code, message):
    got, output = trainer.run(tmp_path, *flags, devices=2)
    assert got == code, output
    assert message in output
    assert output.count("error: ") == 1
    assert "Traceback" not in output


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
    from PIL import Image

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


@pytest.mark.slow
def test_a_full_disk_loses_no_training_and_ends_with_an_error(trainer, tmp_path):
    """Files cannot grow beyond 58 blocks, as on a disk without room for a checkpoint."""
    code, output = trainer.run(
        tmp_path, *LONG, "train.examples=640", "checkpoint.every_examples=320",
        prefix=("sh", "-c", 'ulimit -f 58; exec "$@"', "sh"),
    )  # fmt: skip
    assert code == 1, output[-3000:]
    assert "step 20/20" in output
    assert "checkpoint at step 10 not written" in output
    assert "the last checkpoint could not be written" in output
    assert "Traceback" not in output
    code, output = trainer.run(
        tmp_path, *LONG, "train.examples=640", "checkpoint.every_examples=320"
    )
    assert code == 0, output


def test_told_to_stop_on_a_full_disk_is_an_error(trainer, tmp_path):
    process = trainer.start(
        tmp_path, *LONG, "train.examples=320000", "checkpoint.every_examples=0",
        prefix=("sh", "-c", 'ulimit -f 58; exec "$@"', "sh"),
    )  # fmt: skip
    trainer.wait_for_step(process, tmp_path, 3)
    code, output = trainer.kill(process, signal.SIGTERM)
    assert code == 1, output[-3000:]
    assert "the last checkpoint could not be written" in output
    assert "stopped, with a checkpoint" not in output
    assert "Traceback" not in output


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
