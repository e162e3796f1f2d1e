"""The softmax loss over the global batch (paper figure 3), in chunks that fit into memory.

Two implementations, both run inside ``shard_map`` and both equal to ``dense`` in value and in every
gradient. Neither ever holds more than 16 MiB of logits.

* ``all_gather`` gathers both towers' embeddings and goes through the logits in chunks, twice: once
  for the sums of exponentials, once for the gradients, which it computes from recomputed chunks.
  Every device computes the whole gradient of its own embeddings, so that nothing has to be reduced
  over devices but a few numbers an example: a reduce-scatter over an axis that spans a TPU slice
  would compile to an all-reduce, of twice the bytes.
* ``ring`` permutes the texts around the devices, together with the running log-sum-exp of their
  columns: no device ever holds more than two devices' embeddings, for twice the bytes on the wire.

How the positive is kept apart, and why: see ``logit_block``.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clip_jax.losses import collectives, logit_block
from clip_jax.losses.collectives import LossFn, LossOptions
from clip_jax.losses.logit_block import OnlineLogSumExp, Operand, Totals
from clip_jax.runtime.mesh import BATCH_AXES

# (image_emb, text_emb, scale, metadata) -> (loss, correct), inside shard_map. Metadata are groups
# and topics of the examples, each of which may be None.
Local = Callable[..., tuple[jax.Array, jax.Array]]
Metadata = tuple[jax.Array | None, jax.Array | None]


class _RowState(NamedTuple):
    """What rows accumulate over chunks of columns: log-sum-exp, and the terms of soft targets."""

    log_sum_exp: OnlineLogSumExp
    soft_terms: jax.Array | None


def _mean_loss(
    rows: _RowState, columns: _RowState, soft: float, n: int
) -> tuple[jax.Array, jax.Array]:
    """The loss of the global batch, and how many rows and columns have their pair as the best."""
    sides = (rows, columns)
    terms = [soft * s.soft_terms if soft else None for s in sides]
    by_row, by_column = (logit_block.log1p_sum_exp(s.log_sum_exp) for s in sides)
    total = (by_row + by_column).sum()
    if soft:
        for side, term in zip(sides, terms, strict=True):
            related = side.log_sum_exp.related
            total += jnp.where(related > 0, term / jnp.maximum(related, 1e-12), 0).sum()
    # A tie is not a hit: a collapsed model scores 0, not 1.
    row_hits, column_hits = ((s.log_sum_exp.max_margin < 0).sum() for s in sides)
    correct = row_hits + column_hits
    return jax.lax.psum(total, BATCH_AXES) / (2 * n), jax.lax.psum(correct, BATCH_AXES)


def _over_devices(part: OnlineLogSumExp, size: int) -> OnlineLogSumExp:
    """Merges the rows of all devices; returns this device's own columns."""
    max_margin = jax.lax.pmax(part.max_margin, BATCH_AXES)
    shift = jnp.exp(jnp.maximum(part.max_margin, 0) - jnp.maximum(max_margin, 0))
    sum_exp = jax.lax.psum(part.sum_exp * shift, BATCH_AXES)
    related = jax.lax.psum(part.related, BATCH_AXES)
    whole = OnlineLogSumExp(max_margin, sum_exp, related)
    return jax.tree.map(lambda x: collectives.local_shard(x, size), whole)


def _accumulate(
    scale: jax.Array, rows: Operand, columns: Operand, soft: float, chunk: int, start: _RowState
) -> tuple[_RowState, _RowState]:
    """Adds columns to the state of the rows, ``chunk`` at a time.

    Returns:
      The rows' state with the columns added, and the columns' from these rows.
    """

    def step(carry, part):
        by_row, by_column, terms = logit_block.log_sum_exp(scale, rows, part, soft)
        row_terms = carry.soft_terms + terms[0] if soft else None
        state = _RowState(logit_block.merge(carry.log_sum_exp, by_row), row_terms)
        return state, _RowState(by_column, terms[1] if soft else None)

    of_rows, of_columns = jax.lax.scan(step, start, collectives.chunked(columns, chunk))
    return of_rows, jax.tree.map(lambda x: x.reshape(-1), of_columns)


