"""The launcher for one machine, with stand-ins for the trainer; and once for real."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STUB = r"""#!/usr/bin/env bash
# Stands in for `python -m clip_jax.train`; each process does what its number's variable says.
what=WHAT_$CLIP_JAX_PROCESS_ID
saving() { echo stopping; sleep "${SAVING:-0}"; echo saved; exit 75; }
case ${!what:-train} in
  fail) exit 65 ;;
  fail_late) sleep 0.3; exit 65 ;;
  notice) exit 70 ;;
  notice_late) sleep 0.3; exit 70 ;;
  killed) kill -KILL $$ ;;
  deaf) trap '' TERM ;;
  done) echo done; exit 0 ;;
  *) trap saving TERM ;;
esac
echo started
while true; do sleep 0.02; done
"""


@pytest.fixture
def launch(root, tmp_path):
    """Starts launch/local.sh with stand-ins; ended, with its children, with the test."""
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    launchers = []

    def start(count, *flags, **environment):
        launchers.append(subprocess.Popen(
            ["bash", str(root / "launch" / "local.sh"), str(count), *flags],
            env=os.environ | environment | {
                "PATH": f"{stub.parent}:{os.environ['PATH']}", "CLIP_JAX_PORT": "1",
                "CHECK_INTERVAL": "0.02", "GRACE": "2",
            },
            cwd=tmp_path, start_new_session=True, text=True,
            # A shell cannot trap what it was started with as ignored, as in the background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ))  # fmt: skip
        return launchers[-1]

    yield start
    for process in launchers:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(path, text):
    deadline = time.time() + 20
    while not (path.is_file() and text in path.read_text()):
        assert time.time() < deadline, f"{text!r} does not come up in {path}"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_waits_for_what_is_being_saved(launch, tmp_path, number):
    process = launch(2, f"--workdir={tmp_path}", SAVING="2.6")  # longer than GRACE
    for i in range(2):
        wait_for(tmp_path / f"process-{i}.log", "started")
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    for i in range(2):
        assert "saved" in (tmp_path / f"process-{i}.log").read_text()
    assert "failed" not in output


def test_a_second_signal_kills(launch, tmp_path):
    process = launch(2, f"--workdir={tmp_path}", SAVING="60")
    for i in range(2):
        wait_for(tmp_path / f"process-{i}.log", "started")
    process.send_signal(signal.SIGTERM)
    wait_for(tmp_path / "process-1.log", "stopping")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGKILL


def test_a_failure_ends_the_others_and_its_code_is_returned(launch, tmp_path):
    process = launch(3, f"--workdir={tmp_path}", WHAT_0="deaf", WHAT_1="fail", WHAT_2="done")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 65
    assert "failed with exit code 65" in output


@pytest.mark.parametrize("what, code", [
    (("notice", "fail_late"), 65),
    (("killed", "notice_late"), 137), (("notice", "killed"), 137),
    (("notice", "deaf"), 70),  # the second is killed by the launcher
])  # fmt: skip
def test_the_cause_comes_before_those_that_noticed(launch, tmp_path, what, code):
    process = launch(2, f"--workdir={tmp_path}", WHAT_0=what[0], WHAT_1=what[1])
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert f"failed with exit code {code}" in output


def test_a_dry_run_asked_for_too_late_starts_nothing(launch, tmp_path):
    process = launch(2, f"--workdir={tmp_path}", "--dry-run", WHAT_0="done", WHAT_1="done")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 64 and "--dry-run comes before the flags" in output
    assert not (tmp_path / "process-0.log").exists()


@pytest.mark.parametrize("form", ["--workdir={}", "--workdir {}"])
def test_logs_are_in_the_workdir_however_it_is_written(launch, tmp_path, form):
    folder = tmp_path / "a run"
    flags = [part.format(folder) for part in form.split(" ")]
    process = launch(2, "--config=x.py", *flags, WHAT_0="done", WHAT_1="done")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert sorted(p.name for p in folder.iterdir()) == ["process-0.log", "process-1.log"]
    assert "done" in output


def test_the_commands_can_be_shown(root):
    done = subprocess.run(
        ["bash", str(root / "launch" / "local.sh"), "--dry-run", "2", "--workdir", "a run"],
        capture_output=True, text=True, env=os.environ | {"CLIP_JAX_PORT": "77"},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert (
        "CLIP_JAX_COORDINATOR=127.0.0.1:77 CLIP_JAX_PROCESSES=2 CLIP_JAX_PROCESS_ID=1" in lines[1]
    )
    assert r"--workdir a\ run > a\ run/process-1.log" in lines[1]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_train(trainer, root, tmp_path):
    """Without stand-ins, from the command to the result."""
    done = subprocess.run(
        ["bash", "launch/local.sh", "2", "--config=configs/tiny.py", f"--workdir={tmp_path}",
         "--config.train.examples=160", "--config.log.tensorboard=False"],
        cwd=root, capture_output=True, text=True, timeout=300,
        env=trainer.environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 process(es), 2 cpu device(s)" in done.stdout
    assert (tmp_path / "result.json").is_file()
    assert "step " not in (tmp_path / "process-1.log").read_text()


@pytest.mark.slow
@pytest.mark.multiprocess
def test_four_processes_survive_the_loss_of_one(trainer, root, tmp_path):
    """One is killed: all end within a minute and say why; the same command then takes the run to
    the end that an undisturbed one has."""
    flags = ("--config=configs/tiny.py", "--config.train.examples=1600",
             "--config.eval.evaluators=()", "--config.log.report=False",
             "--config.log.tensorboard=False", "--config.log.every_steps=1")  # fmt: skip
    environment = trainer.environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    def start(workdir):
        return subprocess.Popen(
            ["bash", "launch/local.sh", "4", *flags, f"--workdir={workdir}"], cwd=root, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip

    undisturbed = start(tmp_path / "undisturbed")
    output, _ = undisturbed.communicate(timeout=400)
    assert undisturbed.returncode == 0, output
    workdir = tmp_path / "run"
    launcher = start(workdir)
    trainer.wait_for_step(launcher, workdir, 20, timeout=300)
    os.kill(process_of(workdir, 2), signal.SIGKILL)
    killed = time.monotonic()
    output, _ = launcher.communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert launcher.returncode == 128 + signal.SIGKILL, output
    logs = [(workdir / f"process-{i}.log").read_text() for i in (0, 1, 3)]
    assert any("another process was lost" in log for log in logs), logs
    again = start(workdir)
    output, _ = again.communicate(timeout=400)
    assert again.returncode == 0, output
    assert "resuming the run" in output
    results = [json.loads((w / "result.json").read_text())
               for w in (workdir, tmp_path / "undisturbed")]  # fmt: skip
    assert results[0]["state_fingerprint"] == results[1]["state_fingerprint"]


def process_of(workdir, number):
    """The id of the trainer that is a process of a run."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            mine = f"CLIP_JAX_PROCESS_ID={number}".encode() in (folder / "environ").read_bytes()
        except OSError:  # ended meanwhile, or not ours
            continue
        if mine and b"clip_jax.train" in command and str(workdir).encode() in command:
            return int(folder.name)
    raise AssertionError("no such process")
