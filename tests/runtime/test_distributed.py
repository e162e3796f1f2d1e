"""Several real processes on this machine train one run; and what happens when one is lost."""

import json
import signal
import time

import jax
import numpy as np
import pytest

from clip_jax import config as config_lib
from clip_jax.models import clip
from clip_jax.runtime import distributed
from clip_jax.runtime.mesh import create_mesh
from clip_jax.training import checkpoint, metric_writer, optim, state

FLAGS = (
    "train.examples=640", "log.every_steps=1", "eval.limit=30", "eval.every_examples=0",
    "log.tensorboard=False", "log.report=False", "checkpoint.every_examples=320",
    "model.vision.num_layers=1", "model.text.num_layers=1",  # compiling takes most of the time
    "mesh.data=2", "mesh.fsdp=2",
    "tokenizer.context_length=20",  # the processes agree whether captions are cut to 16
    "optim.eps=1e-3",  # see test_step.py: small ones make steps of rounding noise
)  # fmt: skip


@pytest.fixture(scope="module")
def one_process(trainer, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    code, output = trainer.run(workdir, *FLAGS, devices=4)
    assert code == 0, output
    return workdir


def parameters(root, workdir):
    """The final parameters of a run of configs/tiny.py."""
    c = config_lib.load(str(root / "configs" / "tiny.py"))
    c.model.vision.num_layers = c.model.text.num_layers = 1  # as in FLAGS
    mesh = create_mesh({"data": 8})

    class Tokenizer:
        vocab_size, context_length, eot_id = 32, 20, 2

    model = clip.build(c.model, Tokenizer)
    tx = optim.build(c.optim, optim.warmup_cosine(c.optim.learning_rate, 0, 10))
    shapes, _ = state.abstract(model, tx, False, mesh)
    ck = checkpoint.Checkpoints(workdir / "checkpoints", keep=3)
    restored, metadata = ck.restore(lambda _: shapes)
    ck.close()
    assert metadata["step"] == 20
    return jax.tree.map(np.asarray, restored.params)


@pytest.mark.multiprocess
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_train_what_one_process_trains(trainer, root, one_process, tmp_path, count):
    """Same mesh, same rows: what differs is the order in which gloo and the in-process
    all-reduce add up gradients, hence the last bits. Twenty steps of Adam at rate 3e-3 move a
    parameter by up to 6e-2; 2e-5 is a three-thousandth of that."""
    group = trainer.start_group(tmp_path, count, *FLAGS, devices=4 // count)
    outputs = [p.communicate(timeout=300)[0] for p in group]
    assert [p.returncode for p in group] == [0] * count, outputs
    assert f"{count} process(es), 4 cpu device(s)" in outputs[0]
    assert all("step " not in o for o in outputs[1:])
    got = jax.tree_util.tree_flatten_with_path(parameters(root, tmp_path))[0]
    want = jax.tree.leaves(parameters(root, one_process))
    for (path, a), b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, err_msg=jax.tree_util.keystr(path))
    results = [json.loads((w / "result.json").read_text()) for w in (tmp_path, one_process)]
    assert results[0]["data_fingerprint"] == results[1]["data_fingerprint"]
    got, expected = (r["metrics"]["retrieval"] for r in results)
    (final,) = [
        r for r in metric_writer.read(tmp_path / "metrics.jsonl") if "eval/retrieval/n" in r
    ]
    assert final["step"] == 20
    assert {f"eval/retrieval/{k}": v for k, v in got.items()}.items() <= final.items()
    # Thirty texts: a cosine in the last bit may swap two neighbours in a ranking.
    assert got == pytest.approx(expected, abs=0.07)
    curves = [[r["loss"] for r in metric_writer.read(w / "metrics.jsonl") if "loss" in r]
              for w in (tmp_path, one_process)]  # fmt: skip
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)


# The trainer on a mesh whose devices alternate between the processes.
INTERLEAVED = """
import sys
from clip_jax import train
from clip_jax.runtime import distributed, mesh

create = mesh.create_mesh

def interleaved(sizes):
    import jax
    count = jax.local_device_count()
    return create(sizes, sorted(jax.devices(), key=lambda d: (d.id % count, d.process_index)))

mesh.create_mesh = interleaved
code = train.main(sys.argv[1:])
print("rows", mesh.local_rows(interleaved({"data": -1}), 4))
distributed.shut_down(code)
"""


