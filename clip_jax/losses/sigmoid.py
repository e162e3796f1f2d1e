"""The sigmoid loss (Zhai et al. 2023, arXiv 2303.15343): every pair of the batch by itself.

The mean over rows of the sum over columns of -log sigmoid(z * logit), z being 1 for pairs and -1
for all others. Entries do not need each other, so that value and gradients come out of one pass:

* ``all_gather`` gathers both towers and goes through its own rows of either in chunks;
* ``ring`` permutes the texts and their gradients around the devices (the paper's section 3.3).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clip_jax.losses import collectives, logit_block
from clip_jax.losses.collectives import LossFn, LossOptions
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
    """The loss from the full matrix of logits, scale * cosine + bias; see ``softmax_dense``.

    ``topics`` are not used.
    """
    del topics
    n = image_emb.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    positive = collectives.positive_logit(logit_scale, image_emb, text_emb) + logit_bias
    rows, columns = (Operand(e, index, positive, groups) for e in (image_emb, text_emb))
    part = _block(logit_scale, logit_bias, rows, columns)
    correct = (part.row_best < positive).sum() + (part.column_best < positive).sum()
    return part.loss / n, {"accuracy": correct / (2 * n)}


class _RowState(NamedTuple):
    """What rows accumulate over chunks of columns.

    Attributes:
      loss: sum over the entries.
      by_emb: [b, E] derivatives by the embeddings, before the scale.
      best: the rows' best negatives.
      by_bias: derivative by the bias.
    """

    loss: jax.Array
    by_emb: jax.Array
    best: jax.Array
    by_bias: jax.Array

    @classmethod
    def empty(cls, rows: Operand) -> "_RowState":
        zero = 0 * rows.positive_logit
        by_emb = zero[:, None] + jnp.zeros_like(rows.emb, zero.dtype)
        return cls(zero.sum(), by_emb, zero - jnp.inf, zero.sum())

    def add(self, part: _Part, columns: Operand) -> "_RowState":
        return _RowState(
            self.loss + part.loss,
            self.by_emb + logit_block.weighted(part.weights, columns.emb),
            jnp.maximum(self.best, part.row_best),
            self.by_bias + part.weights.sum(),
        )


def _gathered(image_emb, text_emb, scale, bias, groups, chunk):
    """Sum of losses of this device's rows, and all gradients by its embeddings."""
    positive = collectives.positive_logit(scale, image_emb, text_emb) + bias

    def own_rows(emb, others):
        rows = collectives.local_operand(emb, positive, groups)
        columns = collectives.gather(rows._replace(emb=others))

        def step(state, side):
            return state.add(_block(scale, bias, rows, side), side), None

        size, n = emb.shape[0], columns.emb.shape[0]
        parts = collectives.chunked(columns, collectives.chunk_size(size, n, chunk))
        return jax.lax.scan(step, _RowState.empty(rows), parts)[0]

    images, texts = own_rows(image_emb, text_emb), own_rows(text_emb, image_emb)
    correct = (images.best < positive).sum() + (texts.best < positive).sum()
    return images.loss, correct, images.by_emb, texts.by_emb, images.by_bias


def _ring(image_emb, text_emb, scale, bias, groups, chunk):
    """As ``_gathered``; the texts and their gradients are permuted around the devices."""
    size = image_emb.shape[0]
    positive = collectives.positive_logit(scale, image_emb, text_emb) + bias
    rows = collectives.local_operand(image_emb, positive, groups)

    def add(state, side):
        part = _block(scale, bias, rows, side)
        by_columns = logit_block.weighted(part.weights.T, image_emb)
        return state.add(part, side), (by_columns, part.column_best)

    def step(carry, _):
        images, (columns, by_text, column_best) = carry
        parts = collectives.chunked(columns, collectives.chunk_size(size, size, chunk))
        images, (more, best) = jax.lax.scan(add, images, parts)
        by_text = by_text + more.reshape(by_text.shape)
        column_best = jnp.maximum(column_best, best.reshape(-1))
        return (images, collectives.ring_shift((columns, by_text, column_best))), None

    images = _RowState.empty(rows)
    start = images, (rows._replace(emb=text_emb), images.by_emb, images.best)
    length = jax.lax.axis_size(BATCH_AXES)
    (images, (_, by_text, column_best)), _ = jax.lax.scan(step, start, length=length)
    correct = (images.best < positive).sum() + (column_best < positive).sum()
    return images.loss, correct, images.by_emb, by_text, images.by_bias


def _sharded(compute: Callable[..., tuple], mesh: Mesh, options: LossOptions) -> LossFn:
    def forward(image_emb, text_emb, scale, bias, groups):
        n = image_emb.shape[0] * jax.lax.axis_size(BATCH_AXES)
        loss, correct, by_image, by_text, by_bias = compute(
            image_emb, text_emb, scale, bias, groups, options.chunk
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

    local = collectives.differentiable(forward, backward, options.dtype)
    whole = collectives.sharded(mesh, local, "rrssr")

    def loss(image_emb, text_emb, logit_scale, logit_bias, groups=None, topics=None):
        del topics
        return whole(image_emb, text_emb, logit_scale, logit_bias, groups)

    return loss


all_gather = functools.partial(_sharded, _gathered)
ring = functools.partial(_sharded, _ring)
