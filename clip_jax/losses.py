"""The contrastive loss over the global batch (paper figure 3, section 2.5).

Two implementations with the same value and the same gradients:

* ``dense`` forms the whole B x B matrix of logits from the global arrays: the reference.
* ``all_gather`` runs inside ``shard_map``: every device gathers both towers' embeddings and
  computes the b rows and the b columns of its own examples, so that no device ever holds more
  than two b x B blocks. This is the sharding that the paper's section 2.5 describes.

Examples of one *group* (say, two pictures with one caption) can be kept from being each other's
negatives: their logits are left out of the softmax, and the pair itself stays.

*Soft targets* give a share of each row's target to the other pairs of the batch, in proportion to
how much their captions have in common (see ``caption_topics``; after Gao et al. 2023, arXiv
2303.17561): a picture of a leopard is less wrong as "tiger" than as "bus".
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from clip_jax.mesh import BATCH_AXES

LossFn = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]

MAX_TOPICS = 4096  # width of a caption's features; larger vocabularies share columns


def caption_topics(tokens: jax.Array, vocab_size: int) -> jax.Array:
    """TF-IDF of tokens within the batch: unit rows float32[B, min(vocab_size, MAX_TOPICS)].

    What every caption has (start, end, padding) weighs nothing, a token that few have much. A row
    of nothing else is zero.

    Args:
      tokens: int32[B, L], the global batch.
      vocab_size: bound of the token ids.
    """
    width = min(vocab_size, MAX_TOPICS)
    rows = jnp.arange(tokens.shape[0])[:, None]
    has = jnp.zeros((tokens.shape[0], width), jnp.float32).at[rows, tokens % width].set(1.0)
    weights = has * jnp.log(tokens.shape[0] / jnp.maximum(has.sum(axis=0), 1.0))
    return weights * jax.lax.rsqrt(jnp.maximum((weights**2).sum(1, keepdims=True), 1e-12))


def _cross_entropy(logits, target, ignored, related, soft):
    """Sums over rows: cross entropy, and how often the target is the single best.

    The target is kept out of the sum of exponentials: log(1 + sum over negatives of
    exp(negative - positive)). Near convergence that sum is tiny, and what the usual form leaves of
    it after subtracting numbers that agree to all digits of float32 is noise, in the gradient too.

    Args:
      logits: [b, B].
      target: int[b], the column of each row's positive.
      ignored: bool[b, B] or None; True is no negative.
      related: float[b, B], 0 or more: how the soft share of a row's target is divided among the
        columns that are negatives. A row without any keeps its target whole.
      soft: the share, 0 to 1; with 0, ``related`` may be None.
    """
    is_target = jnp.arange(logits.shape[1])[None, :] == target[:, None]
    positive = jnp.take_along_axis(logits, target[:, None], axis=1)
    if ignored is not None:
        is_target |= ignored
    margins = jnp.where(is_target, -jnp.inf, logits - positive)
    # exp(0) is the positive's own term: the maximum to subtract is at least 0.
    top = jax.lax.stop_gradient(jnp.maximum(margins.max(axis=1), 0))
    total = jnp.exp(margins - top[:, None]).sum(axis=1)
    loss = (top + jnp.log1p(jnp.expm1(-top) + total)).sum()
    if soft:
        # What the targets' mean logit loses when a share of the target moves to its relatives.
        weights = jnp.where(is_target, 0, related)
        weights /= jnp.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        loss += soft * (weights * (positive - logits)).sum()
    # A tie is not a hit: a collapsed model scores 0, not 1.
    correct = (margins < 0).all(axis=1).sum()
    return loss, correct


def _half(rows, columns, scale, offset, soft, row_facts, column_facts):
    """One direction: ``rows`` [b, E] against all ``columns`` [B, E]; row i pairs offset + i.

    Facts are (groups, topics), each of which may be None.
    """
    (row_groups, row_topics), (column_groups, column_topics) = row_facts, column_facts
    # The default precision of TPUs rounds float32 operands to bfloat16.
    product = functools.partial(
        jnp.einsum,
        "be,ce->bc",
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.promote_types(rows.dtype, jnp.float32),
    )
    ignored = None if row_groups is None else row_groups[:, None] == column_groups[None, :]
    related = product(row_topics, column_topics) if soft else None
    target = offset + jnp.arange(rows.shape[0])
    return _cross_entropy(scale * product(rows, columns), target, ignored, related, soft)


def softmax_dense(image_emb, text_emb, logit_scale, groups=None, topics=None, *, soft=0.0):
    """Mean of the image->text and text->image cross entropies, from the full logit matrix.

    Args:
      image_emb, text_emb: [B, E] unit rows, row i of both being a pair.
      logit_scale: scalar that multiplies the cosines (not its logarithm).
      groups: int[B] or None; equal numbers are not each other's negatives.
      topics: float[B, D], 0 or more: captions' features, whose products divide the soft share of
        the targets. Needed if ``soft`` is not 0.
      soft: share of each target that goes to other pairs of the batch.

    Returns:
      The scalar loss, and {"accuracy": share of rows and columns whose pair is the best}.
    """
    n = image_emb.shape[0]
    facts = (groups, topics)
    loss_i, correct_i = _half(image_emb, text_emb, logit_scale, 0, soft, facts, facts)
    loss_t, correct_t = _half(text_emb, image_emb, logit_scale, 0, soft, facts, facts)
    return (loss_i + loss_t) / (2 * n), {"accuracy": (correct_i + correct_t) / (2 * n)}


def softmax_all_gather(mesh: Mesh, *, soft: float = 0.0) -> LossFn:
    """The same loss, each device computing only its own rows and columns. See the module."""

    def local(image_emb, text_emb, logit_scale, facts):
        def gather(x):
            return jax.lax.all_gather(x, BATCH_AXES, axis=0, tiled=True)

        all_facts = jax.tree.map(gather, facts)
        offset = jax.lax.axis_index(BATCH_AXES) * image_emb.shape[0]
        n = image_emb.shape[0] * jax.lax.axis_size(BATCH_AXES)
        half = functools.partial(
            _half, scale=logit_scale, offset=offset, soft=soft,
            row_facts=facts, column_facts=all_facts,
        )  # fmt: skip
        half_i, half_t = half(image_emb, gather(text_emb)), half(text_emb, gather(image_emb))
        loss = jax.lax.psum(half_i[0] + half_t[0], BATCH_AXES) / (2 * n)
        correct = jax.lax.psum(half_i[1] + half_t[1], BATCH_AXES)
        return loss, {"accuracy": correct / (2 * n)}

    rows, scalar = PartitionSpec(BATCH_AXES), PartitionSpec()

    def loss(image_emb, text_emb, logit_scale, groups=None, topics=None):
        return jax.shard_map(
            local, mesh=mesh, in_specs=(rows, rows, scalar, rows), out_specs=(scalar, scalar)
        )(image_emb, text_emb, logit_scale, (groups, topics))

    return loss


LOSSES: dict[str, Callable[..., LossFn]] = {
    "dense": lambda mesh, soft=0.0: functools.partial(softmax_dense, soft=soft),
    "all_gather": softmax_all_gather,
}


def build(name: str, mesh: Mesh, soft: float = 0.0) -> LossFn:
    """The loss that ``loss.implementation`` names, for a mesh and a share of soft targets.

    Raises:
      ValueError: no such implementation.
    """
    if name not in LOSSES:
        raise ValueError(f"loss.implementation={name!r} is not one of {sorted(LOSSES)}")
    return LOSSES[name](mesh, soft=soft)
