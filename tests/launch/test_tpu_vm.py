# ruff: noqa: E501 # commands are compared as they are
"""The launcher for a TPU slice, with stand-ins for gcloud and the trainer; tpu_worker.sh is real."""

import os
import shlex
import shutil
import signal
import time

import pytest
from tpu_commands import FLAGS, LIST, SLICE, SSH, TRAIN, WORKER, shown


def test_the_commands_of_a_slice_can_be_shown(machines):
    assert shown(machines, "tpu_vm.sh", *FLAGS) == (
        "mkdir -p runs/launch/pod/TIME\n" + LIST + "# If that prints nothing:\n"
        "gcloud compute tpus tpu-vm create pod --accelerator-type=v4-16"
        " --version=tpu-ubuntu2204-base --zone=us-central2-b\n" + TRAIN + LIST
    )
    assert list(machines.tmp_path.glob("runs")) == []


def test_optional_variables_become_flags(machines):
    output = shown(
        machines, "tpu_vm.sh", *FLAGS, CAPACITY="spot", PROJECT_ID="mine", REF="v1",
        REPOSITORY="https://x/y.git", MOUNT="mount 'a b'", LOGS="my logs",
        CREATE_FLAGS="--network=n --internal-ips", SSH_FLAGS="--internal-ip",
    )  # fmt: skip
    assert " --spot --network=n --internal-ips --zone=us-central2-b --project=mine\n" in output
    unpack = (
        f"{{ {WORKER} busy 2>/dev/null || {{ rm -rf clip_jax && git clone --quiet"
        " https://x/y.git clip_jax && git -C clip_jax checkout --quiet v1; }; }"
    )
    assert f"--command={unpack} && {WORKER} install mount\\ \\'a\\ b\\'" in shlex.split(output)
    assert " scp " not in output
    assert output.count(" --internal-ip --zone=us-central2-b --project=mine") == 4
    assert ">> 'my logs/pod/TIME/worker-I.log'" in output


@pytest.mark.parametrize("script, action, command", [
    ("tpu_vm.sh", "--delete", "tpu-vm delete pod --quiet --zone=us-central2-b"),
    ("tpu_vm.sh", "--stop", f"tpu-vm ssh pod --worker=all '--command={WORKER} stop' {SSH}"),
    ("tpu_queued.sh", "--delete",
     "queued-resources delete pod --force --quiet --zone=us-central2-b"),
])  # fmt: skip
def test_the_commands_of_other_actions_can_be_shown(machines, script, action, command):
    assert shown(machines, script, action) == f"gcloud compute tpus {command}\n"


@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_queued.sh"])
@pytest.mark.parametrize("change, flags, message", [
    ({"ZONE": ""}, FLAGS, "ZONE is not set"),
    ({"RUNTIME_VERSION": ""}, FLAGS, "RUNTIME_VERSION is not set"),
    ({"CAPACITY": "cheap"}, FLAGS, "CAPACITY=cheap is not"),
    ({}, FLAGS[:1], "--workdir=DIR is missing"),
    ({}, ["--workdir", "gs://b/run"], "--workdir=gs://b/run must be a folder"),
    ({}, [*FLAGS, "--dry-run"], "--dry-run comes before the flags of clip_jax.train"),
    ({}, [*FLAGS, "--delete"], "--delete comes before the flags of clip_jax.train"),
])  # fmt: skip
def test_what_is_missing_is_one_line(machines, script, change, flags, message):
    code, output = machines.run(script, *flags, **SLICE | change)
    assert code == 64
    assert output.startswith(f"{script}: {message}") and output.count("\n") == 1
    assert machines.calls() == []


