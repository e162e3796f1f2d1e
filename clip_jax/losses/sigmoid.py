"""The sigmoid loss (Zhai et al. 2023, arXiv 2303.15343): every pair of the batch by itself.

The mean over rows of the sum over columns of -log sigmoid(z * logit), z being 1 for pairs and -1
for all others. Entries do not need each other, so that value and gradients come out of one pass:

* ``all_gather`` gathers both towers and goes through its own rows of either in chunks;
* ``ring`` permutes the texts and their gradients around the devices (the paper's section 3.3).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clip_jax.losses import collectives, logit_block
from clip_jax.losses.logit_block import Operand
from clip_jax.runtime.mesh import BATCH_AXES


class _Part(NamedTuple):
    """What a block adds: its loss, derivatives by its logits, and the best negatives."""

    loss: jax.Array
    weights: jax.Array
    row_best: jax.Array
    column_best: jax.Array


def _block(scale: jax.Array, bias: jax.Array, rows: Operand, columns: Operand) -> _Part:
    logits = scale * logit_block.product(rows.emb, columns.emb) + bias
    pair, negative = logit_block.negatives(rows, columns)
    signed = jnp.where(pair, -logits, logits)
    counts = pair | negative
    loss = jnp.where(counts, jax.nn.softplus(signed), 0).sum()
    weights = jnp.where(counts, jax.nn.sigmoid(signed) * jnp.where(pair, -1, 1), 0)
    others = jnp.where(negative, logits, -jnp.inf)
    return _Part(loss, weights, others.max(axis=1), others.max(axis=0))


def dense(
    image_emb: jax.Array,
    text_emb: jax.Array,
    logit_scale: jax.Array,
    logit_bias: jax.Array,
    groups: jax.Array | None = None,
    topics: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss from the full matrix of logits.

    Args:
      image_emb, text_emb: [B, E] unit rows, row i of both being a pair.
      logit_scale, logit_bias: scalars; logits are scale * cosine + bias.
      groups: int[B] or None; equal numbers are not each other's negatives.
      topics: not used.

    Returns:
      The scalar loss, and {"accuracy": share of rows and columns whose pair is the best}.
    """
    del topics
    n = image_emb.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    positive = collectives.positive_logit(logit_scale, image_emb, text_emb) + logit_bias
    rows, columns = (Operand(e, index, positive, groups) for e in (image_emb, text_emb))
    part = _block(logit_scale, logit_bias, rows, columns)
    correct = (part.row_best < positive).sum() + (part.column_best < positive).sum()
    return part.loss / n, {"accuracy": correct / (2 * n)}


def _gathered(image_emb, text_emb, scale, bias, groups, chunk):
    """Sum of losses of this device's rows, and all gradients by its embeddings."""
    size = image_emb.shape[0]
    positive = collectives.positive_logit(scale, image_emb, text_emb) + bias
    index = collectives.global_index(size)

    def own_rows(emb, others):
        rows = Operand(emb, index, positive, groups)
        columns = collectives.gather(rows._replace(emb=others))

        def step(carry, side):
            loss, total, best, by_bias = carry
            part = _block(scale, bias, rows, side)
            total += logit_block.weighted(part.weights, side.emb)
            carry = (loss + part.loss, total, jnp.maximum(best, part.row_best),
                     by_bias + part.weights.sum())  # fmt: skip
            return carry, None

        zero = 0 * positive
        start = (zero.sum(), zero[:, None] + jnp.zeros_like(emb, zero.dtype), zero - jnp.inf,
                 zero.sum())  # fmt: skip
        n = size * jax.lax.axis_size(BATCH_AXES)
        parts = collectives.chunked(columns, collectives.chunk_size(size, n, chunk))
        return jax.lax.scan(step, start, parts)[0]

    loss, by_image, image_best, by_bias = own_rows(image_emb, text_emb)
    _, by_text, text_best, _ = own_rows(text_emb, image_emb)
    correct = (image_best < positive).sum() + (text_best < positive).sum()
    return loss, correct, by_image, by_text, by_bias


