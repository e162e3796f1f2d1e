"""Gradients of the contrastive loss: of the full batch, or cached, from micro-batches.

The loss needs all embeddings of the global batch at once, so its gradient cannot be accumulated
over micro-batches as a classifier's: fewer negatives would be left. Gradient caching goes twice
over the batch (Gao et al. 2021, arXiv 2101.06983, "GradCache"): first the embeddings of all
micro-batches, without keeping what a backward pass needs; then the loss and its derivatives by
embeddings, scale and bias; then each micro-batch again, with its part of those derivatives. The
result is the gradient of the full batch, for the memory of one micro-batch.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clip_jax.data.batch import Batch
from clip_jax.losses import LossFn
from clip_jax.models.clip import ClipModel, compute_copy
from clip_jax.models.vit import Microbatch
from clip_jax.runtime.mesh import PyTree, batch_shards, constrain

Metadata = tuple[jax.Array | None, jax.Array | None]


class Gradients(NamedTuple):
    """Loss and gradients of one batch.

    Attributes:
      loss: float32[].
      aux: metrics of the loss.
      batch_stats: running statistics after the batch.
      grads: by the parameters.
    """

    loss: jax.Array
    aux: dict[str, jax.Array]
    batch_stats: PyTree
    grads: PyTree


def compute(
    model: ClipModel,
    loss_fn: LossFn,
    variables: dict[str, PyTree],
    batch: Batch,
    rngs: Mapping[str, jax.Array],
    metadata: Metadata,
    microbatches: int = 1,
    shards: int = 1,
) -> Gradients:
    """The gradient of a batch, cached if there are several micro-batches.

    Args:
      model: what is trained.
      loss_fn: of the global batch, see ``losses.build``.
      variables: ``TrainState.variables``.
      batch: the global batch.
      rngs: keys of the model's random choices.
      metadata: groups and topics of the examples, each of which may be None.
      microbatches: their number, which divides the examples of a batch shard.
      shards: batch shards of the mesh. Each micro-batch takes its rows from all of them, so that
        no example changes its device.
    """
    if microbatches > 1:
        return _cached(model, loss_fn, variables, batch, rngs, metadata, microbatches, shards)

    def loss_of(params):
        params = compute_copy(model, params)
        output, changed = model.apply(
            {**variables, "params": params}, batch.images, batch.tokens, train=True,
            rngs=rngs, mutable=["batch_stats"],
        )  # fmt: skip
        loss, aux = loss_fn(*output, *metadata)
        return loss, (aux, changed.get("batch_stats", {}))

    (loss, (aux, stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
    return Gradients(loss, aux, stats, grads)


def _cached(model, loss_fn, variables, batch, rngs, metadata, microbatches, shards) -> Gradients:
    """The same gradient from micro-batches.

    Every example draws what it draws in the full batch, in both passes. Batch norms see one
    micro-batch at a time, so their groups must lie within one (see ``check``); the running
    statistics move as they do for the full batch.
    """
    params = variables["params"]
    size = len(batch.images)
    inputs = _split((batch.images, batch.tokens, jnp.arange(size)), microbatches, shards)

    def embed(params, microbatch):
        images, tokens, rows = microbatch
        params = compute_copy(model, params)  # the same in every turn: XLA does it once
        output, changed = model.apply(
            {**variables, "params": params}, images, tokens, train=True,
            microbatch=Microbatch(rows, size), rngs=rngs, mutable=["batch_stats"],
        )  # fmt: skip
        return (output.image_emb, output.text_emb), changed.get("batch_stats", {})

    _, (embeddings, stats) = jax.lax.scan(lambda _, xs: (None, embed(params, xs)), None, inputs)
    # All began at the same statistics, and moved towards their own by the same share.
    stats = jax.tree.map(lambda x: x.mean(0), stats)
    image_emb, text_emb = _join(embeddings, shards)
    head = {k: v for k, v in params.items() if k in ("logit_scale", "logit_bias")}

    def loss_of(image_emb, text_emb, head):
        scale, bias = jnp.exp(head["logit_scale"]), head.get("logit_bias")
        return loss_fn(image_emb, text_emb, scale, bias, *metadata)

    (loss, aux), by_inputs = jax.value_and_grad(loss_of, argnums=(0, 1, 2), has_aux=True)(
        image_emb, text_emb, head
    )
    by_embeddings = _split(by_inputs[:2], microbatches, shards)

    def second_pass(total, xs):
        microbatch, cotangents = xs
        _, pull = jax.vjp(lambda p: embed(p, microbatch)[0], params)
        return jax.tree.map(jnp.add, total, pull(cotangents)[0]), None

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, "float32")), params
    )
    grads, _ = jax.lax.scan(second_pass, zeros, (inputs, by_embeddings))
    return Gradients(loss, aux, stats, {**grads, **by_inputs[2]})


def _split(tree: PyTree, microbatches: int, shards: int) -> PyTree:
    """[B, ...] -> [microbatches, B / microbatches, ...], each from all batch shards."""

    def split(x: jax.Array) -> jax.Array:
        x = x.reshape(shards, microbatches, -1, *x.shape[1:]).swapaxes(0, 1)
        x = x.reshape(microbatches, -1, *x.shape[3:])
        return constrain(x, None, "batch", *([None] * (x.ndim - 2)))

    return jax.tree.map(split, tree)


def _join(tree: PyTree, shards: int) -> PyTree:
    """The inverse of ``_split``."""

    def join(x: jax.Array) -> jax.Array:
        microbatches = x.shape[0]
        x = x.reshape(microbatches, shards, -1, *x.shape[2:]).swapaxes(0, 1)
        x = x.reshape(-1, *x.shape[3:])
        return constrain(x, "batch", *([None] * (x.ndim - 1)))

    return jax.tree.map(join, tree)


def check(microbatches: int, batch: int, mesh: Mesh, group: int | None = None) -> None:
    """Check that a batch can be divided into micro-batches on a mesh.

    Args:
      microbatches, batch: config keys ``train.num_microbatches`` and ``train.batch_size``.
      mesh: where it is trained.
      group: ``model.batch_norm_group`` of a model with batch norms; None without any.

    Raises:
      ValueError: it cannot; names the config keys.
    """
    if microbatches == 1:
        return
    shards = batch_shards(mesh)
    key = f"train.num_microbatches={microbatches}"
    if batch % (shards * microbatches):
        raise ValueError(
            f"{key} does not divide the {batch // shards} examples of a batch shard "
            f"(train.batch_size={batch} over mesh.data * mesh.fsdp = {shards}); use a divisor of it"
        )
    each = batch // (shards * microbatches)
    if group is not None and (group == 0 or each % group):
        raise ValueError(
            f"{key} leaves {each} examples of a micro-batch on a batch shard, and batch norms need "
            f"their groups within one: make model.batch_norm_group={group} a divisor of {each}"
        )
