"""Transformer layers shared by the towers, with logical axis names on every parameter.

The initialisers are those of openai/CLIP: the paper gives none, the released code does
(``CLIP.initialize_parameters``; what it leaves alone has PyTorch's defaults).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from clip_jax.runtime.mesh import constrain

Dtype = jax.typing.DTypeLike


def quick_gelu(x: jax.Array) -> jax.Array:
    """The sigmoid approximation of GELU that OpenAI's weights were trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}

# What scan and remat may keep between the passes; "none" keeps all, "full" recomputes all.
REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
    "full": None,
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
}


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a model is computed; neither its parameters nor its numbers depend on the last two.

    Attributes:
      dtype: of activations and of the products' operands.
      scan_layers: compile one block and loop over it (quick to compile, slightly slower to run on
        CPU); without it the loop is unrolled.
      remat_policy: what the backward pass recomputes to save memory: "none", or a key of
        ``REMAT_POLICIES``.
    """

    dtype: Dtype = jnp.float32
    scan_layers: bool = False
    remat_policy: str = "none"

    def remat(self, block: type[nn.Module], in_scan: bool) -> type[nn.Module]:
        """``block`` with its rematerialisation, inside a scan or outside."""
        if self.remat_policy == "none":
            return block
        # In a scan the loop itself keeps XLA from undoing the rematerialisation.
        return nn.remat(block, policy=REMAT_POLICIES[self.remat_policy], prevent_cse=not in_scan)

    def stack(self, block: type[nn.Module], length: int, *collections: str) -> type[nn.Module]:
        """``length`` blocks one after the other, their ``collections`` of variables stacked."""
        return nn.scan(
            self.remat(block, self.scan_layers),
            variable_axes=dict.fromkeys(collections, 0),
            split_rngs={"params": True},
            length=length,
            unroll=1 if self.scan_layers else length,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )


def param(
    module: nn.Module,
    name: str,
    init: Initializer,
    axes: tuple[str | None, ...],
    shape: tuple[int, ...],
) -> jax.Array:
    """A float32 parameter of ``module`` with the logical names of its axes."""
    return module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)


def uniform(bound: float) -> Initializer:
    """U(-bound, bound)."""

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x: jax.Array, kernel: jax.Array, contract: int) -> jax.Array:
    """Contracts the last ``contract`` axes of ``x`` with the first ones of ``kernel``.

    Batch axes are merged before the products, in the gradient too: left to itself, XLA on CPU
    fuses the backward chain of the residual stream into a transpose that the weight gradient of
    unmerged axes needs, and a step takes a sixth longer.
    """
    lead = x.ndim - contract
    y = jnp.tensordot(_merged(x, lead), kernel, contract)
    return y.reshape(x.shape[:lead] + kernel.shape[contract:])


def _merged(x: jax.Array, lead: int) -> jax.Array:
    return x.reshape(-1, *x.shape[lead:])


def _matmul_fwd(x, kernel, contract):
    return matmul(x, kernel, contract), (x, kernel)


def _matmul_bwd(contract, residuals, dy):
    x, kernel = residuals
    lead = x.ndim - contract
    rows, drows = _merged(x, lead), _merged(dy, lead)
    outputs = tuple(range(1, drows.ndim))
    dx = jnp.tensordot(drows, kernel, (outputs, tuple(range(contract, kernel.ndim))))
    # A sum over thousands of rows: accumulated in float32 whatever the compute dtype.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    dkernel = jnp.tensordot(rows, drows, ((0,), (0,)), preferred_element_type=wide)
    return dx.reshape(x.shape), dkernel.astype(kernel.dtype)


matmul.defvjp(_matmul_fwd, _matmul_bwd)


class Dense(nn.Module):
    """Affine map of the last ``contract`` axes to ``features``, computed in ``dtype``.

    ``axes`` names the logical axes of the kernel (inputs first, then outputs). A call with a slice
    computes those of the first output axis alone.
    """

    features: tuple[int, ...]
    axes: tuple[str | None, ...]
    kernel_init: Initializer
    bias_init: Initializer | None = nn.initializers.zeros
    contract: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, part: slice = slice(None)) -> jax.Array:
        shape = x.shape[x.ndim - self.contract :] + self.features
        kernel = param(self, "kernel", self.kernel_init, self.axes, shape)
        kernel = kernel[(slice(None),) * self.contract + (part,)].astype(self.dtype)
        y = matmul(x.astype(self.dtype), kernel, self.contract)
        if self.bias_init is not None:
            # FSDP shards what is large; gathering a bias costs a collective and saves nothing.
            axes = tuple(None if a == "embed" else a for a in self.axes[self.contract :])
            bias = param(self, "bias", self.bias_init, axes, self.features)
            y = y + bias[part].astype(self.dtype)
        return y


class LayerNorm(nn.Module):
    """Layer normalisation in float32, cast back to the input's dtype."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm = nn.LayerNorm(
            epsilon=self.epsilon,
            dtype=jnp.promote_types(x.dtype, jnp.float32),
            use_fast_variance=False,  # E[x^2] - E[x]^2 cancels: not the reference's numbers
            scale_init=nn.with_logical_partitioning(nn.initializers.ones, (None,)),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, (None,)),
            name="norm",
        )
        return norm(x).astype(x.dtype)


