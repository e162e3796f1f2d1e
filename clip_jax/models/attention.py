"""Scaled dot-product attention: implementations that give the same numbers up to rounding."""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp


class Implementation(Protocol):
    """Attention of queries, keys and values [B, N, heads, head width] -> the queries' shape."""

    def __call__(
        self, q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool, tokens: int
    ) -> jax.Array:
        """See ``attend``."""


def _by_jax(
    q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool, tokens: int,
    implementation: str | None = None,
) -> jax.Array:  # fmt: skip
    # Behind the padding of a causal attention no query looks that is not padding itself. Padding's
    # own queries are computed like any other: what is left out would not be a number.
    padded = tokens < k.shape[1] and not causal
    lengths = jnp.full(k.shape[:1], tokens, jnp.int32) if padded else None
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, key_value_seq_lengths=lengths, implementation=implementation
    )


# "cudnn" needs an NVIDIA GPU (Ampere or later), 16-bit numbers, and heads of a multiple of 8.
IMPLEMENTATIONS: dict[str, Implementation] = {
    "xla": _by_jax,
    "cudnn": functools.partial(_by_jax, implementation="cudnn"),
}

# The multiple to which a sequence is padded for an implementation.
MULTIPLES: dict[str, int] = {"cudnn": 2}


def padded_length(implementation: str, tokens: int) -> int:
    """The length of a sequence of ``tokens`` with the padding that an implementation wants."""
    multiple = MULTIPLES.get(implementation, 1)
    return -(-tokens // multiple) * multiple


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    implementation: str = "xla",
    *,
    causal: bool = False,
    tokens: int | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(head width)) v, of every token's query.

    Args:
      q, k, v: [B, N, heads, head width].
      implementation: a key of ``IMPLEMENTATIONS``.
      causal: a query sees the keys of its own position and of those before it.
      tokens: number of leading tokens that are no padding; what comes out of padding means nothing.

    Returns:
      [B, N, heads, head width] in the dtype of ``q``.
    """
    tokens = k.shape[1] if tokens is None else tokens
    return IMPLEMENTATIONS[implementation](q, k, v, causal=causal, tokens=tokens)


def attend_one(
    q: jax.Array, k: jax.Array, v: jax.Array, last: jax.Array | int | None = None
) -> jax.Array:
    """Attention of few queries: [B, Q, heads, head width] -> the same shape.

    Args:
      q: [B, Q, heads, head width].
      k, v: [B, N, heads, head width].
      last: position of the last key that a row's queries see: one for all rows, or int[B]; None:
        all are seen.
    """
    mask = None
    if last is not None:
        last = jnp.broadcast_to(last, k.shape[:1])
        mask = (jnp.arange(k.shape[1]) <= last[:, None])[:, None, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask)
