"""Modified ResNet image tower (paper section 2.4; openai/CLIP ``ModifiedResNet``).

Three changes to ResNet-50 and its kin: a stem of three convolutions with an average pool (the
"-D" of He et al. 2019, arXiv 1812.01187), average pools in front of every convolution that would
stride (Zhang 2019, arXiv 1904.11486, "rect-2"), and attention in place of the last average pool.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from clip_jax.models import layers
from clip_jax.models.execution import Dtype, Execution, named
from clip_jax.models.vit import Microbatch
from clip_jax.runtime.mesh import constrain

EXPANSION = 4  # output channels of a bottleneck block per channel of its middle convolution


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a modified ResNet: ``image_size`` in pixels, ``num_layers`` (blocks) of each stage.

    ``width`` is that of the first stage, ``num_heads`` those of the attention pool.
    """

    image_size: int
    num_layers: tuple[int, ...]
    width: int
    num_heads: int

    @property
    def stride(self) -> int:
        """Pixels of the image per cell of the last feature map."""
        return 4 * 2 ** (len(self.num_layers) - 1)

    @property
    def features(self) -> int:
        """Channels of the last feature map."""
        return self.width * 2 ** (len(self.num_layers) - 1) * EXPANSION

    @property
    def tokens(self) -> int:
        """Tokens of the attention pool: cells of the last feature map plus their mean."""
        return (self.image_size // self.stride) ** 2 + 1


class BatchNorm(nn.Module):
    """Batch normalisation as PyTorch's: epsilon 1e-5, the running variance is the unbiased one.

    In training the statistics are those of ``group`` consecutive examples of the global batch
    (0: of all), and the running ones move by a tenth towards their mean over the groups. The
    group is a number of examples and not of devices, so that a run does not change its numbers
    with its mesh. Statistics are float32 whatever the compute dtype.

    Raises:
      ValueError: the batch is not divisible by ``group``.
    """

    group: int = 0
    scale_init: Initializer = nn.initializers.ones
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = (x.shape[-1],)
        scale = layers.param(self, "scale", self.scale_init, (None,), channels)
        bias = layers.param(self, "bias", nn.initializers.zeros, (None,), channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if not train:
            return _affine(x, mean.value, var.value, scale, bias)
        group = self.group or x.shape[0]
        if x.shape[0] % group:
            raise ValueError(
                f"model.batch_norm_group={group} does not divide the batch of {x.shape[0]}"
            )
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        grouped = wide.reshape(-1, group, *x.shape[1:])
        batch_mean = grouped.mean((1, 2, 3), keepdims=True)
        # In two passes: E[x^2] - E[x]^2 cancels, and is not the reference's number.
        batch_var = jnp.square(grouped - batch_mean).mean((1, 2, 3), keepdims=True)
        if not self.is_initializing():
            count = group * x.shape[1] * x.shape[2]
            unbiased = batch_var.mean((0, 1, 2, 3)) * (count / max(count - 1, 1))
            mean.value += self.momentum * (batch_mean.mean((0, 1, 2, 3)) - mean.value)
            var.value += self.momentum * (unbiased - var.value)
        y = _affine(grouped, batch_mean, batch_var, scale, bias)
        return y.reshape(x.shape).astype(x.dtype)


def _affine(x, mean, var, scale, bias):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return ((wide - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias).astype(x.dtype)


def _pool(x: jax.Array, size: int) -> jax.Array:
    return nn.avg_pool(x, (size, size), strides=(size, size)) if size > 1 else x


class Convolution(nn.Module):
    """Square convolution without bias, zero-padded to keep the size; PyTorch's initialisation."""

    channels: int
    size: int
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bound = (self.size * self.size * x.shape[-1]) ** -0.5
        y = nn.Conv(
            self.channels, (self.size, self.size), self.stride, padding=self.size // 2,
            use_bias=False, dtype=self.dtype, name="conv",
            kernel_init=nn.with_logical_partitioning(
                layers.uniform(bound), (None, None, None, "embed")
            ),
        )(x)  # fmt: skip
        return named(constrain(y, "batch", None, None, None), "convolution")


class Bottleneck(nn.Module):
    """Residual block: 1 x 1, 3 x 3, 1 x 1 convolutions. [B, H, W, C] -> [B, H/s, W/s, 4 width].

    All convolutions have stride 1; a block that strides averages before its last convolution and
    on its shortcut. The last gain starts at 0, so that a block starts as the identity.
    """

    width: int
    stride: int
    train: bool
    group: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, None]:
        def conv(channels, size, name):
            return Convolution(channels, size, dtype=self.dtype, name=name)

        def norm(y, name, init=nn.initializers.ones):
            return BatchNorm(self.group, init, name=name)(y, self.train)

        y = nn.relu(norm(conv(self.width, 1, "conv_1")(x), "norm_1"))
        y = nn.relu(norm(conv(self.width, 3, "conv_2")(y), "norm_2"))
        y = conv(EXPANSION * self.width, 1, "conv_3")(_pool(y, self.stride))
        y = norm(y, "norm_3", nn.initializers.zeros)
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = conv(EXPANSION * self.width, 1, "conv_shortcut")(_pool(x, self.stride))
            x = norm(x, "norm_shortcut")
        return nn.relu(x + y), None


class Stage(nn.Module):
    """Blocks of one width; the first changes size and channels, the others are stacked."""

    blocks: int
    width: int
    stride: int
    train: bool
    group: int = 0
    execution: Execution = Execution()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        settings = (self.train, self.group, self.execution.dtype)
        first = self.execution.remat(Bottleneck, in_scan=False)
        x, _ = first(self.width, self.stride, *settings, name="first_block")(x)
        if self.blocks > 1:
            stack = self.execution.stack(Bottleneck, self.blocks - 1, "params", "batch_stats")
            x, _ = stack(self.width, 1, *settings, name="blocks")(x)
        return x


class AttentionPool(nn.Module):
    """Attention with the mean cell as query and all cells as keys. [B, H, W, C] -> [B, E].

    The output projection is the tower's projection into the shared space; there is no other.
    """

    config: ResNetConfig
    embed_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        channels = x.shape[-1]
        scale = channels**-0.5
        normal, fan_in = nn.initializers.normal(scale), layers.uniform(scale)
        x = x.reshape(x.shape[0], -1, channels)
        positions = layers.param(
            self, "position_embedding", normal, (None, "embed"), (c.tokens, channels)
        )
        x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1) + positions.astype(x.dtype)
        x = constrain(x, "batch", None, None)

        def project(y, name):
            y = layers.Dense(
                (c.num_heads, channels // c.num_heads), ("embed", "heads", None), normal, fan_in,
                dtype=self.dtype, name=name,
            )(y)  # fmt: skip
            return constrain(y, "batch", None, "heads", None)

        y = jax.nn.dot_product_attention(
            project(x[:, :1], "query"), project(x, "key"), project(x, "value")
        )
        return layers.Dense(
            (self.embed_dim,), ("heads", None, "embed"), normal, fan_in, contract=2,
            dtype=self.dtype, name="out",
        )(y)[:, 0]  # fmt: skip


class ResNet(nn.Module):
    """Images float[B, H, W, 3] (normalised) -> float32[B, E], not L2-normalised."""

    config: ResNetConfig
    embed_dim: int
    batch_norm_group: int = 0
    execution: Execution = Execution()

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, microbatch: Microbatch | None = None
    ) -> jax.Array:
        del microbatch  # nothing is drawn at random
        c = self.config
        if images.shape[1:] != (c.image_size, c.image_size, 3):
            raise ValueError(f"images {images.shape} do not fit image_size={c.image_size}")
        x = images.astype(self.execution.dtype)
        for i, channels in enumerate((c.width // 2, c.width // 2, c.width)):
            stride = 2 if i == 0 else 1
            x = Convolution(channels, 3, stride, self.execution.dtype, name=f"stem_conv_{i + 1}")(x)
            x = nn.relu(BatchNorm(self.batch_norm_group, name=f"stem_norm_{i + 1}")(x, train))
        x = _pool(x, 2)
        for i, blocks in enumerate(c.num_layers):
            x = Stage(
                blocks, c.width * 2**i, 1 if i == 0 else 2, train, self.batch_norm_group,
                self.execution, name=f"stage_{i + 1}",
            )(x)  # fmt: skip
        x = AttentionPool(c, self.embed_dim, self.execution.dtype, name="attention_pool")(x)
        return x.astype(jnp.float32)
