"""Fingerprints of arrays: the same on any mesh, another for any change."""

import jax.numpy as jnp
import numpy as np
from checkpoint_tree import MESHES, tree

from clip_jax.runtime import integrity
from clip_jax.runtime.mesh import create_mesh


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
