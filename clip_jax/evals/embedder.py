"""What an evaluation knows of a model: three functions and three sizes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from clip_jax.runtime.mesh import batch_shards, local_rows, put_batch

# Rows of pictures or tokens: an array, or anything with len() that gives rows for int[k] indices.
# Each process asks for those of its own devices alone.
Rows = Any


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A model as evaluations see it.

    Attributes:
      images: uint8[n, H, W, 3] -> float32[n, E], unit rows, any n; the same on every process.
      texts: int32[n, L] -> float32[n, E], likewise.
      features: uint8[n, H, W, 3] -> float32[n, F], what a linear probe sees, not normalised.
      image_size: H and W, in pixels.
      embed_dim: E.
      probe_dim: F.
    """

    images: Callable[[Rows], np.ndarray]
    texts: Callable[[Rows], np.ndarray]
    features: Callable[[Rows], np.ndarray]
    image_size: int
    embed_dim: int
    probe_dim: int


def sharded(
    embed_images: Callable[[jax.Array], jax.Array],
    embed_texts: Callable[[jax.Array], jax.Array],
    probe_features: Callable[[jax.Array], jax.Array],
    *,
    mesh: Mesh,
    batch_size: int,
    image_size: int,
    embed_dim: int,
    probe_dim: int,
    shrink: bool = False,
    on_batch: Callable[[], None] = lambda: None,
) -> Embedder:
    """An Embedder over jitted functions of global batches, split over all devices of the mesh.

    Every call pads its rows to whole batches and drops the padding again, so that each function
    is compiled once (or for few sizes) and odd numbers of rows change nothing. The next batch is
    read while the devices work on one.

    Args:
      embed_images, embed_texts, probe_features: global batch sharded over the batch axes ->
        replicated [B, E], [B, E] and [B, F].
      mesh: the mesh of the batches.
      batch_size: rows a batch; rounded up to a multiple of the batch shards.
      image_size, embed_dim, probe_dim: the model's sizes.
      shrink: pad few rows to the next power of two a device only, not to a whole batch.
      on_batch: called after every batch, to tell that an evaluation goes on.
    """
    shards = batch_shards(mesh)
    size = -(-batch_size // shards) * shards

    def padded_size(rows: int) -> int:
        if not shrink:
            return size
        each = -(-rows // shards)
        return min(size, shards << (each - 1).bit_length())

    def over_batches(function, width):
        def embed(rows: Rows) -> np.ndarray:
            found = np.empty((len(rows), width), np.float32)
            working: list[tuple[slice, jax.Array]] = []

            def take() -> None:
                place, out = working.pop()
                found[place] = np.asarray(out)[: place.stop - place.start]
                on_batch()

            for at in range(0, len(rows), size):
                count = min(size, len(rows) - at)
                whole = padded_size(count)
                mine = local_rows(mesh, whole)
                real = np.asarray(rows[at + mine[mine < count]])
                padding = [(0, len(mine) - len(real))] + [(0, 0)] * (real.ndim - 1)
                batch = put_batch(mesh, {"rows": np.pad(real, padding)}, whole)["rows"]
                if working:
                    take()
                working.append((slice(at, at + count), function(batch)))
            if working:
                take()
            return found

        return embed

    return Embedder(
        over_batches(embed_images, embed_dim),
        over_batches(embed_texts, embed_dim),
        over_batches(probe_features, probe_dim),
        image_size,
        embed_dim,
        probe_dim,
    )