class BlockInit(NamedTuple):
    """Initialisers of one residual block."""

    qkv: Initializer
    out: Initializer
    fc: Initializer
    proj: Initializer
    fc_bias: Initializer
    proj_bias: Initializer


def torch_block_init(width: int, mlp_width: int) -> BlockInit:
    """PyTorch's defaults, which openai/CLIP leaves in the image tower's blocks."""
    xavier = (6.0 / (width + 3 * width)) ** 0.5  # of the fused [3 * width, width] matrix
    fan_in, fan_mlp = width**-0.5, mlp_width**-0.5
    return BlockInit(
        qkv=uniform(xavier), out=uniform(fan_in), fc=uniform(fan_in), proj=uniform(fan_mlp),
        fc_bias=uniform(fan_in), proj_bias=uniform(fan_mlp),
    )  # fmt: skip


def gpt_block_init(width: int, mlp_width: int, layers: int) -> BlockInit:
    """The text tower's: output projections scaled down by depth, as in GPT-2."""
    normal = nn.initializers.normal
    residual = width**-0.5 * (2 * layers) ** -0.5
    return BlockInit(
        qkv=normal(width**-0.5), out=normal(residual), fc=normal((2 * width) ** -0.5),
        proj=normal(residual), fc_bias=uniform(width**-0.5), proj_bias=uniform(mlp_width**-0.5),
    )  # fmt: skip


def token_at(x: jax.Array, at: jax.Array | int) -> jax.Array:
    """One token of each row: [B, N, D] -> [B, 1, D], ``at`` one position for all or int[B]."""
    if isinstance(at, int):
        return x[:, at : at + 1]
    return jnp.take_along_axis(x, at[:, None, None], axis=1)


class Attention(nn.Module):
    """Multi-head attention with biases. [B, N, D] -> [B, N, D], or [B, Q, D] with fewer queries.

    Keys and values are those of all tokens, and so are the queries; with ``at`` (a position for
    all rows, or int[B]) that token is the only query; with ``query`` [B, Q, D] what is given is.
    """

    num_heads: int
    initial: BlockInit
    causal: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, at: jax.Array | int | None = None, query: jax.Array | None = None
    ) -> jax.Array:
        width = x.shape[-1]
        head = width // self.num_heads
        qkv = Dense(
            (3, self.num_heads, head), ("embed", None, "heads", None), self.initial.qkv,
            dtype=self.dtype, name="qkv",
        )  # fmt: skip
        mask = None
        if at is not None:
            query = token_at(x, at)
            if self.causal:
                last = jnp.broadcast_to(at, x.shape[:1])
                mask = (jnp.arange(x.shape[1]) <= last[:, None])[:, None, None]
        if query is None:
            parts = qkv(x)
            q, k, v = parts[:, :, 0], parts[:, :, 1], parts[:, :, 2]
        else:
            parts = qkv(x, slice(1, 3))
            q, k, v = qkv(query, slice(0, 1))[:, :, 0], parts[:, :, 0], parts[:, :, 1]
        q, k, v = (constrain(t, "batch", None, "heads", None) for t in (q, k, v))
        causal = self.causal and query is None
        y = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal)
        return Dense(
            (width,), ("heads", None, "embed"), self.initial.out, contract=2,
            dtype=self.dtype, name="out",
        )(y)  # fmt: skip


class Block(nn.Module):
    """Pre-norm residual block: attention, then MLP. [B, N, D] -> [B, N, D].

    With ``at`` it gives one token a row, [B, 1, D], and computes the others' keys and values only.
    """

    num_heads: int
    mlp_width: int
    activation: str
    initial: BlockInit
    causal: bool = False
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, at: jax.Array | int | None = None) -> tuple[jax.Array, None]:
        x = constrain(x, "batch", None, None)
        attention = Attention(
            self.num_heads, self.initial, self.causal, self.dtype, name="attention"
        )
        y = attention(LayerNorm(self.epsilon, name="norm_1")(x), at)
        x = constrain(y + (x if at is None else token_at(x, at)), "batch", None, None)
        y = LayerNorm(self.epsilon, name="norm_2")(x)
        y = mlp(y, self.mlp_width, self.activation, self.initial, self.dtype)
        return constrain(x + y, "batch", None, None), None


def mlp(x: jax.Array, width: int, activation: str, initial: BlockInit, dtype: Dtype) -> jax.Array:
    """Two layers, ``fc`` and ``proj``, of the module that calls it. [B, N, D] -> [B, N, D]."""
    y = Dense((width,), ("embed", "mlp"), initial.fc, initial.fc_bias, dtype=dtype, name="fc")(x)
    y = ACTIVATIONS[activation](constrain(y, "batch", None, "mlp"))
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
        settings = (
            self.num_heads, self.mlp_width, self.activation, self.initial, self.causal,
            self.epsilon, self.execution.dtype,
        )  # fmt: skip
        if self.num_layers > 1:
            stack = self.execution.stack(Block, self.num_layers - 1, "params")
            x, _ = stack(*settings, name="blocks")(x, None)
        # Not rematerialised: the backward pass starts here, and needs what was just computed.
        x, _ = Block(*settings, name="last_block")(x, at)
        return x if at is None else x[:, 0]
