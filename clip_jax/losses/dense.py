"""The losses from the full B x B matrix of logits: the reference for all other implementations."""

import functools

import jax
import jax.numpy as jnp

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


def _half(rows, columns, scale, offset, soft, row_metadata, column_metadata):
    """One direction: ``rows`` [b, E] against all ``columns`` [B, E]; row i pairs offset + i.

    Metadata are (groups, topics), each of which may be None.
    """
    (row_groups, row_topics), (column_groups, column_topics) = row_metadata, column_metadata
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
    metadata = (groups, topics)
    loss_i, correct_i = _half(image_emb, text_emb, logit_scale, 0, soft, metadata, metadata)
    loss_t, correct_t = _half(text_emb, image_emb, logit_scale, 0, soft, metadata, metadata)
    return (loss_i + loss_t) / (2 * n), {"accuracy": (correct_i + correct_t) / (2 * n)}
