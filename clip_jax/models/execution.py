"""How a model is computed: precision, loops, kernels, and what the backward pass recomputes.

The backward pass needs the inputs of every product. Normalisations and activation functions keep
their own input alone, whatever the policy: what they need beside it is cheap to compute again.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name as named

__all__ = ["REMAT_POLICIES", "Dtype", "Execution", "named"]

Dtype = jax.typing.DTypeLike

# What the blocks name (with ``named``): queries, keys and values; the attention's output; the
# residual stream between attention and MLP; the MLP's first product; a convolution's output.
_ATTENDED = ("attended", "residual")
_ALL_PRODUCTS = ("qkv", "hidden", "convolution", *_ATTENDED)
_only = jax.checkpoint_policies.save_only_these_names

# What the backward pass of a block recomputes from what it keeps; "none" keeps everything. From
# little to much: the normalisations and activations; also the MLP's first product; also the
# queries, keys and values; also the attention ("dots" keeps the products of weights alone, and
# nothing between them); the whole block. A ResNet's blocks have but convolutions to keep.
REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
    "elementwise": _only(*_ALL_PRODUCTS),
    "mlp": _only("qkv", *_ATTENDED),
    "projections": _only(*_ATTENDED),
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "full": None,
}


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a model is computed; only ``dtype`` changes its numbers beyond their rounding.

    Attributes:
      dtype: of activations and of the products' operands.
      scan_layers: compile one block and loop over it: quick to compile, and slower to run, because
        what the backward pass needs is copied into stacks and out of them. Without it the loop is
        unrolled.
      remat_policy: what the backward pass recomputes to save memory: "none", or a key of
        ``REMAT_POLICIES``.
      attention: a key of ``attention.IMPLEMENTATIONS``.
    """

    dtype: Dtype = jnp.float32
    scan_layers: bool = False
    remat_policy: str = "none"
    attention: str = "xla"

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
