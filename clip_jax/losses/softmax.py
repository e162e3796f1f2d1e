"""The softmax loss over the global batch (paper figure 3), in pieces that fit.

Two implementations, both run inside ``shard_map`` and both equal to ``dense`` in value and in every
gradient. Neither ever holds more than 16 MiB of logits.

* ``all_gather`` gathers both towers' embeddings and goes through the logits in chunks, twice: once
  for the sums of exponentials, once for the gradients, which it computes from recomputed chunks.
  Every device finds the whole gradient of its own embeddings, so that nothing has to be reduced
  over devices but a few numbers an example: a reduce-scatter over an axis that spans a TPU slice
  would compile to an all-reduce, of twice the bytes.
* ``ring`` passes the texts from device to device, and with them what their columns have gathered
  so far: no device ever holds more than two devices' embeddings, for twice the bytes on the wire.

How the positive is kept apart, and why: see ``blocks``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clip_jax.losses import blocks, shards
from clip_jax.losses.blocks import Side, Sums
from clip_jax.runtime.mesh import BATCH_AXES

Loss = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def _mean_loss(rows: Sums, columns: Sums, lost: Any, n: int) -> tuple[jax.Array, jax.Array]:
    """The loss of the global batch, and how many rows and columns have their pair as the best."""
    total = (blocks.log_total(rows) + blocks.log_total(columns)).sum()
    if lost is not None:
        for s, what in ((rows, lost[0]), (columns, lost[1])):
            total += jnp.where(s.related > 0, what / jnp.maximum(s.related, 1e-12), 0).sum()
    # A tie is not a hit: a collapsed model scores 0, not 1.
    correct = (rows.best < 0).sum() + (columns.best < 0).sum()
    return jax.lax.psum(total, BATCH_AXES) / (2 * n), jax.lax.psum(correct, BATCH_AXES)


def _over_devices(part: Sums, size: int) -> Sums:
    """Sums over the rows of one device, merged over all of them: this device's own columns."""
    best = jax.lax.pmax(part.best, BATCH_AXES)
    shift = jnp.exp(jnp.maximum(part.best, 0) - jnp.maximum(best, 0))
    total = jax.lax.psum(part.total * shift, BATCH_AXES)
    related = jax.lax.psum(part.related, BATCH_AXES)
    return Sums(*(shards.own(x, size) for x in (best, total, related)))


def _sums(
    scale: jax.Array, rows: Side, columns: Side, soft: float, chunk: int, start: Any
) -> tuple[Any, Any]:
    """What some columns add, a chunk of them at a time.

    Args:
      start: sums of the rows so far, and what soft targets have lost there (None without).

    Returns:
      The same with the columns added, and both of the columns.
    """

    def step(carry, part):
        by_row, by_column, lost = blocks.sums(scale, rows, part, soft)
        seen, row_lost = carry
        row_lost = row_lost + lost[0] if soft else None
        return (blocks.merge(seen, by_row), row_lost), (by_column, lost[1] if soft else None)

    of_rows, of_columns = jax.lax.scan(step, start, shards.chunked(columns, chunk))
    return of_rows, jax.tree.map(lambda x: x.reshape(-1), of_columns)


def _pulled(
    scale: jax.Array, rows: Side, columns: Side, of_rows: Any, of_columns: Any, soft: float,
    chunk: int, total: jax.Array, both: bool,
) -> tuple[jax.Array, jax.Array | None]:  # fmt: skip
    """Sums of (derivative by the logit) * (the other embedding), a chunk of columns at a time.

    Args:
      of_rows, of_columns: ``log_total`` and ``Sums.related`` over the whole global batch.
      total: of the rows so far, [b, E].
      both: whether the columns' are wanted too.

    Returns:
      The rows' with the columns added; the columns' from these rows, or None.
    """

    def step(total, part):
        side, (log, related) = part
        weights = blocks.gradient(scale, rows, side, of_rows[0], log, of_rows[1], related, soft)
        by_column = blocks.weighted(weights.T, rows.emb) if both else None
        return total + blocks.weighted(weights, side.emb), by_column

    total, by_columns = jax.lax.scan(step, total, shards.chunked((columns, of_columns), chunk))
    return total, by_columns.reshape(-1, by_columns.shape[-1]) if both else None


def _gradients(cotangent: jax.Array, scale: Any, image_emb: Any, by_image: Any, by_text: Any,
               facts: Any) -> tuple[Any, ...]:  # fmt: skip
    """Gradients by all inputs, from the sums over the other side's embeddings."""
    n = image_emb.shape[0] * jax.lax.axis_size(BATCH_AXES)
    by_image, by_text = (cotangent / (2 * n) * x for x in (by_image, by_text))
    by_scale = jax.lax.psum((by_image * image_emb).sum(), BATCH_AXES)
    return (scale * by_image, scale * by_text, by_scale.astype(scale.dtype),
            shards.without_gradient(facts))  # fmt: skip


def _zeros(emb: jax.Array, positive: jax.Array) -> jax.Array:
    """float32[b, E], varying over devices as ``positive`` does."""
    return jnp.zeros_like(emb, blocks.wide(emb)) + 0 * positive[:, None]


