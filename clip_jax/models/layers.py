"""Layers shared by the towers, with logical axis names on every parameter.

The initialisers are those of openai/CLIP: the paper gives none, the released code does
(``CLIP.initialize_parameters``; what it leaves alone has PyTorch's defaults).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from clip_jax.models.execution import Dtype


def quick_gelu(x: jax.Array) -> jax.Array:
    """The sigmoid approximation of GELU that OpenAI's weights were trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


# The backward pass keeps their input alone; see ``execution``.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    name: jax.checkpoint(function, prevent_cse=False)
    for name, function in (
        ("quick_gelu", quick_gelu),
        ("gelu", functools.partial(jax.nn.gelu, approximate=False)),
        ("gelu_tanh", functools.partial(jax.nn.gelu, approximate=True)),
    )
}


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
    # XLA on CPU would compute the cotangent's chain of norms and residuals again in each of the
    # three products and sums that read it.
    dy = jax.lax.platform_dependent(dy, cpu=jax.lax.optimization_barrier, default=lambda y: y)
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


# Keeps its input alone for the backward pass, not a float32 copy of it; see ``execution``.
_Norm = nn.remat(nn.LayerNorm, prevent_cse=False)


class LayerNorm(nn.Module):
    """Layer normalisation in float32, cast back to the input's dtype."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        # A float32 input is what the backward pass needs already: there is no copy to avoid.
        norm = (nn.LayerNorm if x.dtype == wide else _Norm)(
            epsilon=self.epsilon,
            dtype=wide,
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
