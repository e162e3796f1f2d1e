"""The arithmetic of one block of logits, which every implementation of the losses shares.

A block holds the logits of some rows with some columns of the global B x B matrix; either tower
may be the rows, for both directions are computed from the same block. Rows and columns carry their
index in the global batch, and the metadata that decides what is a negative.

For the softmax the positive is kept out of the sum of exponentials: a row's cross entropy is
log(1 + sum over negatives of exp(negative - positive)). Near convergence that sum is tiny, and what
the usual form leaves of it after subtracting numbers that agree to all digits of float32 is noise,
in the gradient too.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Operand(NamedTuple):
    """Rows or columns of a block.

    Attributes:
      emb: [n, E] unit embeddings.
      global_index: int32[n], index of each example in the global batch.
      positive_logit: float32[n], the logit of each with its pair.
      groups: int[n] or None; equal numbers are not each other's negatives.
      topics: float[n, D] or None: features of the captions, for soft targets.
    """

    emb: jax.Array
    global_index: jax.Array
    positive_logit: jax.Array
    groups: jax.Array | None = None
    topics: jax.Array | None = None


class OnlineLogSumExp(NamedTuple):
    """Running log-sum-exp of the negatives of rows (or columns), relative to the positive.

    Attributes:
      max_margin: float32[n], the greatest of (negative - positive); -inf before the first.
      sum_exp: float32[n], sum of exp(negative - positive - max(max_margin, 0)).
      related: float32[n], sum of the products of topics; 0 without.
    """

    max_margin: jax.Array
    sum_exp: jax.Array
    related: jax.Array


class Totals(NamedTuple):
    """What the gradient needs of each row (or column), over the whole global batch.

    Attributes:
      cross_entropy: float32[n], ``log1p_sum_exp``.
      related: float32[n], ``OnlineLogSumExp.related``.
    """

    cross_entropy: jax.Array
    related: jax.Array


def accum_dtype(*arrays: jax.Array) -> jnp.dtype:
    """The dtype of logits: float32, or float64 for float64 embeddings."""
    return functools.reduce(jnp.promote_types, [a.dtype for a in arrays], jnp.float32)


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """[n, E] x [m, E] -> [n, m], accumulated in float32.

    The default precision of TPUs rounds float32 operands to bfloat16; bfloat16 ones are exact.
    """
    exact = a.dtype == jnp.bfloat16 and b.dtype == jnp.bfloat16
    return jnp.einsum(
        "ne,me->nm", a, b,
        precision=None if exact else jax.lax.Precision.HIGHEST,
        preferred_element_type=accum_dtype(a, b),
    )  # fmt: skip


def weighted(weights: jax.Array, b: jax.Array) -> jax.Array:
    """[n, m] x [m, E] -> [n, E], accumulated in float32."""
    return jnp.einsum(
        "nm,me->ne", weights, b.astype(weights.dtype), precision=jax.lax.Precision.HIGHEST
    )


def negatives(rows: Operand, columns: Operand) -> tuple[jax.Array, jax.Array]:
    """bool[n, m] twice: which entries are a pair, and which are negatives."""
    pair = rows.global_index[:, None] == columns.global_index[None, :]
    negative = ~pair
    if rows.groups is not None:
        negative &= rows.groups[:, None] != columns.groups[None, :]
    return pair, negative


def _related(rows: Operand, columns: Operand, negative: jax.Array) -> jax.Array:
    return jnp.where(negative, product(rows.topics, columns.topics), 0)


def empty(like: jax.Array) -> OnlineLogSumExp:
    """The log-sum-exp of no negatives at all, one for each entry of ``like``."""
    zeros = 0 * like  # not a constant: it varies over devices as ``like`` does
    return OnlineLogSumExp(zeros - jnp.inf, zeros, zeros)


def _reduced(margins: jax.Array, related: jax.Array | None, axis: int) -> OnlineLogSumExp:
    max_margin = margins.max(axis=axis)
    shift = jnp.maximum(max_margin, 0)
    sum_exp = jnp.exp(margins - jnp.expand_dims(shift, axis)).sum(axis=axis)
    zeros = jnp.zeros_like(sum_exp)
    return OnlineLogSumExp(
        max_margin, sum_exp, zeros if related is None else related.sum(axis=axis)
    )


def merge(a: OnlineLogSumExp, b: OnlineLogSumExp) -> OnlineLogSumExp:
    """The log-sum-exp over two disjoint sets of negatives."""
    max_margin = jnp.maximum(a.max_margin, b.max_margin)
    shift = jnp.maximum(max_margin, 0)
    sum_exp = sum(s.sum_exp * jnp.exp(jnp.maximum(s.max_margin, 0) - shift) for s in (a, b))
    return OnlineLogSumExp(max_margin, sum_exp, a.related + b.related)


def log_sum_exp(
    scale: jax.Array, rows: Operand, columns: Operand, soft: float
) -> tuple[OnlineLogSumExp, OnlineLogSumExp, tuple[jax.Array, jax.Array] | None]:
    """What one block adds to its rows and to its columns; see ``gradient`` for the arguments.

    Returns:
      Log-sum-exp of the rows; of the columns; and, for soft targets, the sums of
      related * (positive - logit) by rows and by columns, float32[n] and [m], else None.
    """
    logits = scale * product(rows.emb, columns.emb)
    _, negative = negatives(rows, columns)
    related = _related(rows, columns, negative) if soft else None
    by_row = jnp.where(negative, logits - rows.positive_logit[:, None], -jnp.inf)
    by_column = jnp.where(negative, logits - columns.positive_logit[None, :], -jnp.inf)
    soft_terms = None
    if soft:
        soft_terms = (
            (related * (rows.positive_logit[:, None] - logits)).sum(axis=1),
            (related * (columns.positive_logit[None, :] - logits)).sum(axis=0),
        )
    return _reduced(by_row, related, 1), _reduced(by_column, related, 0), soft_terms


def log1p_sum_exp(s: OnlineLogSumExp) -> jax.Array:
    """log(1 + sum over negatives of exp(negative - positive)): a row's cross entropy."""
    shift = jnp.maximum(s.max_margin, 0)
    return shift + jnp.log1p(jnp.expm1(-shift) + s.sum_exp)


