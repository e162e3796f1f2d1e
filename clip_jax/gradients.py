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
from clip_jax.mesh import batch_shards, constrain
from clip_jax.models.clip import Clip


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
    rngs: dict[str, jax.Array], facts: tuple[Any, Any], pieces: int = 1,
) -> Gradients:  # fmt: skip
    """The gradient of a whole batch, in pieces if there are several; see ``in_pieces``."""
    if pieces == 1:
        return at_once(model, loss_fn, variables, batch, rngs, facts)
    mesh = jax.sharding.get_abstract_mesh()
    shards = 1 if mesh.empty else batch_shards(mesh)
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

    Both passes over a piece draw the same random numbers, from keys folded with its number. Batch
    norms see one piece at a time: their statistics are of pieces, and are updated once for each,
    in the first pass alone.

    Args:
      pieces: micro-batches; it divides the examples of a batch shard.
      shards: batch shards of the mesh. Each piece takes its rows from all of them, so that no
        example changes its device.
    """
    params = variables["params"]
    inputs = _split({k: batch[k] for k in ("images", "tokens")}, pieces, shards)
    numbers = jnp.arange(pieces)

    def embed(params, stats, piece, number):
        keys = {name: jax.random.fold_in(key, number) for name, key in rngs.items()}
        output, changed = model.apply(
            {"params": params, "batch_stats": stats}, piece["images"], piece["tokens"],
            train=True, rngs=keys, mutable=["batch_stats"],
        )  # fmt: skip
        return (output.image_emb, output.text_emb), changed.get("batch_stats", {})

    def first_pass(stats, xs):
        embeddings, after = embed(params, stats, *xs)
        return after, (embeddings, stats)

    stats, (embeddings, stats_before) = jax.lax.scan(
        first_pass, variables["batch_stats"], (inputs, numbers)
    )
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
        piece, number, before, cotangents = xs
        _, pull = jax.vjp(lambda p: embed(p, before, piece, number)[0], params)
        return jax.tree.map(jnp.add, total, pull(cotangents)[0]), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    grads, _ = jax.lax.scan(second_pass, zeros, (inputs, numbers, stats_before, by_embeddings))
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


def check(pieces: int, batch: int, mesh: Any) -> None:
    """Whether a batch can be cut into pieces on a mesh.

    Raises:
      ValueError: it cannot; names the config keys.
    """
    shards = batch_shards(mesh)
    if batch % (shards * pieces):
        raise ValueError(
            f"train.pieces={pieces} does not divide the {batch // shards} examples of a batch "
            f"shard (train.batch_size={batch} over mesh.data * mesh.fsdp = {shards})"
        )