def test_a_slice_is_created_set_up_and_trained_on(machines):
    machines.trainers("0", "0")
    code, output = machines.run("tpu_vm.sh", *FLAGS, MOUNT='touch "$HOME/mounted here"', **SLICE)
    assert code == 0, output
    assert "started" in output
    for i in range(2):
        home = machines.folder / f"worker-{i}"
        assert (home / "mounted here").is_file()
        assert (home / "installed").read_text().endswith("clip_jax[tpu]\n")
        assert (home / "arguments").read_text() == "\n".join(["-m", "clip_jax.train", *FLAGS, ""])
        assert (home / "clip_jax" / "configs" / "tiny.py").is_file()
        assert not (home / "clip_jax" / ".git").exists()
    logs = machines.logs("runs/launch/pod/*/worker-*.log")
    assert list(logs) == ["worker-0.log", "worker-1.log"]
    assert all(text.endswith("started\n\nexit code 0\n") for text in logs.values())
    assert len(machines.calls("create")) == 1
    # And again: the slice is there.
    for i in range(2):
        (machines.folder / f"worker-{i}" / "codes").write_text("0\n")
    assert machines.run("tpu_vm.sh", *FLAGS, **SLICE)[0] == 0
    assert len(machines.calls("create")) == 1


def test_the_checkout_is_copied_without_what_git_ignores(machines):
    """Started in the checkout, as the documentation says: logs are then a part of what is copied."""
    checkout = machines.tmp_path / "checkout"
    shutil.copytree(machines.root, checkout)
    for name in ("runs/x", ".venv/x", "configs/__pycache__/x"):
        (checkout / name).parent.mkdir()
        (checkout / name).touch()
    machines.root = machines.cwd = checkout
    machines.trainers("0 0", "0 0")
    temporary = machines.tmp_path / "temporary"
    temporary.mkdir()
    for _ in range(2):
        code, output = machines.run("tpu_vm.sh", *FLAGS, TMPDIR=str(temporary), **SLICE)
        assert code == 0, output
        for i in range(2):
            copy = machines.folder / f"worker-{i}" / "clip_jax"
            assert sorted(p.name for p in copy.iterdir()) == ["configs", "launch"]
            assert not (copy / "configs" / "__pycache__").exists()
    assert list(temporary.iterdir()) == []
    assert list(checkout.rglob("*.tar.gz")) == []


def wait_until(condition, timeout=120):
    deadline = time.time() + timeout
    while not condition():
        assert time.time() < deadline
        time.sleep(0.02)


def running(machines, i):
    """Whether the trainer of a worker is there."""
    pid = int((machines.folder / f"worker-{i}" / "clip_jax.state" / "pid").read_text())
    return os.path.isdir(f"/proc/{pid}")


def train_and_lose_the_connection(machines, **variables):
    """Worker 1 is out of reach while both train."""
    machines.write(slice="READY")
    machines.trainers("runs", "runs")
    process = machines.start("tpu_vm.sh", *FLAGS, **SLICE | variables)
    logs = "runs/launch/pod/*/worker-*.log"
    wait_until(lambda: all("started" in t for t in (machines.logs(logs) or {0: ""}).values()))
    (machines.folder / "worker-1" / "unreachable").touch()
    return process


def test_a_lost_connection_does_not_end_training(machines):
    process = train_and_lose_the_connection(machines, PATIENCE="60")
    time.sleep(1.2)  # longer than GRACE
    wait_until(lambda: len(machines.calls("--worker=1", "tpu_worker.sh busy")) >= 2)
    assert process.poll() is None
    (machines.folder / "worker-1" / "unreachable").unlink()
    wait_until(lambda: len(machines.calls("--worker=1", "tpu_worker.sh follow")) == 2)
    assert machines.calls("tpu_worker.sh kill") == []
    assert machines.run("tpu_vm.sh", "--stop", **SLICE)[0] == 0
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 75, output
    (log,) = machines.logs("runs/launch/pod/*/worker-1.log").values()
    assert "connection was lost" in log and log.endswith("saved\n\nexit code 75\n")


@pytest.mark.parametrize("patience, slices", [("1", "READY"), ("600", "PREEMPTED"), ("600", "")])
def test_a_worker_out_of_reach_ends_following_and_not_training(machines, patience, slices):
    process = train_and_lose_the_connection(machines, PATIENCE=patience)
    machines.write(slice=slices)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 70 and "worker 1 does not answer" in output
    assert machines.calls("tpu_worker.sh kill") == []
    assert running(machines, 0) and running(machines, 1)


def test_training_that_ended_without_an_exit_code_counts_as_lost(machines):
    machines.write(slice="READY")
    machines.trainers("runs", "runs")
    process = machines.start("tpu_vm.sh", *FLAGS, **SLICE)
    pid = machines.folder / "worker-1" / "clip_jax.state" / "pid"
    wait_until(lambda: pid.is_file() and len(machines.calls("tpu_worker.sh follow")) == 2)
    os.killpg(os.getsid(int(pid.read_text())), signal.SIGKILL)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 70 and "worker 1 ended with exit code 70" in output
    assert machines.calls("tpu_worker.sh kill") and not running(machines, 0)


