# ruff: noqa: E501 # commands are compared as they are
"""What the tests of the launchers for Cloud TPU share: the settings, and the commands they show."""

SLICE = dict(
    TPU_NAME="pod", ZONE="us-central2-b", ACCELERATOR_TYPE="v4-16",
    RUNTIME_VERSION="tpu-ubuntu2204-base",
)  # fmt: skip
FLAGS = ("--config=configs/tiny.py", "--workdir=/shared/it's a run")
SSH = "--quiet '--ssh-flag=-oConnectTimeout=15 -oServerAliveInterval=30' --zone=us-central2-b"
WORKER = "clip_jax/launch/tpu_worker.sh"
TRAIN = f"""\
gcloud compute tpus tpu-vm describe pod '--format=csv[no-heading](state,health,networkEndpoints.len(),acceleratorType.basename())' --zone=us-central2-b
tar -C ROOT/launch/.. --exclude-vcs --exclude-vcs-ignores -czf TMP/clip_jax.tar.gz .
gcloud compute tpus tpu-vm scp TMP/clip_jax.tar.gz pod: --worker=all --quiet --scp-flag=-oConnectTimeout=15 --zone=us-central2-b
gcloud compute tpus tpu-vm ssh pod --worker=all '--command={{ {WORKER} busy 2>/dev/null || {{ rm -rf clip_jax && mkdir clip_jax && tar -xzf clip_jax.tar.gz -C clip_jax; }}; }} && {WORKER} install' {SSH}
gcloud compute tpus tpu-vm ssh pod --worker=all '--command={WORKER} start --config=configs/tiny.py --workdir=/shared/it\\'\\''s\\ a\\ run' {SSH}
# For every worker I:
gcloud compute tpus tpu-vm ssh pod --worker=I '--command={WORKER} follow' {SSH} < /dev/null >> runs/launch/pod/TIME/worker-I.log 2>&1 &
# After a lost connection, until it answers; then follows again:
gcloud compute tpus tpu-vm ssh pod --worker=I '--command={WORKER} busy || [ $? = 1 ]' {SSH} < /dev/null >> runs/launch/pod/TIME/worker-I.log 2>&1
"""
LIST = "gcloud compute tpus tpu-vm list '--filter=name~/pod$' '--format=value(state)' --zone=us-central2-b\n"
QUEUED = "gcloud compute tpus queued-resources"


def shown(machines, script, *flags, **variables):
    code, output = machines.run(script, "--dry-run", *flags, **SLICE | variables)
    assert code == 0, output
    assert machines.calls() == []
    return output.replace(str(machines.root), "ROOT")
