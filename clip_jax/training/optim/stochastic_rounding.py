"""Stochastic rounding of what is stored in bfloat16 between steps: Adam's moments (after Dhariwal
et al. 2020, arXiv 2005.00341) and the weights of the text encoder, both as in the paper (section
2.5). The paper rounds the weights stochastically; here the moments are too.

Rounding to the nearest would freeze them: a second moment changes by a thousandth a step, and a
bfloat16 has 8 bits. Stochastic rounding picks the neighbour above or below with a probability in
proportion to how near it is, so that the stored number is right on average.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from clip_jax.runtime.mesh import PyTree


def stochastic_round(key: jax.Array, x: jax.Array) -> jax.Array:
    """float32 -> bfloat16: one of the two neighbours, whose mean over ``key`` is ``x``.

    What a bfloat16 can hold stays as it is, infinities included; so does a NaN, unless its payload
    is in the lower bits alone.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    # The lower half of the bits is what is lost: it carries over as often as it is large.
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    rounded = jnp.where(jnp.isfinite(x), bits + noise, bits) & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(rounded, jnp.float32).astype(jnp.bfloat16)


def _keys(key: jax.Array, tree: PyTree) -> PyTree:
    """A key for each leaf of a tree."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    return jax.tree.unflatten(structure, list(keys)[: len(leaves)])


def upcast(tree: PyTree) -> PyTree:
    """Casts every bfloat16 of a tree to float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree)


def cast_text_params(params: optax.Params) -> optax.Params:
    """Casts the text tower's weights, not its gains and biases, to bfloat16."""

    def cast(path, x):
        names = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
        weight = names[0] == "text_tower" and names[-1] not in ("bias", "scale")
        return x.astype(jnp.bfloat16) if weight else x

    return jax.tree_util.tree_map_with_path(cast, params)


def _key(seed: int, stream: int, count: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), count)


class Bf16State(NamedTuple):
    """Number of updates made, and the state of the inner optimizer."""

    count: jax.Array
    inner: optax.OptState


def with_bf16_state(inner: optax.GradientTransformation, seed: int) -> optax.GradientTransformation:
    """Stores the float32 state of an optimizer in bfloat16.

    The rounding is a function of ``seed`` and the number of updates alone.
    """

    def init(params):
        cast = jax.tree.map(
            lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, inner.init(params)
        )
        return Bf16State(jnp.zeros((), jnp.int32), cast)

    def update(updates, state, params=None):
        updates, new = inner.update(updates, upcast(state.inner), params)
        keys = _keys(_key(seed, 0, state.count), new)
        rounded = jax.tree.map(
            lambda k, x: stochastic_round(k, x) if x.dtype == jnp.float32 else x, keys, new
        )
        return updates, Bf16State(state.count + 1, rounded)

    return optax.GradientTransformation(init, update)


def with_bf16_params(
    inner: optax.GradientTransformation, seed: int
) -> optax.GradientTransformation:
    """Lets an optimizer update parameters stored in bfloat16 (see ``cast_text_params``).

    Rounded to the nearest, a weight would stand still: most updates are less than the 256th part
    of it. The updates that come out lead to a bfloat16 exactly, one that is right on average.

    Args:
      inner: the whole chain; it sees float32 parameters.
      seed: as in ``with_bf16_state``.
    """

    def init(params):
        return Bf16State(jnp.zeros((), jnp.int32), inner.init(upcast(params)))

    def update(updates, state, params):
        upcast_params = upcast(params)
        updates, new = inner.update(updates, state.inner, upcast_params)
        keys = _keys(_key(seed, 1, state.count), params)

        def rounded(key, stored, old, update):
            if stored.dtype != jnp.bfloat16:
                return update
            return stochastic_round(key, old + update).astype(jnp.float32) - old

        updates = jax.tree.map(rounded, keys, params, upcast_params, updates)
        return updates, Bf16State(state.count + 1, new)

    return optax.GradientTransformation(init, update)
