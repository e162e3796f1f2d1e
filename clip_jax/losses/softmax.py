"""The softmax loss over the global batch (paper figure 3), in pieces that fit.

Two implementations, both run inside ``shard_map`` and both equal to ``dense`` in value and in every
gradient. Neither ever holds the b x B logits of its device.

* ``all_gather`` gathers both towers' embeddings and goes through the logits in chunks, twice: once
  for the sums of exponentials, once for the gradients, which it computes from recomputed chunks.
  Every device finds the whole gradient of its own embeddings, so that nothing has to be reduced
  over devices but a few numbers an example: a reduce-scatter over an axis that spans a TPU slice
  would compile to an all-reduce, of twice the bytes.
* ``ring`` passes the texts from device to device, and with them what their columns have gathered
  so far: b x b logits at a time, and no device ever holds more than two devices' embeddings, for
  twice the bytes on the wire.

How the positive is kept apart, and why: see ``blocks``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clip_jax.losses import blocks, shards
from clip_jax.losses.blocks import Side, Sums
from clip_jax.mesh import BATCH_AXES

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


def _gathered_loss(soft: float, chunk: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(image_emb, text_emb, scale, facts) -> (loss, correct), inside ``shard_map``."""

    def forward(image_emb, text_emb, scale, facts):
        size = image_emb.shape[0]
        n = size * jax.lax.axis_size(BATCH_AXES)
        positive = shards.positive(scale, image_emb, text_emb)
        rows = Side(image_emb, shards.place(size), positive, *facts)
        columns = shards.gather(rows._replace(emb=text_emb))
        start = blocks.empty(positive), jnp.zeros_like(positive) if soft else None

        def step(carry, part):
            by_row, by_column, lost = blocks.sums(scale, rows, part, soft)
            seen, row_lost = carry
            row_lost = row_lost + lost[0] if soft else None
            return (blocks.merge(seen, by_row), row_lost), (by_column, lost[1] if soft else None)

        (row_sums, row_lost), (part, column_lost) = jax.lax.scan(
            step, start, shards.chunked(columns, chunk or shards.chunk_size(size, n))
        )
        part, column_lost = jax.tree.map(lambda x: x.reshape(-1), (part, column_lost))
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
        logs = blocks.log_total(row_sums), blocks.log_total(column_sums)
        relateds = row_sums.related, column_sums.related
        # A few numbers an example, beside the images' embeddings.
        all_images, all_place, all_positive, all_logs, all_relateds = shards.gather(
            (image_emb, place, positive, logs, relateds)
        )

        def rows_gradient(emb, others, own):
            """Sum over all columns of (derivative by the logit) * (the column's embedding)."""
            rows = Side(emb, place, positive, *facts)
            columns = Side(others, all_place, all_positive, all_groups, all_topics)
            other = 1 - own

            def step(total, part):
                side, log, related = part
                weights = blocks.gradient(
                    scale, rows, side, logs[own], log, relateds[own], related, soft
                )
                return total + blocks.weighted(weights, side.emb), None

            zeros = jnp.zeros_like(emb, blocks.wide(emb)) + 0 * positive[:, None]
            return jax.lax.scan(
                step, zeros,
                shards.chunked((columns, all_logs[other], all_relateds[other]),
                         chunk or shards.chunk_size(size, n)),
            )[0]  # fmt: skip

        factor = cotangents[0] / (2 * n)
        by_image = factor * rows_gradient(image_emb, all_texts, 0)
        by_text = factor * rows_gradient(text_emb, all_images, 1)
        by_scale = jax.lax.psum((by_image * image_emb).sum(), BATCH_AXES)
        return (
            (scale * by_image).astype(image_emb.dtype),
            (scale * by_text).astype(text_emb.dtype),
            by_scale.astype(scale.dtype),
            shards.without_gradient(facts),
        )

    return _with_gradient(forward, backward)


def _with_gradient(forward: Any, backward: Any) -> Any:
    loss = jax.custom_vjp(lambda *inputs: forward(*inputs)[0])
    loss.defvjp(forward, backward)
    return loss


