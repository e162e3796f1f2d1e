"""Collectives of the sharded losses; all run inside ``shard_map`` over the batch axes."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from clip_jax.losses import logit_block
from clip_jax.losses.logit_block import Operand
from clip_jax.runtime.mesh import BATCH_AXES, PyTree

# (image_emb, text_emb, logit_scale, logit_bias, groups, topics) -> (loss, {"accuracy": ...})
LossFn = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]

_CHUNK_LOGITS = 2**22  # of one chunk: 16 MiB in float32
_LEAST_CHUNK = 128  # columns, where there are as many


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """How a loss is computed.

    Attributes:
      soft: share of each target that goes to related pairs (softmax).
      chunk: columns of logits at a time (all_gather, ring); 0: chosen.
      dtype: of the embeddings that are gathered and multiplied; logits are float32.
    """

    soft: float = 0.0
    chunk: int = 0
    dtype: str = "float32"


def chunk_size(rows: int, columns: int, requested: int = 0) -> int:
    """Columns of a chunk: the largest divisor of ``columns`` that keeps a chunk small.

    Args:
      rows, columns: of the logits that a device goes through.
      requested: ``loss.chunk_size``; its greatest common divisor with ``columns`` is taken.

    Raises:
      ValueError: ``columns`` has small divisors only, with which a step would never end.
    """
    if requested:
        return math.gcd(requested, columns)
    most = min(max(1, _CHUNK_LOGITS // rows), columns)
    size = next(c for c in range(most, 0, -1) if columns % c == 0)
    if size < min(most, _LEAST_CHUNK):
        raise ValueError(
            f"the loss goes through {columns} texts in chunks, but no number between "
            f"{_LEAST_CHUNK} and {most} divides them; make train.batch_size a multiple of "
            f"{_LEAST_CHUNK} a batch shard"
        )
    return size


def gather(tree: PyTree) -> PyTree:
    """Every array whole on every device, rows in their global order."""
    return jax.tree.map(lambda x: jax.lax.all_gather(x, BATCH_AXES, axis=0, tiled=True), tree)


def local_shard(x: jax.Array, size: int) -> jax.Array:
    """This device's rows of an array that every device has whole."""
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(BATCH_AXES) * size, size)


def local_operand(
    emb: jax.Array,
    positive: jax.Array,
    groups: jax.Array | None = None,
    topics: jax.Array | None = None,
) -> Operand:
    """This device's examples, with their indices in the global batch."""
    size = emb.shape[0]
    index = jax.lax.axis_index(BATCH_AXES) * size + jnp.arange(size, dtype=jnp.int32)
    return Operand(emb, index, positive, groups, topics)


def positive_logit(scale: jax.Array, image_emb: jax.Array, text_emb: jax.Array) -> jax.Array:
    """The logits of the pairs, [b], without any bias."""
    dtype = logit_block.accum_dtype(image_emb, text_emb)
    return scale * (image_emb.astype(dtype) * text_emb.astype(dtype)).sum(axis=1)


def zero_cotangent(tree: PyTree) -> PyTree:
    """Cotangents of metadata, through which no gradient flows."""

    def zero(x):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            return jnp.zeros_like(x)
        return np.zeros(x.shape, jax.dtypes.float0)

    return jax.tree.map(zero, tree)


def chunked(tree: PyTree, chunk: int) -> PyTree:
    """[B, ...] leaves to [B / chunk, chunk, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), tree)


def ring_shift(tree: PyTree) -> PyTree:
    """Sends every device's arrays to the next device, the last one's to the first."""
    n = jax.lax.axis_size(BATCH_AXES)
    pairs = [(i, (i + 1) % n) for i in range(n)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, BATCH_AXES, pairs), tree)


def differentiable(
    forward: Callable[..., tuple], backward: Callable[..., tuple], dtype: str
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """A loss with its own gradients.

    Embeddings become ``dtype`` inside, so that their gradients stay float32.

    Args:
      forward: (image_emb, text_emb, *others) -> (outputs, residuals).
      backward: (residuals, cotangents) -> gradients by all inputs, by embeddings in float32.
      dtype: of the embeddings that travel; float32 leaves them as they are.
    """

    def cast(inputs):
        if dtype == "float32":  # tests give float64
            return inputs
        return (*(x.astype(dtype) for x in inputs[:2]), *inputs[2:])

    def outward(*inputs):
        outputs, residuals = forward(*cast(inputs))
        return outputs, (residuals, [x[:0] for x in inputs[:2]])

    def inward(carried, cotangents):
        residuals, like = carried
        gradients = backward(residuals, cotangents)
        embeddings = (g.astype(x.dtype) for g, x in zip(gradients[:2], like, strict=True))
        return (*embeddings, *gradients[2:])

    loss = jax.custom_vjp(lambda *inputs: forward(*cast(inputs))[0])
    loss.defvjp(outward, inward)
    return loss


def sharded(
    mesh: Mesh, local: Callable[..., tuple[jax.Array, jax.Array]], inputs: str
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """A loss of global arrays from one of each device's part.

    Args:
      mesh: over whose batch axes rows are sharded.
      local: returns the loss, and how many rows and columns have their pair as the best; both the
        same on every device.
      inputs: one letter for each argument of ``local``: "r" are split by rows, "s" are scalars.
    """
    specs = {"r": PartitionSpec(BATCH_AXES), "s": PartitionSpec()}
    whole = jax.shard_map(
        local, mesh=mesh, in_specs=tuple(specs[i] for i in inputs),
        out_specs=(specs["s"], specs["s"]),
    )  # fmt: skip

    def loss(image_emb, *others):
        value, correct = whole(image_emb, *others)
        return value, {"accuracy": correct / (2 * image_emb.shape[0])}

    return loss