def _ring(image_emb, text_emb, scale, bias, groups, chunk):
    """As ``_gathered``; the texts and their gradients are permuted around the devices."""
    size = image_emb.shape[0]
    positive = collectives.positive_logit(scale, image_emb, text_emb) + bias
    rows = Operand(image_emb, collectives.global_index(size), positive, groups)

    def add(carry, side):
        loss, by_image, row_best, by_bias = carry
        part = _block(scale, bias, rows, side)
        carry = (loss + part.loss, by_image + logit_block.weighted(part.weights, side.emb),
                 jnp.maximum(row_best, part.row_best), by_bias + part.weights.sum())  # fmt: skip
        return carry, (logit_block.weighted(part.weights.T, image_emb), part.column_best)

    def step(carry, _):
        of_rows, (columns, by_text, column_best) = carry
        parts = collectives.chunked(columns, collectives.chunk_size(size, size, chunk))
        of_rows, (more, best) = jax.lax.scan(add, of_rows, parts)
        travelling = (columns, by_text + more.reshape(by_text.shape),
                      jnp.maximum(column_best, best.reshape(-1)))  # fmt: skip
        return (of_rows, collectives.ring_shift(travelling)), None

    zero = 0 * positive
    zeros = zero[:, None] + jnp.zeros_like(image_emb, zero.dtype)
    start = ((zero.sum(), zeros, zero - jnp.inf, zero.sum()),
             (rows._replace(emb=text_emb), zeros, zero - jnp.inf))  # fmt: skip
    length = jax.lax.axis_size(BATCH_AXES)
    (of_rows, (_, by_text, column_best)), _ = jax.lax.scan(step, start, length=length)
    loss, by_image, row_best, by_bias = of_rows
    correct = (row_best < positive).sum() + (column_best < positive).sum()
    return loss, correct, by_image, by_text, by_bias


def _with_gradients(compute: Callable[..., Any], chunk: int, dtype: str) -> Callable[..., Any]:
    """(image_emb, text_emb, scale, bias, groups) -> (loss, correct), inside ``shard_map``."""

    def forward(image_emb, text_emb, scale, bias, groups):
        n = image_emb.shape[0] * jax.lax.axis_size(BATCH_AXES)
        loss, correct, by_image, by_text, by_bias = compute(
            image_emb, text_emb, scale, bias, groups, chunk
        )
        by_scale = (by_image * image_emb).sum()
        loss, correct, by_scale, by_bias = jax.lax.psum(
            (loss, correct, by_scale, by_bias), BATCH_AXES
        )
        gradients = (
            scale * by_image / n,
            scale * by_text / n,
            (by_scale / n).astype(scale.dtype),
            (by_bias / n).astype(bias.dtype),
        )
        return (loss / n, correct), (gradients, groups)

    def backward(residuals, cotangents):
        gradients, groups = residuals
        scaled = [(cotangents[0] * g).astype(g.dtype) for g in gradients]
        return (*scaled, collectives.zero_cotangent(groups))

    return collectives.differentiable(forward, backward, dtype)


def _sharded(
    compute: Callable[..., Any], mesh: Mesh, *, chunk: int = 0, dtype: str = "float32"
) -> Callable[..., Any]:
    local = _with_gradients(compute, chunk, dtype)

    def loss(image_emb, text_emb, logit_scale, logit_bias, groups=None, topics=None):
        del topics
        inputs = (image_emb, text_emb, logit_scale, logit_bias, groups)
        value, correct = collectives.shard_loss(mesh, local, "rrssr")(*inputs)
        return value, {"accuracy": correct / (2 * image_emb.shape[0])}

    return loss


all_gather = functools.partial(_sharded, _gathered)
ring = functools.partial(_sharded, _ring)
