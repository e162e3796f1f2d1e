"""The losses by name, and the choice of an implementation for a config and a mesh."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clip_jax.losses import dense, sigmoid, softmax
from clip_jax.losses.collectives import LossFn, LossOptions, chunk_size
from clip_jax.models.variants import ClipConfig
from clip_jax.runtime.mesh import batch_shards

_DENSE_LOGITS = 2**24  # of the whole matrix: 64 MiB in float32
_GATHERED_BYTES = 2**29  # of both towers' embeddings on one device


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss that a config can name.

    Attributes:
      implementations: name -> factory, (mesh, options) -> the loss as a function.
      soft_targets: whether it can give a share of a target to related pairs.
      logit_bias: whether it needs a model with ``logit_bias``.
      clip_scale: whether the logit scale is kept within 1 to 100 (paper section 2.5).
    """

    implementations: Mapping[str, Callable[[Mesh, LossOptions], LossFn]]
    soft_targets: bool = False
    logit_bias: bool = False
    clip_scale: bool = True


def _rounded(loss: LossFn, dtype: str) -> LossFn:
    """``loss`` of embeddings rounded to ``dtype``, through which gradients pass unrounded."""

    def rounded(x: jax.Array) -> jax.Array:
        return x + jax.lax.stop_gradient(x.astype(dtype).astype(x.dtype) - x)

    def of_rounded(image_emb, text_emb, *rest):
        return loss(rounded(image_emb), rounded(text_emb), *rest)

    return loss if dtype == "float32" else of_rounded


def _softmax_dense(mesh: Mesh, options: LossOptions) -> LossFn:
    del mesh

    def loss(image_emb, text_emb, logit_scale, logit_bias, groups=None, topics=None):
        del logit_bias  # of all logits: it makes no difference
        return dense.softmax_dense(
            image_emb, text_emb, logit_scale, groups, topics, soft=options.soft
        )

    return _rounded(loss, options.dtype)


LOSSES: dict[str, Loss] = {
    "softmax": Loss(
        {"dense": _softmax_dense, "all_gather": softmax.all_gather, "ring": softmax.ring},
        soft_targets=True,
    ),
    "sigmoid": Loss(
        {
            "dense": lambda mesh, options: _rounded(sigmoid.dense, options.dtype),
            "all_gather": sigmoid.all_gather,
            "ring": sigmoid.ring,
        },
        logit_bias=True,
        clip_scale=False,
    ),
}
NAMES = tuple(LOSSES)  # of the package's own
IMPLEMENTATIONS = ("auto", "dense", "all_gather", "ring")


def choose(
    mesh: Mesh, batch: int, embed_dim: int, itemsize: int, topics: int = 0
) -> tuple[str, str]:
    """What "auto" stands for, and why, in words.

    Args:
      mesh, batch, embed_dim: mesh, global batch and embedding width of the run.
      itemsize: bytes of a number of an embedding.
      topics: float32 numbers of a caption that go with it, for soft targets.
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


def build(name: str, implementation: str, mesh: Mesh, **options: float | str) -> LossFn:
    """A loss by its name.

    Args:
      name: of ``LOSSES``.
      implementation: one of its, "auto" having been chosen.
      mesh: over whose batch axes the embeddings are sharded.
      **options: fields of ``LossOptions``.

    Raises:
      ValueError: no such loss, soft targets for one that has none, or chunks of the dense one;
        names the config key.
    """
    made = LossOptions(**options)
    if name not in LOSSES or implementation not in LOSSES[name].implementations:
        legal = "; ".join(f"{k}: {', '.join(v.implementations)}" for k, v in LOSSES.items())
        raise ValueError(
            f"loss.name={name!r} and loss.implementation={implementation!r} must be one of {legal}"
        )
    loss = LOSSES[name]
    if made.soft and not loss.soft_targets:
        raise ValueError(f"loss.soft_targets={made.soft} needs loss.name='softmax'")
    if implementation == "dense" and made.chunk:
        raise ValueError(
            f"loss.chunk_size={made.chunk} needs loss.implementation='all_gather' or 'ring'"
        )
    return loss.implementations[implementation](mesh, made)


def from_config(config: ConfigDict, model: ClipConfig, mesh: Mesh) -> tuple[LossFn, str]:
    """The loss that a run's config describes.

    Returns:
      The loss; and its name and implementation, with the reason for that one, in words.

    Raises:
      ValueError: its options do not go together, or not with the model; names the config keys.
    """
    c, batch = config.loss, config.train.batch_size
    loss = LOSSES.get(c.name)
    if loss is not None and loss.logit_bias and not model.logit_bias:
        raise ValueError(
            f"loss.name={c.name!r} needs model.logit_bias=True, which SigLIP's variants have"
        )
    if c.chunk_size and batch % c.chunk_size:
        raise ValueError(f"loss.chunk_size={c.chunk_size} does not divide train.batch_size={batch}")
    implementation, why = c.implementation, "loss.implementation"
    if implementation == "auto":
        if loss is not None and len(loss.implementations) == 1:
            (implementation,), why = loss.implementations, "its only implementation"
        else:
            topics = min(model.text.vocab_size, dense.MAX_TOPICS) if c.soft_targets else 0
            itemsize = jnp.dtype(c.dtype).itemsize
            implementation, why = choose(mesh, batch, model.embed_dim, itemsize, topics)
    if implementation in ("all_gather", "ring"):
        each = batch // batch_shards(mesh)
        chunk_size(each, batch if implementation == "all_gather" else each, c.chunk_size)
    loss_fn = build(
        c.name, implementation, mesh, soft=c.soft_targets, chunk=c.chunk_size, dtype=c.dtype
    )
    return loss_fn, f"{c.name}, {implementation} ({why})"
