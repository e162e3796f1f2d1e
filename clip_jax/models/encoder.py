"""The Transformer encoder of both towers (paper section 2.4)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from clip_jax.models import attention
from clip_jax.models.execution import Dtype, Execution, named
from clip_jax.models.layers import ACTIVATIONS, BlockInit, Dense, LayerNorm
from clip_jax.runtime.mesh import constrain


def token_at(x: jax.Array, at: jax.Array | int) -> jax.Array:
    """One token of each row: [B, N, D] -> [B, 1, D], ``at`` one position for all or int[B]."""
    if isinstance(at, int):
        return x[:, at : at + 1]
    return jnp.take_along_axis(x, at[:, None, None], axis=1)


class Attention(nn.Module):
    """Multi-head attention with biases. [B, N, D] -> [B, N, D], or [B, Q, D] with fewer queries.

    Keys and values are those of all tokens, and so are the queries; with ``at`` (a position for
    all rows, or int[B]) that token is the only query; with ``query`` [B, Q, D] what is given is.
    ``tokens`` are followed by padding, which no query sees; 0: there is none.
    """

    num_heads: int
    initial: BlockInit
    causal: bool = False
    execution: Execution = Execution()
    tokens: int = 0

    @nn.compact
    def __call__(
        self, x: jax.Array, at: jax.Array | int | None = None, query: jax.Array | None = None
    ) -> jax.Array:
        width = x.shape[-1]
        head = width // self.num_heads
        dtype = self.execution.dtype
        qkv = Dense(
            (3, self.num_heads, head), ("embed", None, "heads", None), self.initial.qkv,
            dtype=dtype, name="qkv",
        )  # fmt: skip
        last = self.tokens - 1 if self.tokens else None
        if at is not None:
            query = token_at(x, at)
            last = at if self.causal else last
        if query is None:
            parts = named(qkv(x), "qkv")
            q, k, v = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
        else:
            parts = qkv(x, slice(1, 3))
            q, k, v = qkv(query, slice(0, 1))[:, :, 0], parts[:, :, 0], parts[:, :, 1]
        q, k, v = (constrain(t, "batch", None, "heads", None) for t in (q, k, v))
        if query is None:
            y = attention.attend(
                q, k, v, self.execution.attention, causal=self.causal, tokens=self.tokens or None
            )
        else:
            y = attention.attend_one(q, k, v, last)
        return Dense(
            (width,), ("heads", None, "embed"), self.initial.out, contract=2, dtype=dtype,
            name="out",
        )(named(y, "attended"))  # fmt: skip


class Block(nn.Module):
    """Pre-norm residual block: attention, then MLP. [B, N, D] -> [B, N, D].

    With ``at`` it gives one token a row, [B, 1, D], and computes the others' keys and values only.
    ``tokens`` as in ``Attention``.
    """

    num_heads: int
    mlp_width: int
    activation: str
    initial: BlockInit
    causal: bool = False
    epsilon: float = 1e-5
    execution: Execution = Execution()
    tokens: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, at: jax.Array | int | None = None) -> tuple[jax.Array, None]:
        x = constrain(x, "batch", None, None)
        y = Attention(
            self.num_heads, self.initial, self.causal, self.execution, self.tokens,
            name="attention",
        )(LayerNorm(self.epsilon, name="norm_1")(x), at)  # fmt: skip
        x = constrain(y + (x if at is None else token_at(x, at)), "batch", None, None)
        x = named(x, "residual")
        y = LayerNorm(self.epsilon, name="norm_2")(x)
        y = mlp(y, self.mlp_width, self.activation, self.initial, self.execution.dtype)
        return constrain(x + y, "batch", None, None), None


def mlp(x: jax.Array, width: int, activation: str, initial: BlockInit, dtype: Dtype) -> jax.Array:
    """Two layers, ``fc`` and ``proj``, of the module that calls it. [B, N, D] -> [B, N, D]."""
    y = Dense((width,), ("embed", "mlp"), initial.fc, initial.fc_bias, dtype=dtype, name="fc")(x)
    y = ACTIVATIONS[activation](named(constrain(y, "batch", None, "mlp"), "hidden"))
    return Dense(
        (x.shape[-1],), ("mlp", "embed"), initial.proj, initial.proj_bias, dtype=dtype, name="proj"
    )(y)


class Encoder(nn.Module):
    """A stack of blocks, of whose output one token a row is wanted. [B, N, D] -> [B, D].

    The last block computes that token alone, from the keys and values of all: the same numbers
    for a sixth of its work. With ``at`` None all tokens are wanted, [B, N, D]. The parameters of
    the other blocks are stacked [layers - 1, ...] whether or not the loop is rolled.
    """

    num_layers: int
    num_heads: int
    mlp_width: int
    activation: str
    initial: BlockInit
    causal: bool = False
    epsilon: float = 1e-5
    execution: Execution = Execution()

    @nn.compact
    def __call__(self, x: jax.Array, at: jax.Array | int | None) -> jax.Array:
        tokens = x.shape[1]
        padding = attention.padded_length(self.execution.attention, tokens) - tokens
        if padding:
            x = jnp.pad(x, ((0, 0), (0, padding), (0, 0)))
        settings = (
            self.num_heads, self.mlp_width, self.activation, self.initial, self.causal,
            self.epsilon, self.execution, tokens if padding else 0,
        )  # fmt: skip
        if self.num_layers > 1:
            stack = self.execution.stack(Block, self.num_layers - 1, "params")
            x, _ = stack(*settings, name="blocks")(x, None)
        # Not rematerialised: the backward pass starts here, and needs what was just computed.
        x, _ = Block(*settings, name="last_block")(x, at)
        return x[:, :tokens] if at is None else x[:, 0]
