"""The arithmetic of one block of logits, which every implementation of the losses shares.

A block holds the logits of some rows with some columns of the global B x B matrix; either tower
may be the rows, for both directions are computed from the same block. Rows and columns know their
place in the global batch, and the facts that change what is a negative.

For the softmax the positive is kept out of the sum of exponentials: a row's cross entropy is
log(1 + sum over negatives of exp(negative - positive)). Near convergence that sum is tiny, and what
the usual form leaves of it after subtracting numbers that agree to all digits of float32 is noise,
in the gradient too.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Side(NamedTuple):
    """Rows or columns of a block.

    Attributes:
      emb: [n, E] unit embeddings.
      place: int32[n], which examples of the global batch they are.
      positive: float32[n], the logit of each with its pair.
      groups: int[n] or None; equal numbers are not each other's negatives.
      topics: float[n, D] or None: captions' features, for soft targets.
    """

    emb: jax.Array
    place: jax.Array
    positive: jax.Array
    groups: jax.Array | None = None
    topics: jax.Array | None = None


class Sums(NamedTuple):
    """What a row (or column) of the softmax has gathered so far of its negatives.

    Attributes:
      best: float32[n], the greatest of (negative - positive); -inf before the first.
      total: float32[n], sum of exp(negative - positive - max(best, 0)).
      related: float32[n], sum of the products of topics; 0 without.
    """

    best: jax.Array
    total: jax.Array
    related: jax.Array


def wide(*arrays: jax.Array) -> jnp.dtype:
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
        preferred_element_type=wide(a, b),
    )  # fmt: skip


def weighted(weights: jax.Array, b: jax.Array) -> jax.Array:
    """[n, m] x [m, E] -> [n, E], accumulated in float32."""
    return jnp.einsum(
        "nm,me->ne", weights, b.astype(weights.dtype), precision=jax.lax.Precision.HIGHEST
    )


def negatives(rows: Side, columns: Side) -> tuple[jax.Array, jax.Array]:
    """bool[n, m] twice: which entries are a pair, and which are negatives."""
    pair = rows.place[:, None] == columns.place[None, :]
    negative = ~pair
    if rows.groups is not None:
        negative &= rows.groups[:, None] != columns.groups[None, :]
    return pair, negative


def _related(rows: Side, columns: Side, negative: jax.Array) -> jax.Array:
    return jnp.where(negative, product(rows.topics, columns.topics), 0)


def empty(like: jax.Array) -> Sums:
    """Sums of no negatives at all, one for each entry of ``like``."""
    zeros = 0 * like  # not a constant: it varies over devices as ``like`` does
    return Sums(zeros - jnp.inf, zeros, zeros)


def _reduced(margins: jax.Array, related: jax.Array | None, axis: int) -> Sums:
    best = margins.max(axis=axis)
    top = jnp.maximum(best, 0)
    total = jnp.exp(margins - jnp.expand_dims(top, axis)).sum(axis=axis)
    zeros = jnp.zeros_like(total)
    return Sums(best, total, zeros if related is None else related.sum(axis=axis))


def merge(a: Sums, b: Sums) -> Sums:
    """The sums over two disjoint sets of negatives."""
    best = jnp.maximum(a.best, b.best)
    top = jnp.maximum(best, 0)
    total = sum(s.total * jnp.exp(jnp.maximum(s.best, 0) - top) for s in (a, b))
    return Sums(best, total, a.related + b.related)


def sums(scale: jax.Array, rows: Side, columns: Side, soft: float) -> tuple[Sums, Sums, jax.Array]:
    """What one block adds to its rows and to its columns, and to the soft part of the loss.

    Returns:
      Sums of the rows and of the columns; and [n, m] weights' products needed for soft targets:
      (related * (positive - logit)) summed by rows and by columns, float32[n] and [m], or None.
    """
    logits = scale * product(rows.emb, columns.emb)
    _, negative = negatives(rows, columns)
    related = _related(rows, columns, negative) if soft else None
    by_row = jnp.where(negative, logits - rows.positive[:, None], -jnp.inf)
    by_column = jnp.where(negative, logits - columns.positive[None, :], -jnp.inf)
    lost = None
    if soft:
        lost = (
            (related * (rows.positive[:, None] - logits)).sum(axis=1),
            (related * (columns.positive[None, :] - logits)).sum(axis=0),
        )
    return _reduced(by_row, related, 1), _reduced(by_column, related, 0), lost


def log_total(s: Sums) -> jax.Array:
    """log(1 + sum over negatives of exp(negative - positive)): a row's cross entropy."""
    top = jnp.maximum(s.best, 0)
    return top + jnp.log1p(jnp.expm1(-top) + s.total)


def gradient(
    scale: jax.Array,
    rows: Side,
    columns: Side,
    row_log: jax.Array,
    column_log: jax.Array,
    row_related: jax.Array,
    column_related: jax.Array,
    soft: float,
) -> jax.Array:
    """Derivative of 2 B times the softmax loss by each logit of a block: float32[n, m].

    Both directions: the entry is a negative of its row and a negative of its column.

    Args:
      row_log, column_log: ``log_total`` over the whole global batch, of rows and columns.
      row_related, column_related: ``Sums.related`` over the whole global batch.
    """
    logits = scale * product(rows.emb, columns.emb)
    pair, negative = negatives(rows, columns)
    row_margin = logits - rows.positive[:, None] - row_log[:, None]
    column_margin = logits - columns.positive[None, :] - column_log[None, :]
    # Not exp - 1 afterwards: what is left of it near convergence would be noise.
    of_pair = jnp.expm1(-row_log)[:, None] + jnp.expm1(-column_log)[None, :]
    weights = jnp.exp(jnp.where(negative, row_margin, -jnp.inf))
    weights += jnp.exp(jnp.where(negative, column_margin, -jnp.inf))
    if soft:
        related = _related(rows, columns, negative)
        row_share, column_share = (
            jnp.where(r > 0, soft / jnp.maximum(r, 1e-12), 0) for r in (row_related, column_related)
        )
        weights -= related * (row_share[:, None] + column_share[None, :])
        moved = (
            jnp.where(row_related > 0, soft, 0)[:, None]
            + jnp.where(column_related > 0, soft, 0)[None, :]
        )
        of_pair = of_pair + moved
    return jnp.where(pair, of_pair, weights)