def _accumulate_gradients(
    scale: jax.Array,
    rows: tuple[Operand, Totals],
    columns: tuple[Operand, Totals],
    soft: float,
    chunk: int,
    start: jax.Array,
    both: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """Sums of (derivative by the logit) * (the other embedding), a chunk of columns at a time.

    Args:
      scale: multiplies the cosines.
      rows, columns: with their totals over the whole global batch.
      soft, chunk: see ``LossOptions``.
      start: the rows' sums so far, [b, E].
      both: whether the columns' are wanted too.

    Returns:
      The rows' with the columns added; the columns' from these rows, or None.
    """
    operand, row_totals = rows

    def step(total, part):
        side, column_totals = part
        weights = logit_block.gradient(scale, operand, side, row_totals, column_totals, soft)
        by_column = logit_block.weighted(weights.T, operand.emb) if both else None
        return total + logit_block.weighted(weights, side.emb), by_column

    total, by_columns = jax.lax.scan(step, start, collectives.chunked(columns, chunk))
    return total, by_columns.reshape(-1, by_columns.shape[-1]) if both else None


def _input_gradients(
    cotangent: jax.Array,
    scale: jax.Array,
    image_emb: jax.Array,
    by_image: jax.Array,
    by_text: jax.Array,
    metadata: Metadata,
) -> tuple[jax.Array, jax.Array, jax.Array, Metadata]:
    """Gradients by all inputs, from the sums over the other side's embeddings."""
    n = image_emb.shape[0] * jax.lax.axis_size(BATCH_AXES)
    by_image, by_text = (cotangent / (2 * n) * x for x in (by_image, by_text))
    by_scale = jax.lax.psum((by_image * image_emb).sum(), BATCH_AXES)
    zero = collectives.zero_cotangent(metadata)
    return scale * by_image, scale * by_text, by_scale.astype(scale.dtype), zero


def _zeros(emb: jax.Array, positive: jax.Array) -> jax.Array:
    """float32[b, E], varying over devices as ``positive`` does."""
    return jnp.zeros_like(emb, logit_block.accum_dtype(emb)) + 0 * positive[:, None]


def _gathered_loss(options: LossOptions) -> Local:
    soft, chunk = options.soft, options.chunk

    def forward(image_emb, text_emb, scale, metadata):
        size = image_emb.shape[0]
        n = size * jax.lax.axis_size(BATCH_AXES)
        positive = collectives.positive_logit(scale, image_emb, text_emb)
        rows = collectives.local_operand(image_emb, positive, *metadata)
        columns = collectives.gather(rows._replace(emb=text_emb))
        start = _RowState(logit_block.empty(positive), jnp.zeros_like(positive) if soft else None)
        of_rows, part = _accumulate(
            scale, rows, columns, soft, collectives.chunk_size(size, n, chunk), start
        )
        of_columns = _RowState(_over_devices(part.log_sum_exp, size), None)
        if soft:
            terms = jax.lax.psum(part.soft_terms, BATCH_AXES)
            of_columns = of_columns._replace(soft_terms=collectives.local_shard(terms, size))
        loss = _mean_loss(of_rows, of_columns, soft, n)
        gathered = columns.emb, columns.groups, columns.topics
        log_sums = of_rows.log_sum_exp, of_columns.log_sum_exp
        return loss, (image_emb, text_emb, scale, metadata, positive, log_sums, gathered)

    def backward(residuals, cotangents):
        image_emb, text_emb, scale, metadata, positive, log_sums, gathered = residuals
        all_texts, *all_metadata = gathered
        size, n = image_emb.shape[0], all_texts.shape[0]
        images = collectives.local_operand(image_emb, positive, *metadata)
        totals = tuple(logit_block.totals(s) for s in log_sums)
        # A few numbers an example, beside the images' embeddings.
        all_images, all_index, all_positive, all_totals = collectives.gather(
            (image_emb, images.global_index, positive, totals)
        )
        sums = []
        for own, (emb, others) in enumerate(((image_emb, all_texts), (text_emb, all_images))):
            rows = images._replace(emb=emb), totals[own]
            columns = Operand(others, all_index, all_positive, *all_metadata), all_totals[1 - own]
            size_of_chunk = collectives.chunk_size(size, n, chunk)
            total, _ = _accumulate_gradients(
                scale, rows, columns, soft, size_of_chunk, _zeros(emb, positive), both=False
            )
            sums.append(total)
        return _input_gradients(cotangents[0], scale, image_emb, *sums, metadata)

    return collectives.differentiable(forward, backward, options.dtype)


def _ring_loss(options: LossOptions) -> Local:
    """As ``_gathered_loss``; the texts are permuted around the ring of devices."""
    soft = options.soft

    def forward(image_emb, text_emb, scale, metadata):
        size, length = image_emb.shape[0], jax.lax.axis_size(BATCH_AXES)
        positive = collectives.positive_logit(scale, image_emb, text_emb)
        rows = collectives.local_operand(image_emb, positive, *metadata)
        no_terms = jnp.zeros_like(positive) if soft else None
        chunk = collectives.chunk_size(size, size, options.chunk)

        def step(carry, _):
            of_rows, (columns, seen, terms) = carry
            of_rows, added = _accumulate(scale, rows, columns, soft, chunk, of_rows)
            terms = terms + added.soft_terms if soft else None
            seen = logit_block.merge(seen, added.log_sum_exp)
            return (of_rows, collectives.ring_shift((columns, seen, terms))), None

        start = _RowState(logit_block.empty(positive), no_terms), (
            rows._replace(emb=text_emb), logit_block.empty(positive), no_terms
        )  # fmt: skip
        (of_rows, travelling), _ = jax.lax.scan(step, start, length=length)
        _, *of_columns = travelling  # after a full turn they are this device's own again
        of_columns = _RowState(*of_columns)
        loss = _mean_loss(of_rows, of_columns, soft, size * length)
        log_sums = of_rows.log_sum_exp, of_columns.log_sum_exp
        return loss, (image_emb, text_emb, scale, metadata, positive, log_sums)

    def backward(residuals, cotangents):
        image_emb, text_emb, scale, metadata, positive, log_sums = residuals
        size, length = image_emb.shape[0], jax.lax.axis_size(BATCH_AXES)
        rows = collectives.local_operand(image_emb, positive, *metadata)
        row_totals, column_totals = (logit_block.totals(s) for s in log_sums)
        chunk = collectives.chunk_size(size, size, options.chunk)

        def step(carry, _):
            by_image, (columns, totals, by_text) = carry
            by_image, added = _accumulate_gradients(
                scale, (rows, row_totals), (columns, totals), soft, chunk, by_image, both=True
            )
            return (by_image, collectives.ring_shift((columns, totals, by_text + added))), None

        zeros = _zeros(image_emb, positive)
        start = zeros, (rows._replace(emb=text_emb), column_totals, zeros)
        (by_image, (_, _, by_text)), _ = jax.lax.scan(step, start, length=length)
        return _input_gradients(cotangents[0], scale, image_emb, by_image, by_text, metadata)

    return collectives.differentiable(forward, backward, options.dtype)


def _sharded(make: Callable[[LossOptions], Local], mesh: Mesh, options: LossOptions) -> LossFn:
    whole = collectives.sharded(mesh, make(options), "rrsr")

    def loss(image_emb, text_emb, logit_scale, logit_bias, groups=None, topics=None):
        del logit_bias  # of all logits: it makes no difference
        return whole(image_emb, text_emb, logit_scale, (groups, topics))

    return loss


all_gather = functools.partial(_sharded, _gathered_loss)
ring = functools.partial(_sharded, _ring_loss)
