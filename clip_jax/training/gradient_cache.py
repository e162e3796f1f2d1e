"""Gradients of the contrastive loss: of a batch at once, or in pieces where it does not fit.

The loss needs all embeddings of the global batch at once, so its gradient cannot be accumulated
over micro-batches as a classifier's: that would shrink the negatives. In pieces it goes twice over
the batch (Gao et al. 2021, arXiv 2101.06983, "GradCache"): first the embeddings of all pieces,
without keeping what a backward pass needs; then the loss and its derivatives by embeddings, scale
and bias; then each piece again, now with its share of those derivatives. The result is the gradient
of the whole batch, for the memory of one piece.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clip_jax.losses import LossFn
from clip_jax.models.clip import Clip
from clip_jax.models.vit import Piece
from clip_jax.runtime.mesh import batch_shards, constrain


class Gradients(NamedTuple):
    """What one batch says.

    Attributes:
      loss: float32[].
      aux: what the loss says beside its value.
      batch_stats: running statistics after the batch.
      grads: by the parameters.
    """

    loss: jax.Array
    aux: dict[str, jax.Array]
    batch_stats: Any
    grads: Any


def compute(
    model: Clip, loss_fn: LossFn, variables: dict[str, Any], batch: dict[str, Any],
    rngs: dict[str, jax.Array], facts: tuple[Any, Any], pieces: int = 1, shards: int = 1,
) -> Gradients:  # fmt: skip
    """The gradient of a whole batch, in pieces if there are several; see ``in_pieces``."""
    if pieces == 1:
        return at_once(model, loss_fn, variables, batch, rngs, facts)
    return in_pieces(model, loss_fn, variables, batch, rngs, facts, pieces=pieces, shards=shards)


def at_once(
    model: Clip, loss_fn: LossFn, variables: dict[str, Any], batch: dict[str, Any],
    rngs: dict[str, jax.Array], facts: tuple[Any, Any],
) -> Gradients:  # fmt: skip
    """The gradient of a whole batch.

    Args:
      model: what is trained.
      loss_fn: of the global batch, see ``losses.build``.
      variables: ``TrainState.variables``.
      batch: "images" [B, H, W, 3] and "tokens" [B, L].
      rngs: keys of the model's random choices.
      facts: groups and topics of the examples, each of which may be None.
    """

    def compute(params):
        output, changed = model.apply(
            {**variables, "params": params}, batch["images"], batch["tokens"], train=True,
            rngs=rngs, mutable=["batch_stats"],
        )  # fmt: skip
        loss, aux = loss_fn(*output, *facts)
        return loss, (aux, changed.get("batch_stats", {}))

    (loss, (aux, stats)), grads = jax.value_and_grad(compute, has_aux=True)(variables["params"])
    return Gradients(loss, aux, stats, grads)


def in_pieces(
    model: Clip, loss_fn: LossFn, variables: dict[str, Any], batch: dict[str, Any],
    rngs: dict[str, jax.Array], facts: tuple[Any, Any], *, pieces: int, shards: int,
) -> Gradients:  # fmt: skip
    """The same gradient from ``pieces`` micro-batches; arguments as ``at_once``'s.

    Every example draws what it draws in the whole batch, in both passes. Batch norms see one piece
    at a time, so their groups must lie within one (see ``check``); the running statistics move as
    they do for the whole batch.

    Args:
      pieces: micro-batches; it divides the examples of a batch shard.
      shards: batch shards of the mesh. Each piece takes its rows from all of them, so that no
        example changes its device.
    """
    params = variables["params"]
    size = len(batch["images"])
    inputs = {k: batch[k] for k in ("images", "tokens")} | {"rows": jnp.arange(size)}
    inputs = _split(inputs, pieces, shards)

    def embed(params, piece):
        output, changed = model.apply(
            {**variables, "params": params}, piece["images"], piece["tokens"], train=True,
            piece=Piece(piece["rows"], size), rngs=rngs, mutable=["batch_stats"],
        )  # fmt: skip
        return (output.image_emb, output.text_emb), changed.get("batch_stats", {})

    _, (embeddings, stats) = jax.lax.scan(lambda _, xs: (None, embed(params, xs)), None, inputs)
    # All began at the same statistics, and moved towards their own by the same share.
    stats = jax.tree.map(lambda x: x.mean(0), stats)
    image_emb, text_emb = _join(embeddings, shards)
    head = {k: v for k, v in params.items() if k in ("logit_scale", "logit_bias")}

    def compute(image_emb, text_emb, head):
        scale, bias = jnp.exp(head["logit_scale"]), head.get("logit_bias")
        return loss_fn(image_emb, text_emb, scale, bias, *facts)

    (loss, aux), by_inputs = jax.value_and_grad(compute, argnums=(0, 1, 2), has_aux=True)(
        image_emb, text_emb, head
    )
    by_embeddings = _split(by_inputs[:2], pieces, shards)

    def second_pass(total, xs):
        piece, cotangents = xs
        _, pull = jax.vjp(lambda p: embed(p, piece)[0], params)
        return jax.tree.map(jnp.add, total, pull(cotangents)[0]), None

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, "float32")), params
    )
    grads, _ = jax.lax.scan(second_pass, zeros, (inputs, by_embeddings))
    return Gradients(loss, aux, stats, {**grads, **by_inputs[2]})


def _split(tree: Any, pieces: int, shards: int) -> Any:
    """[B, ...] -> [pieces, B / pieces, ...], each piece from all batch shards."""

    def split(x: jax.Array) -> jax.Array:
        x = x.reshape(shards, pieces, -1, *x.shape[1:]).swapaxes(0, 1)
        x = x.reshape(pieces, -1, *x.shape[3:])
        return constrain(x, None, "batch", *([None] * (x.ndim - 2)))

    return jax.tree.map(split, tree)


def _join(tree: Any, shards: int) -> Any:
    """The inverse of ``_split``."""

    def join(x: jax.Array) -> jax.Array:
        pieces = x.shape[0]
        x = x.reshape(pieces, shards, -1, *x.shape[2:]).swapaxes(0, 1)
        x = x.reshape(-1, *x.shape[3:])
        return constrain(x, "batch", *([None] * (x.ndim - 1)))

    return jax.tree.map(join, tree)


def check(pieces: int, batch: int, mesh: Any, group: int | None = None) -> None:
    """Whether a batch can be cut into pieces on a mesh.

    Args:
      pieces, batch: of the config.
      mesh: where it is trained.
      group: ``model.batch_norm_group`` of a model with batch norms; None without any.

    Raises:
      ValueError: it cannot; names the config keys.
    """
    if pieces == 1:
        return
    shards = batch_shards(mesh)
    if batch % (shards * pieces):
        raise ValueError(
            f"train.pieces={pieces} does not divide the {batch // shards} examples of a batch "
            f"shard (train.batch_size={batch} over mesh.data * mesh.fsdp = {shards}); use a "
            "divisor of it"
        )
    each = batch // (shards * pieces)
    if group is not None and (group == 0 or each % group):
        raise ValueError(
            f"train.pieces={pieces} leaves {each} examples of a piece on a batch shard, and batch "
            f"norms need their groups within one: make model.batch_norm_group={group} a divisor "
            f"of {each}"
        )