def _ring_loss(soft: float, chunk: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """As ``_gathered_loss``; the texts go round."""
    del chunk  # a device's texts are the chunk

    def forward(image_emb, text_emb, scale, facts):
        size, length = image_emb.shape[0], jax.lax.axis_size(BATCH_AXES)
        positive = shards.positive(scale, image_emb, text_emb)
        rows = Side(image_emb, shards.place(size), positive, *facts)
        none = jnp.zeros_like(positive) if soft else None

        def step(carry, _):
            row_sums, row_lost, travelling = carry
            columns, column_sums, column_lost = travelling
            by_row, by_column, lost = blocks.sums(scale, rows, columns, soft)
            row_sums, column_sums = (
                blocks.merge(a, b) for a, b in ((row_sums, by_row), (column_sums, by_column))
            )
            if soft:
                row_lost, column_lost = row_lost + lost[0], column_lost + lost[1]
            return (row_sums, row_lost, shards.passed_on((columns, column_sums, column_lost))), None

        start = blocks.empty(positive), none, (
            rows._replace(emb=text_emb), blocks.empty(positive), none
        )  # fmt: skip
        (row_sums, row_lost, travelling), _ = jax.lax.scan(step, start, length=length)
        _, column_sums, column_lost = travelling  # home again
        lost = (soft * row_lost, soft * column_lost) if soft else None
        loss = _mean_loss(row_sums, column_sums, lost, size * length)
        return loss, (image_emb, text_emb, scale, facts, positive, row_sums, column_sums)

    def backward(residuals, cotangents):
        image_emb, text_emb, scale, facts, positive, row_sums, column_sums = residuals
        size, length = image_emb.shape[0], jax.lax.axis_size(BATCH_AXES)
        rows = Side(image_emb, shards.place(size), positive, *facts)
        row_log, column_log = blocks.log_total(row_sums), blocks.log_total(column_sums)

        def step(carry, _):
            by_image, travelling = carry
            columns, log, related, by_text = travelling
            weights = blocks.gradient(
                scale, rows, columns, row_log, log, row_sums.related, related, soft
            )
            by_image += blocks.weighted(weights, columns.emb)
            by_text += blocks.weighted(weights.T, image_emb)
            return (by_image, shards.passed_on((columns, log, related, by_text))), None

        zeros = jnp.zeros_like(image_emb, blocks.wide(image_emb)) + 0 * positive[:, None]
        start = zeros, (rows._replace(emb=text_emb), column_log, column_sums.related, zeros)
        (by_image, travelling), _ = jax.lax.scan(step, start, length=length)
        factor = cotangents[0] / (2 * size * length)
        by_image, by_text = factor * by_image, factor * travelling[3]
        by_scale = jax.lax.psum((by_image * image_emb).sum(), BATCH_AXES)
        return (
            (scale * by_image).astype(image_emb.dtype),
            (scale * by_text).astype(text_emb.dtype),
            by_scale.astype(scale.dtype),
            shards.without_gradient(facts),
        )

    return _with_gradient(forward, backward)


def _sharded(local: Any, mesh: Mesh) -> Loss:
    """The loss as a function of global arrays."""

    def loss(image_emb, text_emb, logit_scale, groups=None, topics=None):
        inputs = (image_emb, text_emb, logit_scale, (groups, topics))
        value, correct = shards.over(mesh, local, "rrsr")(*inputs)
        return value, {"accuracy": correct / (2 * image_emb.shape[0])}

    return loss


def all_gather(mesh: Mesh, *, soft: float = 0.0, chunk: int = 0) -> Loss:
    """Both towers gathered, logits in chunks; see the module.

    Args:
      mesh: over whose batch axes the embeddings are sharded.
      soft: share of each target that goes to other pairs of the batch.
      chunk: columns at a time, a divisor of the batch; 0: chosen.
    """
    return _sharded(_gathered_loss(soft, chunk), mesh)


def ring(mesh: Mesh, *, soft: float = 0.0, chunk: int = 0) -> Loss:
    """The texts passed round; see the module. Arguments as ``all_gather``'s."""
    return _sharded(_ring_loss(soft, chunk), mesh)
