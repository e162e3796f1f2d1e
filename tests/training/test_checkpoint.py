"""Checkpoints: restored exactly on any mesh, never restored damaged."""

import logging

import jax
import numpy as np
import pytest
from checkpoint_tree import MESHES, abstract, failing, tree

from clip_jax.runtime.mesh import create_mesh
from clip_jax.training import checkpoint


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_restores_onto_any_mesh(saved, sizes):
    mesh = create_mesh(sizes)
    ck = checkpoint.Checkpoints(saved, keep=3)
    state, metadata = ck.restore(lambda _: abstract(tree(mesh)))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(tree(mesh, 3)), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        assert a.sharding == b.sharding
    assert (metadata["step"], metadata["name"]) == (3, "x")
    ck.close()


def test_nothing_to_restore(tmp_path):
    ck = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=3)
    assert ck.restore(lambda _: abstract(tree(create_mesh(MESHES[0])))) is None
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


def test_what_is_being_written_is_not_called_intact(tmp_path):
    mesh = create_mesh(MESHES[0])
    ck = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=3)
    assert ck.kept() == ""
    ck.save(1, tree(mesh), {})
    ck.finish()
    assert ck.kept() == ". The checkpoint of step 1 is intact"
    (ck.folder / "1").rename(ck.folder / "1.orbax-checkpoint-tmp")  # as while it is written
    assert ck.kept() == ""
    (ck.folder / "1.orbax-checkpoint-tmp").rename(ck.folder / "1")
    assert ck.close()
