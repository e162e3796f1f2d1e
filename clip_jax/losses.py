"""The contrastive loss over the global batch (paper figure 3, section 2.5).

Two implementations with the same value and the same gradients:

* ``dense`` forms the whole B x B matrix of logits from the global arrays: the reference.
* ``all_gather`` runs inside ``shard_map``: every device gathers both towers' embeddings and
  computes the b rows and the b columns of its own examples, so that no device ever holds more
  than two b x B blocks. This is the sharding that the paper's section 2.5 describes.

Examples of one *group* (say, two pictures with one caption) can be kept from being each other's
negatives: their logits are left out of the softmax, and the pair itself stays.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from clip_jax.mesh import BATCH_AXES

LossFn = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def _cross_entropy(logits: jax.Array, target: jax.Array, ignored: jax.Array | None):
    """Sums over rows: cross entropy, and how often the target is the single best.

    The target is kept out of the sum of exponentials: log(1 + sum over negatives of
    exp(negative - positive)). Near convergence that sum is tiny, and what the usual form leaves of
    it after subtracting numbers that agree to all digits of float32 is noise, in the gradient too.

    Args:
      logits: [b, B].
      target: int[b], the column of each row's positive.
      ignored: bool[b, B] or None; True is no negative.
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
    # A tie is not a hit: a collapsed model scores 0, not 1.
    correct = (margins < 0).all(axis=1).sum()
    return loss, correct


def _half(rows, columns, scale, offset, row_groups, column_groups):
    """One direction: ``rows`` [b, E] against all ``columns`` [B, E]; row i pairs offset + i."""
    logits = scale * jnp.einsum(
        "be,ce->bc",
        rows,
        columns,
        # The default precision of TPUs rounds float32 operands to bfloat16.
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.promote_types(rows.dtype, jnp.float32),
    )
    ignored = None
    if row_groups is not None:
        ignored = row_groups[:, None] == column_groups[None, :]
    return _cross_entropy(logits, offset + jnp.arange(rows.shape[0]), ignored)


def softmax_dense(image_emb, text_emb, logit_scale, groups=None):
    """Mean of the image->text and text->image cross entropies, from the full logit matrix.

    Args:
      image_emb, text_emb: [B, E] unit rows, row i of both being a pair.
      logit_scale: scalar that multiplies the cosines (not its logarithm).
      groups: int[B] or None; equal numbers are not each other's negatives.

    Returns:
      The scalar loss, and {"accuracy": share of rows and columns whose pair is the best}.
    """
    n = image_emb.shape[0]
    loss_i, correct_i = _half(image_emb, text_emb, logit_scale, 0, groups, groups)
    loss_t, correct_t = _half(text_emb, image_emb, logit_scale, 0, groups, groups)
    return (loss_i + loss_t) / (2 * n), {"accuracy": (correct_i + correct_t) / (2 * n)}


def softmax_all_gather(mesh: Mesh) -> LossFn:
    """The same loss, each device computing only its own rows and columns. See the module."""

    def local(image_emb, text_emb, logit_scale, groups):
        def gather(x):
            return jax.lax.all_gather(x, BATCH_AXES, axis=0, tiled=True)

        all_groups = None if groups is None else gather(groups)
        offset = jax.lax.axis_index(BATCH_AXES) * image_emb.shape[0]
        n = image_emb.shape[0] * jax.lax.axis_size(BATCH_AXES)
        half_i = _half(image_emb, gather(text_emb), logit_scale, offset, groups, all_groups)
        half_t = _half(text_emb, gather(image_emb), logit_scale, offset, groups, all_groups)
        loss = jax.lax.psum(half_i[0] + half_t[0], BATCH_AXES) / (2 * n)
        correct = jax.lax.psum(half_i[1] + half_t[1], BATCH_AXES)
        return loss, {"accuracy": correct / (2 * n)}

    rows, scalar = PartitionSpec(BATCH_AXES), PartitionSpec()

    def loss(image_emb, text_emb, logit_scale, groups=None):
        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(rows, rows, scalar, None if groups is None else rows),
            out_specs=(scalar, scalar),
        )(image_emb, text_emb, logit_scale, groups)

    return loss


LOSSES: dict[str, Callable[[Mesh], LossFn]] = {
    "dense": lambda mesh: softmax_dense,
    "all_gather": softmax_all_gather,
}


def build(name: str, mesh: Mesh) -> LossFn:
    """The loss that ``loss.implementation`` names, for a mesh.

    Raises:
      ValueError: no such implementation.
    """
    if name not in LOSSES:
        raise ValueError(f"loss.implementation={name!r} is not one of {sorted(LOSSES)}")
    return LOSSES[name](mesh)
