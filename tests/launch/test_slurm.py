# ruff: noqa: E501 # commands are compared as they are
"""The launcher for SLURM, with stand-ins for its programs and for the trainer."""

import os
import signal
import time

import pytest

SIZE = dict(NODES="2", GPUS_PER_NODE="4")
JOB = dict(SLURM_JOB_ID="7", SLURM_NTASKS="2")


def job(machines):
    """Runs the script as SLURM does: a copy of it, which is told where the others are."""
    return (
        "slurm.sh", "--job", str(machines.root / "launch"), "--config=x.py",
        f"--workdir={machines.tmp_path}/a run",
    )  # fmt: skip


def test_the_commands_can_be_shown(machines):
    code, output = machines.run(
        "slurm.sh", "--dry-run", "--config=x.py", "--workdir", "/shared/it's a run",
        CPUS_PER_TASK="12", **SIZE,
    )  # fmt: skip
    assert code == 0, output
    assert (
        output.replace(str(machines.root), "ROOT")
        == r"""mkdir -p '/shared/it'\''s a run/slurm'
sbatch '--job-name=clip_jax-it'\''s a run' --dependency=singleton --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 --cpus-per-task=12 --requeue --signal=TERM@300 '--output=/shared/it'\''s a run/slurm/%j.log' --open-mode=append ROOT/launch/slurm.sh --job ROOT/launch --config=x.py --workdir '/shared/it'\''s a run'
# In the job:
srun --cpus-per-task=12 '--output=/shared/it'\''s a run/slurm/JOB-0-%t.log' --kill-on-bad-exit=0 --wait=120 ROOT/launch/slurm.sh --process ROOT/launch --config=x.py --workdir '/shared/it'\''s a run'
# In each of its processes:
python -m clip_jax.train --config=x.py --workdir '/shared/it'\''s a run'
# After exit codes 137 71 134 70 75:
scontrol requeue Incomplete JOB
"""
    )
    assert machines.calls() == []


@pytest.mark.parametrize("change, flags, message", [
    ({"NODES": ""}, ["--workdir=/w"], "NODES is not set"),
    ({"GPUS_PER_NODE": ""}, ["--workdir=/w"], "GPUS_PER_NODE is not set"),
    ({}, ["--config=x.py"], "--workdir=DIR is missing"),
    ({}, ["--workdir=/w", "--dry-run"], "--dry-run comes before the flags of clip_jax.train"),
])  # fmt: skip
def test_what_is_missing_is_one_line(machines, change, flags, message):
    code, output = machines.run("slurm.sh", *flags, **SIZE | change)
    assert code == 64
    assert output.startswith(f"slurm.sh: {message}") and output.count("\n") == 1
    assert machines.calls() == []


def test_a_job_is_submitted(machines):
    workdir = machines.tmp_path / "a run"
    assert machines.run("slurm.sh", f"--workdir={workdir}", SAVE_SECONDS="60", **SIZE)[0] == 0
    assert (workdir / "slurm").is_dir()  # or SLURM could not write its logs
    (call,) = machines.calls()
    assert call.startswith("sbatch '--job-name=clip_jax-a run' --dependency=singleton --nodes=2 ")
    assert " --signal=TERM@60 " in call


@pytest.mark.parametrize("codes, code, requeued", [
    (("0", "0"), 0, False), (("75", "75"), 75, True), (("70", "71"), 71, True),
    (("134", "70"), 134, True), (("137", "134"), 137, True),
    (("78", "70"), 78, False), (("70", "1"), 1, False), (("137", "65"), 65, False),
])  # fmt: skip
def test_the_exit_codes_decide_whether_it_is_queued_again(machines, codes, code, requeued):
    machines.trainers(*codes, kind="process")
    (machines.tmp_path / "a run" / "slurm").mkdir(parents=True)
    assert machines.run(*job(machines), **JOB)[0] == code
    assert machines.calls("scontrol") == ["scontrol requeue Incomplete 7"] * requeued
    logs = machines.logs("a run/slurm/*")
    assert list(logs) == ["7-0-0.log", "7-0-1.log"]
    arguments = (machines.folder / "process-1" / "arguments").read_text().splitlines()
    assert arguments == ["-m", "clip_jax.train", *job(machines)[3:]]


def test_what_srun_refuses_is_not_queued_again(machines):
    machines.write(srun="1")
    (machines.tmp_path / "a run" / "slurm").mkdir(parents=True)
    code, output = machines.run(*job(machines), **JOB)
    assert code == 1
    assert "srun ended with exit code 1 before any process began" in output
    assert machines.calls("scontrol") == []


def test_it_is_not_queued_again_for_ever(machines):
    machines.trainers("70", "70", kind="process")
    (machines.tmp_path / "a run" / "slurm").mkdir(parents=True)
    code, output = machines.run(*job(machines), SLURM_RESTART_COUNT="2", RESTARTS="2", **JOB)
    assert code == 70 and "given up after 2 restarts" in output
    assert machines.calls("scontrol") == []


def test_the_signal_before_the_end_saves_and_queues_again(machines):
    machines.trainers("runs", "runs", kind="process")
    (machines.tmp_path / "a run" / "slurm").mkdir(parents=True)
    process = machines.start(*job(machines), **JOB)
    deadline = time.time() + 20
    while "started" not in "".join(machines.logs("a run/slurm/7-0-1.log").values()):
        assert time.time() < deadline
        time.sleep(0.1)
    # SLURM signals the processes of the step, and not the script of the job.
    for pid in (machines.folder / "pids").read_text().split():
        os.kill(int(pid), signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 75
    assert all("saved" in text for text in machines.logs("a run/slurm/*").values())
    assert machines.calls("scontrol") == ["scontrol requeue Incomplete 7"]
