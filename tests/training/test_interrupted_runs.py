"""Runs that are killed, stopped, resumed, or refused: each ends as the undisturbed one does."""

import contextlib
import json
import os
import pathlib
import signal
import time

import pytest

from clip_jax.training import metric_writer
from clip_jax.training import trainer as trainer_lib

# 60 steps, a checkpoint every 15, every step's loss on record.
LONG = (
    "train.examples=1920", "checkpoint.every_examples=480", "log.every_steps=1",
    "eval.evaluators=()", "log.report=False", "log.tensorboard=False",
)  # fmt: skip
TOTAL = 60


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
    for text in ('"batch_size": 32', "image_tower/encoder/blocks", "total", "60 steps of 32"):
        assert text in output
    line = next(x for x in output.splitlines() if x.startswith("step 50/60"))
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


def told_to_stop(trainer, workdir, step, number):
    """Starts the run, stops it by a signal after a step; returns the step of its checkpoint."""
    process = trainer.start(workdir, *LONG)
    trainer.wait_for_step(process, workdir, step)
    code, output = trainer.kill(process, number)
    assert code == 75, output
    assert "stopped, with a checkpoint" in output
    stopped = max(int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert step <= stopped < TOTAL
    return stopped


def test_killed_and_then_told_to_stop_equals_undisturbed(trainer, undisturbed, tmp_path):
    process = trainer.start(tmp_path, *LONG)
    trainer.wait_for_step(process, tmp_path, 22)
    code, output = trainer.kill(process)
    assert code == -signal.SIGKILL, output
    stopped = told_to_stop(trainer, tmp_path, 40, signal.SIGTERM)
    code, output = trainer.run(tmp_path, *LONG)
    assert code == 0, output
    assert "resuming the run in" in output
    assert f"at step {stopped} of {TOTAL}" in output
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


@pytest.mark.slow
def test_interrupted_from_the_keyboard_equals_undisturbed(trainer, undisturbed, tmp_path):
    stopped = told_to_stop(trainer, tmp_path, 25, signal.SIGINT)
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
    trainer.wait_for_step(process, tmp_path, 25)
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
    run = object.__new__(trainer_lib.Run)
    saved = []
    run.save = lambda: saved.append(True)

    def broken():
        yield 1
        raise RuntimeError("Worker process was terminated unexpectedly")

    with pytest.raises(RuntimeError, match="Worker process"):
        list(run._until_stopped(broken()))
    assert not saved
    monkeypatch.setattr(trainer_lib.distributed, "stop_requested", lambda: True)
    with pytest.raises(trainer_lib.Preempted):
        list(run._until_stopped(broken()))
    assert saved


def test_a_stop_during_start_up_is_honoured(trainer, tmp_path):
    process = trainer.start(tmp_path, *LONG)
    line = process.stdout.readline()
    assert "process(es)" in line
    code, output = trainer.kill(process, signal.SIGTERM)
    assert code == 75, output


def test_two_runs_in_one_workdir(trainer, tmp_path):
    first = trainer.start(tmp_path, *LONG, "train.examples=320000")
    assert "process(es)" in first.stdout.readline()  # from here on it holds the lock
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


def small_disk(tmp_path):
    """Files cannot grow beyond 58 blocks, as on a disk without room for a checkpoint; the shared
    compilation cache is left alone, which would keep what was cut short."""
    return {
        "prefix": ("sh", "-c", 'ulimit -f 58; exec "$@"', "sh"),
        "env": {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")},
    }


@pytest.mark.slow
def test_a_full_disk_loses_no_training_and_ends_with_an_error(trainer, tmp_path):
    code, output = trainer.run(
        tmp_path, *LONG, "train.examples=640", "checkpoint.every_examples=320",
        **small_disk(tmp_path),
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


@pytest.mark.slow
def test_told_to_stop_on_a_full_disk_is_an_error(trainer, tmp_path):
    process = trainer.start(
        tmp_path, *LONG, "train.examples=320000", "checkpoint.every_examples=0",
        **small_disk(tmp_path),
    )  # fmt: skip
    trainer.wait_for_step(process, tmp_path, 3)
    code, output = trainer.kill(process, signal.SIGTERM)
    assert code == 1, output[-3000:]
    assert "the last checkpoint could not be written" in output
    assert "stopped, with a checkpoint" not in output
    assert "Traceback" not in output
