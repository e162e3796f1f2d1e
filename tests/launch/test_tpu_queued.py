# ruff: noqa: E501 # commands are compared as they are
"""The launcher for queued TPU resources, with stand-ins for gcloud and the trainer."""

import pytest
from tpu_commands import FLAGS, LIST, QUEUED, SLICE, TRAIN, shown


def test_the_commands_of_a_queued_resource_can_be_shown(machines):
    request = (
        f"{QUEUED} create pod --node-id=pod --accelerator-type=v4-16"
        " --runtime-version=tpu-ubuntu2204-base --valid-until-duration=6h --spot"
        " --zone=us-central2-b\n"
    )
    assert shown(machines, "tpu_queued.sh", *FLAGS, VALID_UNTIL="6h") == (
        "# Every 0.1 seconds:\n"
        f"{QUEUED} list '--filter=name~/pod$' '--format=value(state.state)' --zone=us-central2-b\n"
        + LIST + "# If there is no request:\n" + request
        + "# If it is SUSPENDED or FAILED, or the slice was preempted:\n"
        f"{QUEUED} delete pod --force --quiet --zone=us-central2-b\n" + request
        + "# If it is ACTIVE; all again after exit codes 137 71 134 70 75, and when the slice is gone:\n"
        "mkdir -p runs/launch/pod/TIME\n" + LIST + TRAIN + LIST
    )  # fmt: skip


def test_a_worker_that_cannot_be_set_up_is_tried_again_a_few_times(machines):
    machines.write(queue="ACTIVE", slice="READY")
    machines.trainers("0", "0")
    (machines.folder / "worker-1" / "no-packages").touch()
    code, output = machines.run("tpu_queued.sh", *FLAGS, RESTARTS="1", **SLICE)
    assert code == 70 and "given up after 1 restarts" in output
    assert len(machines.calls("tpu_worker.sh install")) == 2
    assert machines.calls("tpu_worker.sh start") == []


@pytest.mark.parametrize("code", ["70", "71", "75", "134", "137"])
def test_a_queued_resource_is_waited_for_and_started_again(machines, code):
    machines.write(queue="\nWAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE", slice="READY")
    machines.trainers(f"{code} 0", f"{code} 0")
    code, output = machines.run("tpu_queued.sh", *FLAGS, **SLICE)
    assert code == 0, output
    assert len(machines.calls("queued-resources create pod", "--spot")) == 1
    assert machines.calls("queued-resources delete") == []
    assert len(machines.calls("tpu_worker.sh start")) == 2
    assert machines.calls("tpu-vm create") == []


def test_after_a_preemption_another_slice_is_asked_for(machines):
    # Two looks at the slice before the first run, one after it: it has been preempted.
    machines.write(queue="ACTIVE", slice="READY\nREADY\nPREEMPTED\nPREEMPTED\nREADY")
    machines.trainers("70 0", "1 0")
    code, output = machines.run("tpu_queued.sh", *FLAGS, **SLICE)
    assert code == 0, output
    assert "restart 1: SUSPENDED" in output
    calls = [c.split()[4] for c in machines.calls("queued-resources") if " list " not in c]
    assert calls == ["delete", "create"]
    assert len(machines.calls("tpu_worker.sh start")) == 2


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_a_request_that_ended_is_made_again(machines, state):
    machines.write(queue=f"{state}\nACTIVE", slice="READY")
    machines.trainers("0", "0")
    assert machines.run("tpu_queued.sh", *FLAGS, **SLICE)[0] == 0
    assert len(machines.calls("queued-resources create")) == 1
    assert bool(machines.calls("state.failedData.error.message")) == (state == "FAILED")


def test_what_starting_again_does_not_help_is_not_started_again(machines):
    machines.write(queue="ACTIVE", slice="READY")
    machines.trainers("70", "78")
    assert machines.run("tpu_queued.sh", *FLAGS, **SLICE)[0] == 78
    assert len(machines.calls("tpu_worker.sh start")) == 1


def test_a_request_that_was_deleted_does_not_come_back(machines):
    machines.write(queue="\nWAITING_FOR_RESOURCES\n\n")
    code, output = machines.run("tpu_queued.sh", *FLAGS, **SLICE)
    assert code == 1 and output.endswith("pod: the request has been deleted\n")
    assert len(machines.calls("queued-resources create")) == 1


def test_a_start_that_lasted_resets_the_count_of_restarts(machines):
    machines.write(queue="ACTIVE", slice="READY")
    machines.trainers("75 75 0", "75 75 0")
    code, output = machines.run("tpu_queued.sh", *FLAGS, RESTARTS="1", STEADY="0", **SLICE)
    assert code == 0, output


def test_no_answer_is_waited_out(machines):
    machines.write(queue="no answer\nno answer\nno answer\nACTIVE", slice="READY")
    machines.trainers("0", "0")
    code, output = machines.run("tpu_queued.sh", *FLAGS, RESTARTS="1", **SLICE)
    assert code == 0, output


def test_restarts_come_to_an_end(machines):
    machines.write(queue="FAILED", slice="READY")
    code, output = machines.run("tpu_queued.sh", *FLAGS, RESTARTS="2", **SLICE)
    assert code == 70
    assert "given up after 2 restarts" in output
    assert len(machines.calls("queued-resources create")) == 2
