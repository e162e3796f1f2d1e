"""Stored checkpoints for the tests of saving and of verifying them."""

import pytest
from checkpoint_tree import MESHES, tree

from clip_jax.runtime.mesh import create_mesh
from clip_jax.training import checkpoint


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1, 2 and 3."""
    mesh = create_mesh(MESHES[0])
    ck = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=3)
    for step in (1, 2, 3):
        ck.save(step, tree(mesh, step), {"name": "x"})
    assert ck.close()
    return tmp_path / "checkpoints"