def test_training_under_way_is_followed_and_stops_when_told(machines):
    machines.write(slice="READY")
    machines.trainers("runs", "runs")
    first = machines.start("tpu_vm.sh", *FLAGS, **SLICE)
    deadline = time.time() + 30
    while len(machines.calls("tpu_worker.sh follow")) < 2:
        assert time.time() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=20)
    # Other flags are refused; the same ones follow what is running, and do not start it.
    code, output = machines.run("tpu_vm.sh", "--workdir=/other", **SLICE)
    assert code == 73 and "other training is running" in output
    second = machines.start("tpu_vm.sh", *FLAGS, **SLICE)
    while len(machines.calls("tpu_worker.sh follow")) < 4:
        assert time.time() < deadline
        time.sleep(0.02)
    assert machines.run("tpu_vm.sh", "--stop", **SLICE)[0] == 0
    output, _ = second.communicate(timeout=20)
    assert second.returncode == 75 and "already running" in output
    assert output.count("saved") == 1
    # Each launch has a folder of its own, also when two began in the same second.
    assert len(list(machines.tmp_path.glob("runs/launch/pod/*"))) == 3


def test_the_failed_worker_decides_and_the_others_are_ended(machines):
    machines.write(slice="READY")
    machines.trainers("hangs", "65")
    code, output = machines.run("tpu_vm.sh", *FLAGS, **SLICE)
    assert code == 65
    assert "worker 1 ended with exit code 65" in output
    assert machines.calls("--worker=all", "tpu_worker.sh kill")
    log = machines.folder / "worker-0" / "clip_jax.state" / "log"
    assert log.read_text().endswith("exit code 137\n")


@pytest.mark.parametrize("node, code", [
    ("CREATING,,0,v4-16", 70), ("PREEMPTED,,2,v4-16", 70), ("READY,TIMEOUT,2,v4-16", 70),
    ("READY,UNHEALTHY_MAINTENANCE,2,v4-16", 70), ("READY,HEALTHY,1,v4-8", 64),
])  # fmt: skip
def test_a_slice_that_is_not_well_or_of_another_type_is_not_used(machines, node, code):
    machines.write(slice="READY", node=node)
    machines.trainers("0", "0")
    result, output = machines.run("tpu_vm.sh", *FLAGS, **SLICE)
    assert result == code
    assert ("is there as v4-8, not as ACCELERATOR_TYPE=v4-16" in output) == (code == 64)
    assert machines.calls("ssh") == machines.calls("scp") == machines.calls("create") == []


def test_a_missing_worker_fails_at_once(machines):
    machines.write(slice="READY")
    machines.trainers("0")
    code, output = machines.run("tpu_vm.sh", *FLAGS, **SLICE)
    assert code == 70 and output.endswith("pod: the checkout cannot be copied\n")
    assert machines.calls("tpu_worker.sh start") == []


@pytest.mark.parametrize("broken, message", [
    ("tpu-vm list", "the slices cannot be listed"),
    ("tpu-vm create", "the slice cannot be created"),
    ("tpu-vm describe", "the slice cannot be described"),
    ("tpu-vm scp", "the checkout cannot be copied"),
    ("tpu-vm ssh", "a worker cannot be set up"),
])  # fmt: skip
def test_what_fails_before_training_may_be_tried_again(machines, broken, message):
    machines.write(broken=broken)
    machines.trainers("0", "0")
    code, output = machines.run("tpu_vm.sh", *FLAGS, **SLICE)
    assert code == 70 and output.endswith(f"pod: {message}\n")


def test_training_that_cannot_be_started_may_be_tried_again(machines):
    machines.write(slice="READY")
    machines.trainers("0", "0")
    (machines.folder / "worker-1" / "clip_jax.state" / "flags").mkdir(parents=True)
    code, output = machines.run("tpu_vm.sh", *FLAGS, **SLICE)
    assert code == 70 and output.endswith("pod: training cannot be started\n")