def totals(s: OnlineLogSumExp) -> Totals:
    """What ``gradient`` needs of a log-sum-exp over the whole global batch."""
    return Totals(log1p_sum_exp(s), s.related)


def gradient(
    scale: jax.Array,
    rows: Operand,
    columns: Operand,
    row_totals: Totals,
    column_totals: Totals,
    soft: float,
) -> jax.Array:
    """Derivative of 2 B times the softmax loss by each logit of a block: float32[n, m].

    Both directions: the entry is a negative of its row and a negative of its column.

    Args:
      scale: multiplies the cosines.
      rows, columns: the block's.
      row_totals, column_totals: ``totals`` over the whole global batch.
      soft: share of each target that goes to related pairs.
    """
    row_log, column_log = row_totals.cross_entropy, column_totals.cross_entropy
    logits = scale * product(rows.emb, columns.emb)
    pair, negative = negatives(rows, columns)
    row_margin = logits - rows.positive_logit[:, None] - row_log[:, None]
    column_margin = logits - columns.positive_logit[None, :] - column_log[None, :]
    # Not exp - 1 afterwards: what is left of it near convergence would be noise.
    of_pair = jnp.expm1(-row_log)[:, None] + jnp.expm1(-column_log)[None, :]
    weights = jnp.exp(jnp.where(negative, row_margin, -jnp.inf))
    weights += jnp.exp(jnp.where(negative, column_margin, -jnp.inf))
    if soft:
        related = _related(rows, columns, negative)
        row_share, column_share = (
            jnp.where(r > 0, soft / jnp.maximum(r, 1e-12), 0)
            for r in (row_totals.related, column_totals.related)
        )
        weights -= related * (row_share[:, None] + column_share[None, :])
        moved = (
            jnp.where(row_totals.related > 0, soft, 0)[:, None]
            + jnp.where(column_totals.related > 0, soft, 0)[None, :]
        )
        of_pair = of_pair + moved
    return jnp.where(pair, of_pair, weights)