def _gathered_loss(soft: float, chunk: int, dtype: str) -> Callable[..., Any]:
    """(image_emb, text_emb, scale, facts) -> (loss, correct), inside ``shard_map``."""

    def forward(image_emb, text_emb, scale, facts):
        size = image_emb.shape[0]
        n = size * jax.lax.axis_size(BATCH_AXES)
        positive = shards.positive(scale, image_emb, text_emb)
        rows = Side(image_emb, shards.place(size), positive, *facts)
        columns = shards.gather(rows._replace(emb=text_emb))
        start = blocks.empty(positive), jnp.zeros_like(positive) if soft else None
        (row_sums, row_lost), (part, column_lost) = _sums(
            scale, rows, columns, soft, shards.chunk_size(size, n, chunk), start
        )
        column_sums = _over_devices(part, size)
        lost = None
        if soft:
            own = shards.own(jax.lax.psum(column_lost, BATCH_AXES), size)
            lost = soft * row_lost, soft * own
        loss = _mean_loss(row_sums, column_sums, lost, n)
        facts_of_columns = columns.emb, columns.groups, columns.topics
        return loss, (image_emb, text_emb, scale, facts, positive, row_sums, column_sums,
                      facts_of_columns)  # fmt: skip

    def backward(residuals, cotangents):
        image_emb, text_emb, scale, facts, positive, row_sums, column_sums, gathered = residuals
        all_texts, all_groups, all_topics = gathered
        size, n = image_emb.shape[0], all_texts.shape[0]
        place = shards.place(size)
        sums = tuple((blocks.log_total(s), s.related) for s in (row_sums, column_sums))
        # A few numbers an example, beside the images' embeddings.
        all_images, all_place, all_positive, all_sums = shards.gather(
            (image_emb, place, positive, sums)
        )
        found = []
        for own, (emb, others) in enumerate(((image_emb, all_texts), (text_emb, all_images))):
            rows = Side(emb, place, positive, *facts)
            columns = Side(others, all_place, all_positive, all_groups, all_topics)
            total, _ = _pulled(
                scale, rows, columns, sums[own], all_sums[1 - own], soft,
                shards.chunk_size(size, n, chunk), _zeros(emb, positive), both=False,
            )  # fmt: skip
            found.append(total)
        return _gradients(cotangents[0], scale, image_emb, *found, facts)

    return shards.differentiable(forward, backward, dtype)


def _ring_loss(soft: float, chunk: int, dtype: str) -> Callable[..., Any]:
    """As ``_gathered_loss``; the texts go round."""

    def forward(image_emb, text_emb, scale, facts):
        size, length = image_emb.shape[0], jax.lax.axis_size(BATCH_AXES)
        positive = shards.positive(scale, image_emb, text_emb)
        rows = Side(image_emb, shards.place(size), positive, *facts)
        none = jnp.zeros_like(positive) if soft else None
        columns_each = shards.chunk_size(size, size, chunk)

        def step(carry, _):
            of_rows, (columns, seen, lost) = carry
            of_rows, (sums, more) = _sums(scale, rows, columns, soft, columns_each, of_rows)
            lost = lost + more if soft else None
            return (of_rows, shards.passed_on((columns, blocks.merge(seen, sums), lost))), None

        start = (blocks.empty(positive), none), (
            rows._replace(emb=text_emb), blocks.empty(positive), none
        )  # fmt: skip
        ((row_sums, row_lost), travelling), _ = jax.lax.scan(step, start, length=length)
        _, column_sums, column_lost = travelling  # home again
        lost = (soft * row_lost, soft * column_lost) if soft else None
        loss = _mean_loss(row_sums, column_sums, lost, size * length)
        return loss, (image_emb, text_emb, scale, facts, positive, row_sums, column_sums)

    def backward(residuals, cotangents):
        image_emb, text_emb, scale, facts, positive, row_sums, column_sums = residuals
        size, length = image_emb.shape[0], jax.lax.axis_size(BATCH_AXES)
        rows = Side(image_emb, shards.place(size), positive, *facts)
        of_rows, of_columns = ((blocks.log_total(s), s.related) for s in (row_sums, column_sums))
        columns_each = shards.chunk_size(size, size, chunk)

        def step(carry, _):
            by_image, (columns, sums, by_text) = carry
            by_image, more = _pulled(
                scale, rows, columns, of_rows, sums, soft, columns_each, by_image, both=True
            )
            return (by_image, shards.passed_on((columns, sums, by_text + more))), None

        zeros = _zeros(image_emb, positive)
        start = zeros, (rows._replace(emb=text_emb), of_columns, zeros)
        (by_image, (_, _, by_text)), _ = jax.lax.scan(step, start, length=length)
        return _gradients(cotangents[0], scale, image_emb, by_image, by_text, facts)

    return shards.differentiable(forward, backward, dtype)


def _sharded(local: Any, mesh: Mesh) -> Loss:
    """The loss as a function of global arrays."""

    def loss(image_emb, text_emb, logit_scale, groups=None, topics=None):
        inputs = (image_emb, text_emb, logit_scale, (groups, topics))
        value, correct = shards.over(mesh, local, "rrsr")(*inputs)
        return value, {"accuracy": correct / (2 * image_emb.shape[0])}

    return loss


def all_gather(mesh: Mesh, *, soft: float = 0.0, chunk: int = 0, dtype: str = "float32") -> Loss:
    """Both towers gathered, logits in chunks; see the module.

    Args:
      mesh: over whose batch axes the embeddings are sharded.
      soft: share of each target that goes to other pairs of the batch.
      chunk: columns at a time; 0: chosen.
      dtype: of the embeddings that travel and are multiplied.
    """
    return _sharded(_gathered_loss(soft, chunk, dtype), mesh)


def ring(mesh: Mesh, *, soft: float = 0.0, chunk: int = 0, dtype: str = "float32") -> Loss:
    """The texts passed round; see the module. Arguments as ``all_gather``'s."""
    return _sharded(_ring_loss(soft, chunk, dtype), mesh)
