"""Attention alone, compiled for a TPU: XLA's beside the Pallas kernel that comes with jax.

Attention of short sequences is bound by memory, so what counts is how much each moves. The kernel
wants sequences of a multiple of 128 tokens, padding as a segment of its own, and heads before
tokens.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import flash_attention as kernel
from jax.sharding import SingleDeviceSharding

from clip_jax.models.attention import attend

LANES = 128
LARGEST_BLOCK = 1024  # tokens; a kernel has a grid of blocks, each of which costs time to begin


@dataclasses.dataclass(frozen=True)
class Cost:
    """Bytes that a program reads and writes, and those of its temporaries."""

    moved: int
    temporaries: int


def pallas(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """``attention.attend`` by jax's flash attention for TPUs; [B, N, heads, head width]."""
    tokens = q.shape[1]
    length = -(-tokens // LANES) * LANES
    block = length if length <= LARGEST_BLOCK else LANES
    pad = ((0, 0), (0, 0), (0, length - tokens), (0, 0))
    q, k, v = (jnp.pad(x.transpose(0, 2, 1, 3), pad) for x in (q, k, v))
    segments = jnp.broadcast_to((jnp.arange(length) < tokens).astype(jnp.int32), (len(q), length))
    names = [f.name for f in dataclasses.fields(kernel.BlockSizes) if f.name != "block_b"]
    y = kernel.flash_attention(
        q, k, v,
        segment_ids=kernel.SegmentIds(segments, segments),
        sm_scale=q.shape[-1] ** -0.5,
        block_sizes=kernel.BlockSizes(block_b=1, **dict.fromkeys(names, block)),
    )  # fmt: skip
    return y[:, :, :tokens].transpose(0, 2, 1, 3)


IMPLEMENTATIONS: dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "xla": functools.partial(attend, implementation="xla"),
    "pallas": pallas,
}


def cost(implementation: str, device: jax.Device, shape: tuple[int, int, int, int]) -> Cost:
    """Of value and gradients in bfloat16, by the compiler.

    Args:
      implementation: a key of ``IMPLEMENTATIONS``.
      device: to compile for; it need not be there.
      shape: [B, N, heads, head width].
    """

    def loss(*qkv: jax.Array) -> jax.Array:
        return (IMPLEMENTATIONS[implementation](*qkv).astype(jnp.float32) ** 2).sum()

    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=SingleDeviceSharding(device))
    made = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
    moved = int(made.cost_analysis()["bytes accessed"])
    return Cost(moved, made.memory_analysis().temp_size_in_bytes)
