"""Checkpoints: restored exactly on any mesh, never restored damaged."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from clip_jax.runtime import integrity
from clip_jax.runtime.mesh import create_mesh
from clip_jax.training import checkpoint


def tree(mesh, seed=0):
    rng = np.random.default_rng(seed)
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))  # noqa: E731
    return {
        "kernel": put(rng.normal(size=(16, 32)).astype(np.float32), "fsdp", "tensor"),
        "half": put(jnp.asarray(rng.normal(size=(64,)), jnp.bfloat16), "fsdp"),
        "step": put(np.int32(seed)),
    }


def abstract(tree_):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree_
    )


MESHES = [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}]


def test_the_fingerprint_does_not_depend_on_the_mesh():
    prints = [integrity.fingerprint(tree(create_mesh(m))) for m in MESHES]
    assert prints[0] == prints[1] == prints[2]
    assert prints[0].keys() == {"['kernel']", "['half']", "['step']"}


def test_every_single_bit_changes_the_fingerprint():
    mesh = create_mesh(MESHES[0])
    clean = tree(mesh)
    before = integrity.fingerprint(clean)
    rng = np.random.default_rng(0)
    for _ in range(60):
        bits = np.array(clean["kernel"]).view(np.uint32)
        flat = bits.reshape(-1)
        flat[rng.integers(flat.size)] ^= np.uint32(1) << np.uint32(rng.integers(32))
        after = integrity.fingerprint(clean | {"kernel": jnp.asarray(bits.view(np.float32))})
        assert after["['kernel']"] != before["['kernel']"]
        assert after["['half']"] == before["['half']"]


def test_swapped_elements_change_the_fingerprint():
    a = integrity.fingerprint({"x": jnp.array([1.0, 2.0, 3.0])})
    b = integrity.fingerprint({"x": jnp.array([2.0, 1.0, 3.0])})
    assert a != b


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1, 2 and 3."""
    mesh = create_mesh(MESHES[0])
    ck = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=3)
    for step in (1, 2, 3):
        ck.save(step, tree(mesh, step), {"name": "x"})
    assert ck.close()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_restores_onto_any_mesh(saved, sizes):
    mesh = create_mesh(sizes)
    ck = checkpoint.Checkpoints(saved, keep=3)
    state, facts = ck.restore(abstract(tree(mesh)))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(tree(mesh, 3)), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        assert a.sharding == b.sharding
    assert (facts["step"], facts["name"]) == (3, "x")
    ck.close()


def test_nothing_to_restore(tmp_path):
    ck = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=3)
    assert ck.restore(abstract(tree(create_mesh(MESHES[0])))) is None
    ck.close()


def data_files(folder):
    files = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > 0]
    return sorted(files, key=lambda p: -p.stat().st_size)


def flip(folder):
    path = data_files(folder)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncate(folder):
    path = data_files(folder)[0]
    path.write_bytes(path.read_bytes()[:-10])


def delete(folder):
    data_files(folder)[0].unlink()


def empty_all(folder):
    for path in data_files(folder):
        path.write_bytes(b"")


def drop_metadata(folder):
    (folder / "_CHECKPOINT_METADATA").write_bytes(b"\0" * 10)


DAMAGE = [flip, truncate, delete, empty_all, drop_metadata]


