"""L-BFGS for several convex objectives side by side, in one loop on the devices.

Directions are optax's. The line search is our own: an objective that is convex along a line needs
no more than the sign of its slope to bracket a minimum, slopes stay exact where values drown in
rounding, and every turn of the loop makes one evaluation for each objective, whether that one
searches along its line or has just taken its step. (optax's zoom search under ``vmap`` evaluates
both sides of every branch, and makes all wait for the longest search.)
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

_MEMORY = 10  # pairs of steps and gradient changes, as in scikit-learn
_CURVATURE = 0.9  # a step is good where the slope along the line has shrunk to this share
_TRIALS = 30  # steps tried along one line; if none is good, float32 is exhausted
_NOISE = 1e-6  # share of the objective that float32 cannot tell from nothing
_GROWTH = 4.0  # of a step that stopped short
_MARGIN = 0.1  # a trial step keeps this share of the bracket away from its ends

# Points [M, ...] and the lanes int32[M] they belong to -> values [M], gradients [M, ...].
Evaluate = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


T = TypeVar("T", jax.Array, "_State")


class Minimum(NamedTuple):
    """Where each lane ended: points, values and gradients as ``Evaluate`` has them.

    iterations int32[L] and converged bool[L] say how.
    """

    points: jax.Array
    values: jax.Array
    gradients: jax.Array
    iterations: jax.Array
    converged: jax.Array


class _State(NamedTuple):
    """Of each lane: where it is, and how far along its line; arrays have a leading axis L."""

    point: jax.Array
    value: jax.Array
    gradient: jax.Array
    direction: jax.Array
    slope: jax.Array  # along the direction, at the point: below 0
    step: jax.Array  # to be tried next
    low: jax.Array  # a step that is too short, and the slope there
    low_slope: jax.Array
    high: jax.Array  # a step that is too long (infinity: none is known), and the slope there
    high_slope: jax.Array
    trials: jax.Array
    iterations: jax.Array
    converged: jax.Array
    active: jax.Array


def minimize(
    evaluate: Evaluate,
    start: jax.Array,
    active: jax.Array,
    tolerance: jax.Array,
    max_iterations: jax.Array,
) -> Minimum:
    """Minimises L positive convex functions; to be called under ``jit``.

    A lane ends when the norm of its gradient is at most ``tolerance`` times its value, after
    ``max_iterations``, or when no step along its line is good. Its result then stays as it
    is, and evaluations leave it out: they shrink to half the lanes as soon as half are done.

    Args:
      evaluate: values and gradients at points of some of the lanes.
      start: float32[L, ...].
      active: bool[L]; the other lanes are padding and stay at their start.
      tolerance: float32[].
      max_iterations: int32[], steps of one lane.
    """
    optimizer = optax.scale_by_lbfgs(_MEMORY)

    def turn(carry: tuple[_State, optax.OptState]) -> tuple[_State, optax.OptState]:
        state, memory = carry
        point = state.point + _rows(state.step, state.point) * state.direction
        value, gradient = _evaluate_active(evaluate, point, state.active)
        slope = _inner(gradient, state.direction)
        no_worse = value <= state.value * (1 + _NOISE)
        good = state.active & no_worse & (jnp.abs(slope) <= -_CURVATURE * state.slope)
        searching = _next_trial(state, slope, no_worse & (slope < 0))
        state = _where(state.active, searching, state)
        # A lane that stays where it is adds a pair of zeros, which counts for nothing: cheaper
        # than to keep its memory by a copy of all memories in every turn.
        point = _where(good, point, state.point)
        gradient = _where(good, gradient, state.gradient)
        update, memory = jax.vmap(optimizer.update)(gradient, memory, point)
        moved = _at_first_trial(state, point, value, gradient, -update)
        converged = jnp.sqrt(_inner(gradient, gradient)) <= tolerance * value
        goes_on = ~converged & (moved.iterations < max_iterations) & (moved.slope < 0)
        moved = moved._replace(converged=converged, active=goes_on)
        return _where(good, moved, state), memory

    zeros = jnp.zeros(len(start), start.dtype)
    none = jnp.zeros(len(start), jnp.int32)
    # The first turn makes a step of length 0 from an infinite value: it evaluates the start.
    state = _State(
        start, zeros + jnp.inf, jnp.zeros_like(start), jnp.zeros_like(start), slope=zeros - 1,
        step=zeros, low=zeros, low_slope=zeros, high=zeros + jnp.inf, high_slope=zeros,
        trials=none, iterations=none - 1, converged=none > 0, active=active,
    )  # fmt: skip
    memory = jax.vmap(optimizer.init)(start)
    state, _ = jax.lax.while_loop(lambda carry: carry[0].active.any(), turn, (state, memory))
    return Minimum(state.point, state.value, state.gradient, state.iterations, state.converged)


def _at_first_trial(
    state: _State, point: jax.Array, value: jax.Array, gradient: jax.Array, direction: jax.Array
) -> _State:
    """Every lane one iteration further, at the start of a new line."""
    slope = _inner(gradient, direction)
    zero = jnp.zeros_like(value)
    return state._replace(
        point=point, value=value, gradient=gradient, direction=direction, slope=slope,
        step=zero + 1, low=zero, low_slope=slope, high=zero + jnp.inf, high_slope=zero,
        trials=jnp.zeros_like(state.trials), iterations=state.iterations + 1,
    )  # fmt: skip


def _evaluate_active(
    evaluate: Evaluate, points: jax.Array, active: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Evaluates the active lanes, and no more others than it takes to fill one of few widths."""
    widths = [len(points)]
    while widths[-1] > 1:
        widths.append(widths[-1] - 1 if widths[-1] < 5 else -(-widths[-1] // 2))
    order = jnp.argsort(~active, stable=True)
    rank = jnp.argsort(order)

    def of_width(width: int):
        def branch(points: jax.Array):
            values, gradients = evaluate(points[order[:width]], order[:width])
            # Lanes that were left out get what is another's; nobody looks at it.
            inside = jnp.minimum(rank, width - 1)
            return values[inside], gradients[inside]

        return branch

    narrowest = (jnp.array(widths) >= active.sum()).sum() - 1
    return jax.lax.switch(narrowest, [of_width(width) for width in widths], points)


def _next_trial(state: _State, slope: jax.Array, short: jax.Array) -> _State:
    """Narrows the bracket: the secant of the slopes where it is inside, else the middle."""
    low, low_slope = (
        jnp.where(short, new, old)
        for new, old in ((state.step, state.low), (slope, state.low_slope))
    )
    high, high_slope = (
        jnp.where(short, old, new)
        for new, old in ((state.step, state.high), (slope, state.high_slope))
    )
    width = high - low
    secant = low - low_slope * width / (high_slope - low_slope)
    inside = jnp.clip(secant, low + _MARGIN * width, high - _MARGIN * width)
    bracketed = jnp.where((high_slope > 0) & jnp.isfinite(secant), inside, low + width / 2)
    step = jnp.where(jnp.isinf(high), _GROWTH * state.step, bracketed)
    trials = state.trials + 1
    return state._replace(
        step=step, low=low, low_slope=low_slope, high=high, high_slope=high_slope,
        trials=trials, active=state.active & (trials < _TRIALS),
    )  # fmt: skip


def _inner(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a * b).sum(range(1, a.ndim))


def _rows(lanes: jax.Array, like: jax.Array) -> jax.Array:
    return lanes.reshape(lanes.shape + (1,) * (like.ndim - 1))


def _where(lanes: jax.Array, yes: T, no: T) -> T:
    return jax.tree.map(lambda a, b: jnp.where(_rows(lanes, a), a, b), yes, no)
