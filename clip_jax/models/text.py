"""Transformer text tower (paper section 2.4; openai/CLIP ``encode_text``).

The paper's is causal and pools at the end-of-text token. SigLIP's (Zhai et al. 2023, arXiv
2303.15343) is bidirectional, pools at the last position, padding or not, and its projection has a
bias.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from clip_jax.models import layers
from clip_jax.models.encoder import Encoder
from clip_jax.models.execution import Execution
from clip_jax.runtime.mesh import constrain


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Sizes of the text tower. ``pool`` is "eot", the feature at ``eot_id``, or "last"."""

    width: int
    num_layers: int
    num_heads: int
    context_length: int = 77
    vocab_size: int = 49408
    eot_id: int = 49407
    mlp_ratio: float = 4.0
    causal: bool = True
    pool: str = "eot"

    @property
    def mlp_width(self) -> int:
        """Hidden width of the MLPs."""
        return round(self.width * self.mlp_ratio)

    @property
    def sees_padding(self) -> bool:
        """Whether what follows a text's end token changes its feature."""
        return not (self.causal and self.pool == "eot")

    @property
    def static_lengths(self) -> tuple[int, ...]:
        """Lengths at which the tower is compiled, ascending; the last is the context length.

        A causal tower that pools at the end token gives the same numbers without the padding.
        """
        shorter = () if self.sees_padding else SHORTER
        return (*(n for n in shorter if n < self.context_length), self.context_length)

    def static_length(self, longest: int) -> int:
        """The least static length that holds texts of up to ``longest`` tokens."""
        return next(n for n in self.static_lengths if n >= longest)

    def longest(self, tokens: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
        """Tokens of the longest text of int32[B, L], its end token included: int[].

        Raises:
          ValueError: ``tokens`` is longer than the context.
        """
        if tokens.shape[1] > self.context_length:
            raise ValueError(f"tokens {tokens.shape} exceed context_length={self.context_length}")
        return (tokens == self.eot_id).argmax(1).max() + 1


POOLS = ("eot", "last")
# Static lengths below the context length: each is one more program, compiled when it is needed.
SHORTER = (16, 32, 48)


class TextTransformer(nn.Module):
    """Tokens int32[B, L] -> float32[B, E], not L2-normalised.

    Pooled at "eot", the feature is that of the first ``eot_id``: an explicit id, because the
    reference's argmax over ids breaks with any vocabulary whose end token is not its largest id.
    """

    config: TextConfig
    embed_dim: int
    activation: str
    norm_epsilon: float = 1e-5
    execution: Execution = Execution()

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        c = self.config
        if tokens.shape[1] > c.context_length:
            raise ValueError(f"tokens {tokens.shape} exceed context_length={c.context_length}")
        normal = nn.initializers.normal
        table = layers.param(
            self, "token_embedding", normal(0.02), ("vocab", "embed"), (c.vocab_size, c.width)
        )
        positions = layers.param(
            self, "position_embedding", normal(0.01), (None, "embed"), (c.context_length, c.width)
        )
        # Looked up in the whole table: from a sharded one XLA would move activations instead.
        table = constrain(table.astype(self.execution.dtype), None, None)
        x = table[tokens] + positions[: tokens.shape[1]].astype(self.execution.dtype)
        x = constrain(x, "batch", None, None)
        # Of several end tokens the first.
        end = jnp.argmax(tokens == c.eot_id, axis=1) if c.pool == "eot" else tokens.shape[1] - 1
        x = Encoder(
            c.num_layers, c.num_heads, c.mlp_width, self.activation,
            layers.gpt_block_init(c.width, c.mlp_width, c.num_layers), c.causal, self.norm_epsilon,
            self.execution, name="encoder",
        )(x, end)  # fmt: skip
        x = layers.LayerNorm(self.norm_epsilon, name="norm_final")(x)
        x = layers.Dense(
            (self.embed_dim,), ("embed", None), normal(c.width**-0.5),
            bias_init=nn.initializers.zeros if c.pool == "last" else None,
            dtype=self.execution.dtype, name="projection",
        )(x)  # fmt: skip
        return x.astype(jnp.float32)