@pytest.mark.parametrize("manifest", [True, False], ids=["manifest", "fingerprint"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_step_is_named_and_the_one_before_is_used(saved, damage, manifest, caplog):
    damage(saved / "3")
    if not manifest:
        (saved.with_name("checkpoints_sha256") / "3.json").unlink()
    mesh = create_mesh(MESHES[0])
    ck = checkpoint.Checkpoints(saved, keep=3)
    with caplog.at_level(logging.ERROR):
        state, facts = ck.restore(abstract(tree(mesh)))
    if facts["step"] == 3:  # the fingerprint alone cannot see damage that does no harm
        assert not manifest
        want = tree(mesh, 3)
    else:
        assert facts["step"] == 2
        assert "checkpoint of step 3 is damaged" in caplog.text
        assert list(saved.parent.glob("damaged-3-*"))
        want = tree(mesh, 2)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    ck.save(9, state, {})
    assert ck.close()


def test_flipped_bits_anywhere_are_never_restored_silently(saved, tmp_path):
    mesh = create_mesh(MESHES[0])
    wanted = {s: [np.asarray(x) for x in jax.tree.leaves(tree(mesh, s))] for s in (1, 2, 3)}
    rng = np.random.default_rng(0)
    fell_back = 0
    for trial in range(12):
        copy = tmp_path / f"trial{trial}"
        shutil.copytree(saved.parent, copy, ignore=shutil.ignore_patterns("trial*"))
        if trial % 2:
            shutil.rmtree(copy / "checkpoints_sha256")
        files = data_files(copy / "checkpoints" / "3")
        path = files[int(rng.integers(len(files)))]
        data = bytearray(path.read_bytes())
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        ck = checkpoint.Checkpoints(copy / "checkpoints", keep=3)
        state, facts = ck.restore(abstract(tree(mesh)))
        fell_back += facts["step"] == 2
        for a, b in zip(jax.tree.leaves(state), wanted[facts["step"]], strict=True):
            np.testing.assert_array_equal(np.asarray(a), b)
        ck.close()
    assert fell_back >= 6


def test_all_damaged_is_refused_every_time_and_nothing_is_deleted(saved):
    for step in (1, 2, 3):
        flip(saved / str(step))
    for _ in range(2):  # the second time, all steps have been moved aside
        ck = checkpoint.Checkpoints(saved, keep=3)
        with pytest.raises(checkpoint.CheckpointError, match=r"all checkpoints .*give another"):
            ck.restore(abstract(tree(create_mesh(MESHES[0]))))
        ck.close()
    assert len(list(saved.parent.glob("damaged-*"))) == 3
    for path in saved.parent.glob("damaged-*"):
        shutil.rmtree(path)
    ck = checkpoint.Checkpoints(saved, keep=3)
    assert ck.restore(abstract(tree(create_mesh(MESHES[0])))) is None
    ck.close()


def listing(saved):
    return sorted(str(p.relative_to(saved.parent)) for p in saved.parent.rglob("*"))


@pytest.fixture(params=[True, False], ids=["manifest", "no manifest"])
def opened(saved, request):
    """Checkpoints whose newest step has a manifest or none; it must be as before at the end."""
    if not request.param:
        (saved.with_name("checkpoints_sha256") / "3.json").unlink()
    ck = checkpoint.Checkpoints(saved, keep=3)
    before = listing(saved)
    yield ck
    assert listing(saved) == before
    ck.close()


def reshaped(shape):
    mesh = create_mesh(MESHES[0])
    return abstract(
        tree(mesh) | {"kernel": jax.device_put(np.zeros(*shape), NamedSharding(mesh, P()))}
    )


def test_another_model_is_named_and_not_taken_for_damage(opened):
    wanted = reshaped([(16, 8), np.float32]) | {
        "new": abstract(tree(create_mesh(MESHES[0])))["step"]
    }
    with pytest.raises(checkpoint.Mismatch) as error:
        opened.restore(wanted)
    assert "kernel: float32[16, 32] (stored) -> float32[16, 8] (this model)" in str(error.value)
    assert "new: absent (stored) -> int32[] (this model)" in str(error.value)
    assert "half" not in str(error.value)


def test_another_type_is_named_and_not_taken_for_damage(opened):
    with pytest.raises(checkpoint.Mismatch, match=r"kernel: float32\[16, 32\] .* -> int32\["):
        opened.restore(reshaped([(16, 32), np.int32]))


def failing(error):
    def fail(*_, **__):
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("cannot load") from cause

    return fail


def test_too_little_memory_is_not_damage(opened, monkeypatch):
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
    monkeypatch.setattr(opened._orbax, "load_checkpointables", failing(error))
    with pytest.raises(checkpoint.CheckpointError, match=r"step 3 .* is left as it is; use more"):
        opened.restore(abstract(tree(create_mesh(MESHES[0]))))


def test_files_that_may_not_be_read_are_not_damaged(opened, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(opened._orbax, "load_checkpointables", failing(ValueError("no")))
    monkeypatch.setattr(checkpoint, "file_digests", denied)
    with pytest.raises(checkpoint.CheckpointError, match=r"step 3 .* is left as it is.*denied"):
        opened.restore(abstract(tree(create_mesh(MESHES[0]))))


def test_a_lost_process_is_not_damage(opened, monkeypatch):
    error = jax.errors.JaxRuntimeError("UNAVAILABLE: Connection closed by peer")
    monkeypatch.setattr(opened._orbax, "load_checkpointables", failing(error))
    monkeypatch.setattr(opened, "_check_files", lambda step: (False, None))
    monkeypatch.setattr(checkpoint.distributed, "all_hosts", lambda ok: ok)
    monkeypatch.setattr(checkpoint.distributed, "identical_on_all_hosts", lambda value: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(RuntimeError, match="cannot load") as caught:
        opened.restore(abstract(tree(create_mesh(MESHES[0]))))
    monkeypatch.undo()
    assert checkpoint.distributed.is_peer_loss(caught.value)


def test_what_a_manifest_vouches_for_is_not_damaged(saved, monkeypatch):
    ck = checkpoint.Checkpoints(saved, keep=3)
    before = listing(saved)
    monkeypatch.setattr(ck._orbax, "load_checkpointables", failing(ValueError("a defect")))
    with pytest.raises(checkpoint.CheckpointError, match=r"nothing says that it is damaged.*load"):
        ck.restore(abstract(tree(create_mesh(MESHES[0]))))
    assert listing(saved) == before
    ck.close()


def test_two_processes_may_move_the_same_step_aside(saved):
    cks = [checkpoint.Checkpoints(saved, keep=3) for _ in range(2)]
    for ck in cks:
        ck._move_aside(3)
    assert len(list(saved.parent.glob("damaged-3-*"))) == 1
    for ck in cks:
        ck.close()


def test_processes_that_see_different_steps_are_an_error(saved, monkeypatch):
    ck = checkpoint.Checkpoints(saved, keep=3)
    monkeypatch.setattr(checkpoint.distributed, "identical_on_all_hosts", lambda value: False)
    with pytest.raises(checkpoint.CheckpointError, match=r"processes see different .*\[3, 2, 1\]"):
        ck._agreed_steps(patience=0)
    answers = iter([False, True])  # at second sight
    monkeypatch.setattr(
        checkpoint.distributed, "identical_on_all_hosts", lambda value: next(answers)
    )
    assert ck._agreed_steps() == [3, 2, 1]
    ck.close()


def test_only_the_newest_are_kept(tmp_path):
    mesh = create_mesh(MESHES[0])
    ck = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in range(1, 7):
        ck.save(step, tree(mesh, step), {})
    assert ck.finish()
    assert ck.steps()[:2] == [6, 5]
    assert len(ck.steps()) <= 3
    manifests = {int(p.stem) for p in (tmp_path / "checkpoints_sha256").glob("*.json")}
    assert manifests <= set(ck.steps())
    ck.close()


def test_a_failed_save_is_reported_and_the_next_one_works(tmp_path, caplog, monkeypatch):
    mesh = create_mesh(MESHES[0])
    ck = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2)
    ck.save(1, tree(mesh, 1), {})
    assert ck.finish()

    class Failing:
        def result(self):
            raise OSError(28, "No space left on device")

    ck._pending = (2, Failing())
    with caplog.at_level(logging.ERROR):
        assert not ck.finish()
    assert "checkpoint at step 2 not written: OSError" in caplog.text
    ck.save(3, tree(mesh, 3), {})
    assert ck.close()
    assert ck.steps()[0] == 3


def test_a_save_that_never_starts_is_remembered(tmp_path, caplog, monkeypatch):
    mesh = create_mesh(MESHES[0])
    ck = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2)
    ck.save(1, tree(mesh, 1), {})
    working = ck._orbax.save_checkpointables_async
    monkeypatch.setattr(ck._orbax, "save_checkpointables_async", failing(OSError(28, "No space")))
    with caplog.at_level(logging.ERROR):
        ck.save(2, tree(mesh, 2), {})
    assert "checkpoint at step 2 not written" in caplog.text
    assert not ck.finish()
    monkeypatch.setattr(ck._orbax, "save_checkpointables_async", working)
    ck.save(3, tree(mesh, 3), {})
    assert ck.finish()
    monkeypatch.setattr(ck._orbax, "save_checkpointables_async", failing(OSError(28, "No space")))
    ck.save(4, tree(mesh, 4), {})
    assert not ck.close()


def test_manifests_list_every_file(saved):
    manifest = json.loads((saved.with_name("checkpoints_sha256") / "3.json").read_text())
    names = {str(p.relative_to(saved / "3")) for p in (saved / "3").rglob("*") if p.is_file()}
    assert manifest.keys() == names
