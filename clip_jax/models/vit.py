"""Vision Transformer image tower (paper section 2.4; openai/CLIP ``VisionTransformer``).

Two ways to pool: the class token of the paper, or the attention of SigLIP (Zhai et al. 2023, arXiv
2303.15343; big_vision's "map"), whose tower has no class token, no norm in front of the blocks and
no projection, and a bias on its patches.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from clip_jax.models import encoder, layers
from clip_jax.models.execution import Dtype, Execution
from clip_jax.runtime.mesh import constrain


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes of a Vision Transformer: pixels for ``image_size`` and ``patch_size``.

    ``pool`` is "cls" or "map". ``stem`` holds the channels of 3 x 3 convolutions of stride 2
    between the pixels and the patches (Xiao et al. 2021, arXiv 2106.14881). The paper's models
    have none.
    """

    image_size: int
    patch_size: int
    width: int
    num_layers: int
    num_heads: int
    mlp_ratio: float = 4.0
    position_init: str = "normal"
    stem: tuple[int, ...] = ()
    pool: str = "cls"

    @property
    def tokens(self) -> int:
        """Sequence length: patches plus the class token, if there is one."""
        return (self.image_size // self.patch_size) ** 2 + (self.pool == "cls")

    def patches_kept(self, patch_dropout: float) -> int:
        """Patches of an image that are left where this share of them is dropped."""
        patches = (self.image_size // self.patch_size) ** 2
        return max(1, round(patches * (1 - patch_dropout)))

    @property
    def mlp_width(self) -> int:
        """Hidden width of the MLPs."""
        return round(self.width * self.mlp_ratio)


POOLS = ("cls", "map")


def _normal_positions(c: ViTConfig) -> Initializer:
    return nn.initializers.normal(c.width**-0.5)


def _sincos_positions(c: ViTConfig) -> Initializer:
    """Sines and cosines of rows and columns (He et al. 2021, arXiv 2111.06377), then learned:
    neighbours start alike, which datasets of thousands of images are too small to teach.
    """

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        side = c.image_size // c.patch_size
        waves = 50.0 ** -(jnp.arange(c.width // 4) / (c.width // 4)) * 1.5
        angles = jnp.arange(side)[:, None] * waves
        one_axis = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
        rows = jnp.repeat(one_axis, side, axis=0)
        columns = jnp.tile(one_axis, (side, 1))
        grid = jnp.concatenate([rows, columns], axis=1).astype(dtype)
        first = nn.initializers.normal(c.width**-0.5)(key, (shape[0] - side**2, shape[1]), dtype)
        return jnp.concatenate([first, grid])

    return init


# How the position embeddings start: "normal" is openai/CLIP's.
POSITIONS: dict[str, Callable[[ViTConfig], Initializer]] = {
    "normal": _normal_positions,
    "sincos": _sincos_positions,
}


class ConvStem(nn.Module):
    """3 x 3 convolutions of stride 2, each followed by a ReLU. [B, H, W, 3] -> [B, H', W', C].

    Neighbouring pixels belong together: convolutions begin with what patches have to learn.
    """

    channels: tuple[int, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, channels in enumerate(self.channels):
            height, width = x.shape[1:3]
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            # Windows and one matmul: on CPU a tenth of a step faster than XLA's convolution.
            rows = [x[:, r : r + height : 2] for r in range(3)]
            windows = jnp.stack(
                [row[:, :, c : c + width : 2] for row in rows for c in range(3)], axis=3
            )
            x = layers.Dense(
                (channels,), (None, None, None, "embed"), nn.initializers.he_normal(),
                contract=3, dtype=self.dtype, name=f"conv_{i}",
            )(windows.reshape(*windows.shape[:3], 3, 3, x.shape[-1]))  # fmt: skip
            x = constrain(nn.relu(x), "batch", None, None, None)
        return x


class MapPool(nn.Module):
    """A learned query attends to all tokens, then an MLP. [B, N, D] -> [B, D]."""

    num_heads: int
    mlp_width: int
    activation: str
    initial: layers.BlockInit
    norm_epsilon: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        normal = nn.initializers.normal(width**-0.5)
        query = layers.param(self, "query", normal, ("embed",), (width,))
        query = jnp.broadcast_to(query.astype(x.dtype), (x.shape[0], 1, width))
        attention = encoder.Attention(
            self.num_heads, self.initial, execution=Execution(self.dtype), name="attention"
        )
        x = attention(x, query=query)
        y = layers.LayerNorm(self.norm_epsilon, name="norm")(x)
        y = encoder.mlp(y, self.mlp_width, self.activation, self.initial, self.dtype)
        return (x + y)[:, 0]


class Microbatch(NamedTuple):
    """A part of a batch; its examples draw the same random numbers as in the whole batch.

    Attributes:
      rows: int32[b], indices of these examples in the whole batch.
      batch: examples of the whole batch.
    """

    rows: jax.Array
    batch: int


class ViT(nn.Module):
    """Images float[B, H, W, 3] (normalised) -> float32[B, E], not L2-normalised.

    ``patch_dropout`` drops that share of the patches of each image in training (Li et al. 2023,
    arXiv 2212.00794); it draws from the ``patch_dropout`` rng stream.
    """

    config: ViTConfig
    embed_dim: int
    activation: str
    norm_epsilon: float = 1e-5
    execution: Execution = Execution()
    patch_dropout: float = 0.0

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, microbatch: Microbatch | None = None
    ) -> jax.Array:
        c = self.config
        if images.shape[1:] != (c.image_size, c.image_size, 3):
            raise ValueError(f"images {images.shape} do not fit image_size={c.image_size}")
        x = images.astype(self.execution.dtype)
        if c.stem:
            x = ConvStem(c.stem, self.execution.dtype, name="stem")(x)
        x = constrain(self._patches(x), "batch", None, None)
        init, shape = POSITIONS[c.position_init](c), (c.tokens, c.width)
        positions = layers.param(self, "position_embedding", init, (None, "embed"), shape)
        x = x + positions[-x.shape[1] :].astype(self.execution.dtype)
        if train and self.patch_dropout > 0:
            x = self._drop_patches(x, microbatch)
        initial = layers.torch_block_init(c.width, c.mlp_width)
        blocks = encoder.Encoder(
            c.num_layers, c.num_heads, c.mlp_width, self.activation, initial,
            epsilon=self.norm_epsilon, execution=self.execution, name="encoder",
        )  # fmt: skip
        norm_post = layers.LayerNorm(self.norm_epsilon, name="norm_post")
        if c.pool == "map":
            x = norm_post(blocks(x, None))
            return MapPool(
                c.num_heads, c.mlp_width, self.activation, initial, self.norm_epsilon,
                self.execution.dtype, name="pool",
            )(x).astype(jnp.float32)  # fmt: skip
        x = norm_post(blocks(self._with_class_token(x, positions[0]), 0))
        self.sow("intermediates", "unprojected", x)  # see clip.probe_features
        x = layers.Dense(
            (self.embed_dim,), ("embed", None), nn.initializers.normal(c.width**-0.5),
            bias_init=None, dtype=self.execution.dtype, name="projection",
        )(x)  # fmt: skip
        return x.astype(jnp.float32)

    def _with_class_token(self, x: jax.Array, position: jax.Array) -> jax.Array:
        """Prepends the class token and normalises: [B, N, D] -> [B, N + 1, D]."""
        width = self.config.width
        normal = nn.initializers.normal(width**-0.5)
        token = layers.param(self, "class_embedding", normal, ("embed",), (width,))
        first = (token + position).astype(self.execution.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, width)), x], axis=1)
        norm = layers.LayerNorm(self.norm_epsilon, name="norm_pre")
        return norm(constrain(x, "batch", None, None))

    def _patches(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, N, D]: a convolution of stride patch_size, as one matmul."""
        c = self.config
        n = c.image_size // c.patch_size
        p = c.patch_size // 2 ** len(c.stem)
        channels = x.shape[-1]
        # A convolution leaves out a remainder at the right and bottom edges, and so does this.
        x = x[:, : n * p, : n * p].reshape(-1, n, p, n, p, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, n * n, p, p, channels)
        bound = (channels * p * p) ** -0.5
        return layers.Dense(
            (c.width,), (None, None, None, "embed"), layers.uniform(bound),
            bias_init=layers.uniform(bound) if c.pool == "map" else None, contract=3,
            dtype=self.execution.dtype, name="patch_embedding",
        )(x)  # fmt: skip

    def _drop_patches(self, x: jax.Array, microbatch: Microbatch | None) -> jax.Array:
        """Keeps a random subset of patches, the same number in every image."""
        keep = self.config.patches_kept(self.patch_dropout)
        examples = x.shape[0] if microbatch is None else microbatch.batch
        noise = jax.random.uniform(self.make_rng("patch_dropout"), (examples, x.shape[1]))
        if microbatch is not None:
            noise = noise[microbatch.rows]
        kept = jnp.sort(jax.lax.top_k(noise, keep)[1], axis=1)
        return jnp.take_along_axis(x, kept[..., None], axis=1)
