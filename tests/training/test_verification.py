"""Damage is proven before a step is moved aside; damaged steps are never restored."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
from checkpoint_tree import MESHES, abstract, failing, tree
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from clip_jax.runtime.mesh import create_mesh
from clip_jax.training import checkpoint, verification


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
        state, metadata = ck.restore(lambda _: abstract(tree(mesh)))
    if metadata["step"] == 3:  # the fingerprint alone cannot see damage that does no harm
        assert not manifest
        want = tree(mesh, 3)
    else:
        assert metadata["step"] == 2
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
        state, metadata = ck.restore(lambda _: abstract(tree(mesh)))
        fell_back += metadata["step"] == 2
        for a, b in zip(jax.tree.leaves(state), wanted[metadata["step"]], strict=True):
            np.testing.assert_array_equal(np.asarray(a), b)
        ck.close()
    assert fell_back >= 6


def test_all_damaged_is_refused_every_time_and_nothing_is_deleted(saved):
    for step in (1, 2, 3):
        flip(saved / str(step))
    for _ in range(2):  # the second time, all steps have been moved aside
        ck = checkpoint.Checkpoints(saved, keep=3)
        with pytest.raises(checkpoint.CheckpointError, match=r"all checkpoints .*give another"):
            ck.restore(lambda _: abstract(tree(create_mesh(MESHES[0]))))
        ck.close()
    assert len(list(saved.parent.glob("damaged-*"))) == 3
    for path in saved.parent.glob("damaged-*"):
        shutil.rmtree(path)
    ck = checkpoint.Checkpoints(saved, keep=3)
    assert ck.restore(lambda _: abstract(tree(create_mesh(MESHES[0])))) is None
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
        opened.restore(lambda _: wanted)
    assert "kernel: float32[16, 32] (stored) -> float32[16, 8] (this model)" in str(error.value)
    assert "new: absent (stored) -> int32[] (this model)" in str(error.value)
    assert "half" not in str(error.value)


def test_another_type_is_named_and_not_taken_for_damage(opened):
    with pytest.raises(checkpoint.Mismatch, match=r"kernel: float32\[16, 32\] .* -> int32\["):
        opened.restore(lambda _: reshaped([(16, 32), np.int32]))


def test_too_little_memory_is_not_damage(opened, monkeypatch):
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
    monkeypatch.setattr(opened._orbax, "load_checkpointables", failing(error))
    with pytest.raises(checkpoint.CheckpointError, match=r"step 3 .* is left as it is; use more"):
        opened.restore(lambda _: abstract(tree(create_mesh(MESHES[0]))))


def test_files_that_may_not_be_read_are_not_damaged(opened, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(opened._orbax, "load_checkpointables", failing(ValueError("no")))
    monkeypatch.setattr(verification, "file_digests", denied)
    with pytest.raises(checkpoint.CheckpointError, match=r"step 3 .* is left as it is.*denied"):
        opened.restore(lambda _: abstract(tree(create_mesh(MESHES[0]))))


def test_a_lost_process_is_not_damage(opened, monkeypatch):
    error = jax.errors.JaxRuntimeError("UNAVAILABLE: Connection closed by peer")
    monkeypatch.setattr(opened._orbax, "load_checkpointables", failing(error))
    monkeypatch.setattr(opened.manifests, "check", lambda step: (False, None))
    monkeypatch.setattr(checkpoint.distributed, "all_hosts", lambda ok: ok)
    monkeypatch.setattr(checkpoint.distributed, "identical_on_all_hosts", lambda value: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(RuntimeError, match="cannot load") as caught:
        opened.restore(lambda _: abstract(tree(create_mesh(MESHES[0]))))
    monkeypatch.undo()
    assert checkpoint.distributed.is_peer_loss(caught.value)


def test_what_a_manifest_vouches_for_is_not_damaged(saved, monkeypatch):
    ck = checkpoint.Checkpoints(saved, keep=3)
    before = listing(saved)
    monkeypatch.setattr(ck._orbax, "load_checkpointables", failing(ValueError("a defect")))
    with pytest.raises(checkpoint.CheckpointError, match=r"nothing says that it is damaged.*load"):
        ck.restore(lambda _: abstract(tree(create_mesh(MESHES[0]))))
    assert listing(saved) == before
    ck.close()


def test_two_processes_may_move_the_same_step_aside(saved):
    cks = [checkpoint.Checkpoints(saved, keep=3) for _ in range(2)]
    for ck in cks:
        ck.manifests.move_aside(3)
    assert len(list(saved.parent.glob("damaged-3-*"))) == 1
    for ck in cks:
        ck.close()


def test_manifests_list_every_file(saved):
    manifest = json.loads((saved.with_name("checkpoints_sha256") / "3.json").read_text())
    names = {str(p.relative_to(saved / "3")) for p in (saved / "3").rglob("*") if p.is_file()}
    assert manifest.keys() == names
