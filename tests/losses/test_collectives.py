"""Chunks of logits: small, and never a device's rows of the whole matrix."""

import jax
import jax.numpy as jnp
import pytest

from clip_jax import losses
from clip_jax.runtime.mesh import create_mesh


@pytest.mark.parametrize("implementation", ["all_gather", "ring"])
@pytest.mark.parametrize("name", losses.NAMES)
def test_no_device_holds_its_rows_of_the_matrix(name, implementation):
    loss = losses.build(name, implementation, create_mesh({"data": 8}), chunk=16)
    x, s = jax.ShapeDtypeStruct((256, 16), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    grad = jax.jit(jax.grad(lambda *a: loss(*a)[0], argnums=(0, 1, 2, 3)))
    text = grad.lower(x, x, s, s).compile().as_text()
    assert "f32[32,16]" in text
    for held in ("f32[32,32]", "f32[32,256]", "f32[256,256]"):
        assert held not in text


def test_chunks_are_small_and_divide():
    assert losses.chunk_size(128, 32768) == 32768  # 16 MiB of logits
    assert losses.chunk_size(4096, 131072) == 1024
    assert losses.chunk_size(131072, 131072) == 32
    assert losses.chunk_size(32, 256, requested=64) == 64
    assert losses.chunk_size(32, 32, requested=48) == 16
    with pytest.raises(ValueError, match="make train.batch_size a multiple of 128"):
        losses.chunk_size(4099, 8 * 4099)