@pytest.mark.slow
@pytest.mark.multiprocess
def test_processes_may_hold_rows_that_are_not_adjacent(trainer, root, one_process, tmp_path):
    group = trainer.start_group(tmp_path, 2, *FLAGS, devices=2, program=("-c", INTERLEAVED))
    outputs = [p.communicate(timeout=300)[0] for p in group]
    assert [p.returncode for p in group] == [0, 0], outputs
    assert "rows [0 2]" in outputs[0]
    assert "rows [1 3]" in outputs[1]
    got = jax.tree_util.tree_flatten_with_path(parameters(root, tmp_path))[0]
    want = jax.tree.leaves(parameters(root, one_process))
    for (path, a), b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, err_msg=jax.tree_util.keystr(path))
    found, expected = (
        json.loads((w / "result.json").read_text())["metrics"]["retrieval"]
        for w in (tmp_path, one_process)
    )
    assert found == pytest.approx(expected, abs=0.07)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_other_processes_continue_a_run_of_one(trainer, root, one_process, tmp_path):
    """One process stops half way; two processes take the run to its end."""
    process = trainer.start(tmp_path, *FLAGS, devices=4)
    trainer.wait_for_step(process, tmp_path, 12)
    code, output = trainer.kill(process, signal.SIGTERM)
    assert code in (0, 75), output
    group = trainer.start_group(tmp_path, 2, *FLAGS, devices=2)
    outputs = [p.communicate(timeout=300)[0] for p in group]
    assert [p.returncode for p in group] == [0, 0], outputs
    for a, b in zip(
        jax.tree.leaves(parameters(root, tmp_path)),
        jax.tree.leaves(parameters(root, one_process)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_stop_signal_to_one_process_stops_all_at_the_same_step(trainer, tmp_path):
    flags = (*FLAGS, "train.examples=64000", "eval.evaluators=()")
    group = trainer.start_group(tmp_path, 2, *flags, devices=2)
    trainer.wait_for_step(group[0], tmp_path, 5)
    group[1].send_signal(signal.SIGTERM)
    outputs = [p.communicate(timeout=120)[0] for p in group]
    assert [p.returncode for p in group] == [75, 75], outputs
    assert "with a checkpoint" in outputs[0]


@pytest.mark.multiprocess
@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_lost_process_ends_the_others_quickly(trainer, tmp_path, victim):
    flags = (*FLAGS, "train.examples=640000", "eval.evaluators=()")
    group = trainer.start_group(tmp_path, 2, *flags, devices=2)
    trainer.wait_for_step(group[0], tmp_path, 5)
    group[victim].kill()
    started = time.time()
    survivor = group[1 - victim]
    output, _ = survivor.communicate(timeout=60)
    assert time.time() - started < 45
    # By its own hand, or aborted by JAX's coordination service, if that is the first to notice.
    assert survivor.returncode in (distributed.PEER_LOST, -signal.SIGABRT), output
    if survivor.returncode == distributed.PEER_LOST:
        assert "another process was lost" in output
    group[victim].communicate()


@pytest.mark.multiprocess
def test_a_workdir_that_is_not_shared_is_one_clear_error(trainer, tmp_path):
    group = trainer.start_group((tmp_path / "a", tmp_path / "b"), 2, *FLAGS)
    outputs = [p.communicate(timeout=120)[0] for p in group]
    assert [p.returncode for p in group] == [64, 64], outputs
    for output in outputs:
        assert "is not one folder for all 2 processes" in output
        assert "Traceback" not in output
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / ".lock"]


def test_a_lost_process_is_known_wherever_it_is_noticed():
    runtime = jax.errors.JaxRuntimeError(
        "UNKNOWN: Gloo all-reduce failed: Connection reset by peer"
    )
    waiting = ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
    for error in (runtime, waiting):
        assert distributed.is_peer_loss(error)
        try:
            raise RuntimeError("the step failed") from error
        except RuntimeError as wrapped:
            assert distributed.is_peer_loss(wrapped)
    for error in (
        ValueError("data.path: connection refused by the peer"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
        ConnectionError("connection reset by peer"),
    ):
        assert not distributed.is_peer_loss(error)


def test_one_process_needs_no_agreement():
    assert distributed.identical_on_all_hosts([1])
    assert distributed.broadcast_from_lead(5) == 5
    assert distributed.all_hosts(True)
    assert not distributed.all_hosts(False)
    distributed.barrier("nothing to wait for")
    assert distributed.is_lead()


def test_the_watchdog_ends_a_process_that_hangs(trainer):
    import subprocess
    import sys

    code = (
        "import time; from clip_jax.runtime.distributed import Watchdog; w = Watchdog(0.5)\n"
        "def a_hanging_collective(): time.sleep(30)\na_hanging_collective()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=trainer.environment(),
        timeout=20,
    )  # fmt: skip
    assert done.returncode == distributed.HANGING
    assert "no progress for" in done.stderr
    assert "a_hanging_collective" in done.stderr


def test_a_watchdog_that_hears_beats_lets_live():
    dog = distributed.Watchdog(0.6)
    for _ in range(8):
        time.sleep(0.15)
        distributed.heartbeat("something")
    dog.close()
    distributed.heartbeat("nobody is listening")


def test_a_barrier_that_nobody_else_reaches_ends_with_the_watchdog(trainer):
    import subprocess
    import sys

    code = (
        "import time, jax; from jax.experimental import multihost_utils\n"
        "from clip_jax.runtime import distributed\n"
        "jax.process_count = lambda: 2\n"
        "multihost_utils.sync_global_devices = lambda name: time.sleep(30)\n"
        "dog = distributed.Watchdog(1.0); distributed.barrier('tea')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=trainer.environment(),
        timeout=25,
    )  # fmt: skip
    assert done.returncode == distributed.HANGING
    assert "waiting for the other processes (tea)" in done.stderr


def test_a_start_up_that_hangs_is_ended(trainer, tmp_path):
    hanging = (
        "import sys, time; from clip_jax import train\n"
        "from clip_jax.runtime import distributed\n"
        "from clip_jax.training import trainer\n"
        "trainer.Run.__init__ = lambda *_: time.sleep(60)\n"
        "distributed.shut_down(train.main(sys.argv[1:]))"
    )
    code, output = trainer.run(
        tmp_path, "runtime.watchdog_seconds=1.0", program=("-c", hanging), timeout=50
    )
    assert code == distributed.HANGING, output
    assert "no progress for 1 s (runtime.watchdog_seconds)" in output
