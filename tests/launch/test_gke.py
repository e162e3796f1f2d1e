# ruff: noqa: E501 # commands are compared as they are
"""The launcher for GKE, with stand-ins for xpk and kubectl."""

import pytest

RUN = dict(CLUSTER="c", WORKLOAD="w", TPU_TYPE="v5litepod-16")
FLAGS = ("--config=configs/tiny.py", "--workdir=/shared/it's a run")
CREATE = "xpk workload create --workload=w --tpu-type=v5litepod-16"
RESTART = "--max-restarts=50 --restart-on-exit-codes=70,71,75"
TRAIN = (
    "exec python -m clip_jax.train --config=configs/tiny.py --workdir=/shared/it\\'\\''s\\ a\\ run"
)


def shown(machines, *flags, **variables):
    code, output = machines.run("gke_xpk.sh", "--dry-run", *flags, **RUN | variables)
    assert code == 0, output
    assert machines.calls() == []
    return output.replace(str(machines.root), "ROOT")


def test_the_commands_can_be_shown(machines):
    assert (
        shown(machines, *FLAGS, PROJECT_ID="p", ZONE="us-east5-b")
        == f"""\
xpk workload list --filter-by-job=w --cluster=c --project=p --zone=us-east5-b
kubectl get jobset w --ignore-not-found --output=name
# If that prints nothing:
{CREATE} --num-slices=1 {RESTART} --termination-grace-period-seconds=120 --base-docker-image=python:3.11 --script-dir=ROOT/launch/.. '--command=pip install --quiet '\\''.[tpu]'\\'' && {TRAIN}' --cluster=c --project=p --zone=us-east5-b
xpk workload list --wait-for-job-completion=w --cluster=c --project=p --zone=us-east5-b
mkdir -p runs/launch/w/TIME
kubectl get pods --selector=xpk.google.com/workload=w --output=name
# For every POD of these:
kubectl logs POD > runs/launch/w/TIME/POD.log
"""
    )


def test_optional_variables_become_flags(machines):
    output = shown(
        machines, *FLAGS, IMAGE="gcr.io/p/i", SLICES="4", STORAGE="a b", RESTARTS="2",
        SAVE_SECONDS="60", CREATE_FLAGS="--priority=high",
    )  # fmt: skip
    assert (
        f"{CREATE} --num-slices=4 --max-restarts=2 --restart-on-exit-codes=70,71,75"
        " --termination-grace-period-seconds=60 --storage=a --storage=b --docker-image=gcr.io/p/i"
        f" '--command={TRAIN}' --priority=high --cluster=c\n"
    ) in output


def test_the_commands_of_other_actions_can_be_shown(machines):
    assert shown(machines, "--create-cluster", SLICES="2", CAPACITY="reservation=r") == (
        "xpk cluster create --tpu-type=v5litepod-16 --num-slices=2 --reservation=r --cluster=c\n"
    )
    assert shown(machines, "--delete") == ("xpk workload delete --workload=w --force --cluster=c\n")


@pytest.mark.parametrize("change, flags, message", [
    ({"CLUSTER": ""}, FLAGS, "CLUSTER is not set"),
    ({"WORKLOAD": ""}, FLAGS, "WORKLOAD is not set"),
    ({"TPU_TYPE": ""}, ["--create-cluster"], "TPU_TYPE is not set"),
    ({"CAPACITY": "cheap"}, ["--create-cluster"], "CAPACITY=cheap is not"),
    ({}, FLAGS[:1], "--workdir=DIR is missing"),
    ({}, [*FLAGS, "--dry-run"], "--dry-run comes before the flags of clip_jax.train"),
    ({}, [*FLAGS, "--create-cluster"], "--create-cluster comes before the flags"),
])  # fmt: skip
def test_what_is_missing_is_one_line(machines, change, flags, message):
    code, output = machines.run("gke_xpk.sh", *flags, **RUN | change)
    assert code == 64
    assert output.startswith(f"gke_xpk.sh: {message}") and output.count("\n") == 1
    assert machines.calls() == []


def test_a_run_is_submitted_once_and_its_logs_are_collected(machines):
    pods = {"w-slice-job-0-0-abc": "one\nEXIT_CODE=0\n", "w-slice-job-0-1-def": "two\n"}
    machines.write(pods="".join(f"pod/{p}\n" for p in pods), **pods)
    assert machines.run("gke_xpk.sh", *FLAGS, **RUN)[0] == 0
    assert len(machines.calls(CREATE)) == 1
    logs = machines.logs("runs/launch/w/*/*.log")
    assert {name: text.strip() for name, text in logs.items()} == {
        f"{pod}.log": text.strip() for pod, text in pods.items()
    }
    machines.write(jobset="jobset.jobset.x-k8s.io/w")
    assert machines.run("gke_xpk.sh", *FLAGS, **RUN)[0] == 0
    assert len(machines.calls(CREATE)) == 1


@pytest.mark.parametrize("wait, logs, code", [
    ("125", ("EXIT_CODE=70", "EXIT_CODE=78"), 78),
    ("125", ("EXIT_CODE=75", "cut off"), 70),
    ("125", (), 125),
    ("1", ("EXIT_CODE=0",), 1),
    ("125", ("no answer", "EXIT_CODE=78"), 78),
    ("125", ("no answer",), 125),  # a log that cannot be read is not one that says nothing
])  # fmt: skip
def test_the_failed_worker_decides(machines, wait, logs, code):
    machines.write(
        wait=wait, jobset="w", pods="".join(f"pod/p{i}\n" for i in range(len(logs))),
        **{f"p{i}": text for i, text in enumerate(logs)},
    )  # fmt: skip
    result, output = machines.run("gke_xpk.sh", *FLAGS, **RUN)
    assert result == code
    assert ("no log of pod/p0" in output) == ("no answer" in logs)


def test_pods_that_cannot_be_listed_are_said(machines):
    machines.write(wait="125", jobset="w", pods="no answer")
    code, output = machines.run("gke_xpk.sh", *FLAGS, **RUN)
    assert code == 125 and "the pods cannot be listed" in output


def test_what_git_ignores_does_not_go_into_images(root):
    ignored = (root / ".gitignore").read_text().split()
    lines = (root / ".dockerignore").read_text().splitlines()
    assert [line for line in lines if line[0] != "#"] == [
        f"**/{name}" for name in [*ignored, ".git"]
    ]
