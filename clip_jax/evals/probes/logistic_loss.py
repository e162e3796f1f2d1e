"""The objective of logistic regression, and coordinates in which it is easy to minimise.

Features are centred and turned onto their principal axes; the weight of class k on axis j is
divided by sqrt(p_k (1 - p_k) variance_j + lambda / n), the root of the curvature where all rows
have the classes' frequencies p as probabilities. Neither moves the minimum: a rotation keeps
||W||, and the intercept, which no penalty touches, takes up the centre.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clip_jax.runtime.mesh import BATCH_AXES, replicated

# Variance of an axis, as a share of the greatest and for each dimension there is, that float32
# cannot tell from none.
_ROUNDING = 1e-13


class Rows(NamedTuple):
    """Rows in S chunks of R, each chunk split over the devices; weight 0 marks padding."""

    features: jax.Array  # float32[S, R, D]
    labels: jax.Array  # int32[S, R] or bool[S, R, K]
    weight: jax.Array  # float32[S, R]


class Problem(NamedTuple):
    """What does not change from penalty to penalty."""

    rows: Rows  # features centred, on the principal axes
    mean: jax.Array  # float32[D]
    axes: jax.Array  # float32[D, D], a principal axis in each column
    variance: jax.Array  # float32[D], of the features on each axis
    class_variance: jax.Array  # float32[K], p (1 - p) of the share p of each class
    offset: jax.Array  # float32[K], intercepts where L-BFGS's coordinates are 0


@functools.partial(jax.jit, static_argnames="mesh")
def prepare(rows: Rows, offset: jax.Array, class_variance: jax.Array, mesh: Mesh) -> Problem:
    """Centres and turns the features of rows as they are."""
    n = rows.weight.sum()
    mean = (rows.features * rows.weight[..., None]).sum((0, 1)) / n
    centred = (rows.features - mean) * rows.weight[..., None]
    axes = jnp.linalg.eigh(dot("srd,sre->de", centred, centred) / n).eigenvectors
    turned = dot("srd,de->sre", centred, axes)
    variance = (turned**2).sum((0, 1)) / n
    # Where rows are few or features alike, some axes hold nothing but rounding errors. Weights
    # there are 0 at the minimum; the errors, divided by the roots below, would cost hundreds of
    # iterations.
    there = variance > _ROUNDING * len(mean) * variance.max()
    turned, variance = jnp.where(there, turned, 0), jnp.where(there, variance, 0)
    turned = jax.lax.with_sharding_constraint(
        turned, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
    )
    small = (mean, axes, variance, class_variance, offset)
    small = jax.lax.with_sharding_constraint(small, replicated(mesh))
    return Problem(rows._replace(features=turned), *small)


def coordinates(problem: Problem, penalties: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns scale and origin: parameters are scale * (what L-BFGS sees) + origin.

    Args:
      problem: of K classes and D dimensions.
      penalties: float32[L].

    Returns:
      float32[L, D + 1, K], one over the root of the curvature, and float32[D + 1, K].
    """
    curvature = problem.variance[:, None] * problem.class_variance
    of_weights = curvature + penalties[:, None, None]
    of_intercept = jnp.broadcast_to(problem.class_variance, (len(penalties), 1, curvature.shape[1]))
    origin = jnp.concatenate([jnp.zeros_like(curvature), problem.offset[None]])
    return jax.lax.rsqrt(jnp.concatenate([of_weights, of_intercept], 1)), origin


def objective(
    problem: Problem, parameters: jax.Array, penalties: jax.Array, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean loss plus penalty / 2 * ||W||^2, and its gradient.

    Args:
      problem: of K classes and D dimensions.
      parameters: float32[L, D + 1, K], weights on the axes and, last, intercepts.
      penalties: float32[L].
      mesh: over which the rows are split.

    Returns:
      float32[L] and float32[L, D + 1, K].
    """
    weights, intercept = parameters[:, :-1], parameters[:, -1]
    by_row = NamedSharding(mesh, PartitionSpec(BATCH_AXES))

    def add(total, rows: Rows):
        logits = dot("nd,ldk->nlk", rows.features, weights) + intercept
        logits = jax.lax.with_sharding_constraint(logits, by_row)
        loss, residual = (_binary if rows.labels.ndim == 2 else _softmax)(logits, rows.labels)
        residual *= rows.weight[:, None, None]
        by_weight = dot("nd,nlk->ldk", rows.features, residual)
        gradient = jnp.concatenate([by_weight, residual.sum(0)[:, None]], 1)
        return (total[0] + _sum(rows.weight[:, None] * loss), total[1] + gradient), None

    zero = (jnp.zeros(len(parameters), parameters.dtype), jnp.zeros_like(parameters))
    (value, gradient), _ = jax.lax.scan(add, zero, problem.rows)
    n = problem.rows.weight.sum()
    value = value / n + 0.5 * penalties * (weights**2).sum((1, 2))
    return value, (gradient / n).at[:, :-1].add(penalties[:, None, None] * weights)


def _sum(terms: jax.Array) -> jax.Array:
    """Sums float32[R, L] over R in two levels. One sum that runs over 60,000 rows gathers more
    rounding than a step near the minimum gains, and the line search would find no good one.
    """
    width = math.isqrt(len(terms)) or 1
    blocks = jnp.pad(terms, ((0, -len(terms) % width), (0, 0))).reshape(-1, width, terms.shape[1])
    return jax.lax.optimization_barrier(blocks.sum(0)).sum(0)  # else XLA makes one sum of both


def _softmax(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross entropy float32[R, L] of logits float32[R, L, K], and its gradient.

    Both come from the other classes alone: 1 - p loses all digits where p is close to 1, which is
    where regressions with small penalties live.
    """
    own = labels[:, None, None] == jnp.arange(logits.shape[-1])
    top = logits.max(-1, keepdims=True)
    exps = jnp.exp(logits - top)
    right = jnp.where(own, exps, 0).sum(-1, keepdims=True)
    wrong = jnp.where(own, 0, exps).sum(-1, keepdims=True)
    short = jnp.where(own, top - logits, 0).sum(-1)  # of the best logit
    loss = jnp.log1p(wrong[..., 0] + (right[..., 0] - 1)) + short
    return loss, jnp.where(own, -wrong, exps) / (right + wrong)


def _binary(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Binary cross entropies summed over classes, float32[R, L], and their gradient."""
    sign = jnp.where(labels, -1.0, 1.0)[:, None]
    return jax.nn.softplus(sign * logits).sum(-1), sign * jax.nn.sigmoid(sign * logits)


def dot(equation: str, *arrays: jax.Array) -> jax.Array:
    """``einsum`` in full float32: accelerators would round the factors to fewer bits."""
    return jnp.einsum(equation, *arrays, precision=jax.lax.Precision.HIGHEST)
