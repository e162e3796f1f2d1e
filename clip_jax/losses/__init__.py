"""The contrastive losses over the global batch: the only rooms that name collectives.

==========  =====================================================================================
dense       the whole B x B matrix from global arrays: the reference
all_gather  both towers' embeddings on every device, logits in chunks
ring        the texts passed from device to device: least memory, twice the bytes
==========  =====================================================================================

All have the same value and the same gradients. Examples of one *group* (say, two pictures with one
caption) can be kept from being each other's negatives. *Soft targets* of the softmax give a share
of each row's target to the other pairs of the batch, in proportion to how much their captions have
in common (see ``caption_topics``; after Gao et al. 2023, arXiv 2303.17561).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from clip_jax.losses import dense, sigmoid, softmax
from clip_jax.losses.dense import MAX_TOPICS, caption_topics, softmax_dense
from clip_jax.losses.shards import chunk_size
from clip_jax.runtime.mesh import batch_shards

__all__ = [
    "IMPLEMENTATIONS", "MAX_TOPICS", "NAMES", "build", "caption_topics", "choose", "chunk_size",
    "softmax_dense",
]  # fmt: skip

NAMES = ("softmax", "sigmoid")
IMPLEMENTATIONS = ("auto", "dense", "all_gather", "ring")

# (image_emb, text_emb, logit_scale, logit_bias, groups, topics) -> (loss, {"accuracy": ...})
LossFn = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]

_DENSE_LOGITS = 2**24  # of the whole matrix: 64 MiB in float32
_GATHERED_BYTES = 2**29  # of both towers' embeddings on one device


def choose(
    mesh: Mesh, batch: int, embed_dim: int, itemsize: int, topics: int = 0
) -> tuple[str, str]:
    """What "auto" stands for, and why, in words.

    Args:
      mesh: the mesh of the run.
      batch: global batch.
      embed_dim: width of the embeddings.
      itemsize: bytes of one of their numbers.
      topics: float32 numbers of a caption that go with them, for soft targets.
    """
    shards = batch_shards(mesh)
    logits, gathered = batch * batch, batch * (2 * embed_dim * itemsize + 4 * topics)
    if shards == 1 and logits <= _DENSE_LOGITS:
        return "dense", f"one batch shard, and its {4 * logits / 2**20:,.0f} MiB of logits fit"
    if gathered <= _GATHERED_BYTES or shards == 1:
        return "all_gather", (
            f"what is gathered of the global batch is {gathered / 2**20:,.0f} MiB a device, and "
            "gathering it moves the fewest bytes"
        )
    return "ring", (
        f"what is gathered of the global batch would be {gathered / 2**20:,.0f} MiB a device"
    )


def _softmax(function: Callable[..., Any]) -> LossFn:
    """A softmax loss, to which a bias of all logits makes no difference."""

    def loss(image_emb, text_emb, logit_scale, logit_bias, groups=None, topics=None):
        del logit_bias
        return function(image_emb, text_emb, logit_scale, groups, topics)

    return loss


def build(
    name: str, implementation: str, mesh: Mesh, *, soft: float = 0.0, chunk: int = 0,
    dtype: str = "float32",
) -> LossFn:  # fmt: skip
    """The loss that ``config.loss`` describes.

    Args:
      name, implementation: of ``NAMES`` and ``IMPLEMENTATIONS``, "auto" having been chosen.
      mesh: over whose batch axes the embeddings are sharded.
      soft: share of each target that goes to related pairs (softmax).
      chunk: logits' columns at a time (all_gather, ring); 0: chosen.
      dtype: of the embeddings that are gathered and multiplied; logits are float32.

    Raises:
      ValueError: no such loss, soft targets for the sigmoid, or chunks of the dense one; names the
        config key.
    """
    if name == "sigmoid" and soft:
        raise ValueError(f"loss.soft_targets={soft} needs loss.name='softmax'")
    if implementation == "dense" and chunk:
        raise ValueError(f"loss.chunk={chunk} needs loss.implementation='all_gather' or 'ring'")
    options: dict[str, Any] = {"chunk": chunk, "dtype": dtype}
    losses: dict[tuple[str, str], Callable[[], LossFn]] = {
        ("softmax", "dense"): lambda: _rounded(
            _softmax(functools.partial(dense.softmax_dense, soft=soft)), dtype
        ),
        ("softmax", "all_gather"): lambda: _softmax(softmax.all_gather(mesh, soft=soft, **options)),
        ("softmax", "ring"): lambda: _softmax(softmax.ring(mesh, soft=soft, **options)),
        ("sigmoid", "dense"): lambda: _rounded(sigmoid.dense, dtype),
        ("sigmoid", "all_gather"): lambda: sigmoid.all_gather(mesh, **options),
        ("sigmoid", "ring"): lambda: sigmoid.ring(mesh, **options),
    }
    if (name, implementation) not in losses:
        raise ValueError(
            f"loss.name={name!r} and loss.implementation={implementation!r} must be of {NAMES} "
            f"and {IMPLEMENTATIONS[1:]}"
        )
    return losses[name, implementation]()


def _rounded(loss: LossFn, dtype: str) -> LossFn:
    """``loss`` of embeddings rounded to ``dtype``, through which gradients pass unrounded."""

    def rounded(x: jax.Array) -> jax.Array:
        return x + jax.lax.stop_gradient(x.astype(dtype).astype(x.dtype) - x)

    def of_rounded(image_emb, text_emb, *rest):
        return loss(rounded(image_emb), rounded(text_emb), *rest)

    return loss if dtype == "float32" else of_rounded
