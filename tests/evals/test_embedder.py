"""The functions of a model over whole batches: the same for all batch sizes and devices."""

import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.evals import embedder
from clip_jax.runtime.mesh import create_mesh


def simple_embedder(mesh_sizes, batch_size, calls=None):
    """Embeds an image or tokens by their first numbers; counts the shapes it is given."""
    calls = [] if calls is None else calls

    def embed(x):
        calls.append(x.shape)
        flat = x.reshape(x.shape[0], -1)[:, :4].astype(jnp.float32) + 1
        return flat / jnp.linalg.norm(flat, axis=1, keepdims=True)

    return embedder.BatchedEmbedder(
        embed, embed, embed, mesh=create_mesh(mesh_sizes), batch_size=batch_size,
        embed_dim=4, probe_dim=4,
    )  # fmt: skip


def images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), np.uint8)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
@pytest.mark.parametrize("batch_size", [7, 8, 64])
def test_batch_size_and_devices_change_nothing(sizes, batch_size):
    want = simple_embedder({"data": 8}, 8).images(images(53))
    got = simple_embedder(sizes, batch_size).images(images(53))
    assert got.shape == (53, 4)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_odd_numbers_of_rows_use_one_shape():
    calls = []
    e = simple_embedder({"data": 8}, 16, calls)
    for n in (0, 1, 15, 16, 17, 40):
        assert e.images(images(n)).shape == (n, 4)
    assert set(calls) == {(16, 4, 4, 3)}


def test_every_batch_is_told_of():
    beats = []
    e = embedder.BatchedEmbedder(
        *[lambda x: jnp.ones((16, 4))] * 3, mesh=create_mesh({"data": 8}), batch_size=16,
        embed_dim=4, probe_dim=4, on_batch=lambda: beats.append(1),
    )  # fmt: skip
    e.images(images(40))
    e.texts(np.zeros((17, 4), np.int32))
    assert len(beats) == 3 + 2
