"""What an evaluation knows of a model: two functions and two sizes."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from clip_jax.mesh import batch_shards, local_rows, put_batch


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A model as evaluations see it.

    Attributes:
      images: uint8[n, H, W, 3] -> float32[n, E], unit rows, any n; the same on every process.
      texts: int32[n, L] -> float32[n, E], likewise.
      image_size: H and W, in pixels.
      embed_dim: E.
    """

    images: Callable[[np.ndarray], np.ndarray]
    texts: Callable[[np.ndarray], np.ndarray]
    image_size: int
    embed_dim: int


def sharded(
    embed_images: Callable[[jax.Array], jax.Array],
    embed_texts: Callable[[jax.Array], jax.Array],
    *,
    mesh: Mesh,
    batch_size: int,
    image_size: int,
    embed_dim: int,
    shrink: bool = False,
    on_batch: Callable[[], None] = lambda: None,
) -> Embedder:
    """An Embedder over jitted functions of global batches, split over all devices of the mesh.

    Every call pads its rows to whole batches and drops the padding again, so that each function
    is compiled once (or for few sizes) and odd numbers of rows change nothing.

    Args:
      embed_images, embed_texts: global batch sharded over the batch axes -> replicated [B, E].
      mesh: the mesh of the batches.
      batch_size: rows a batch; rounded up to a multiple of the batch shards.
      image_size, embed_dim: the model's sizes.
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

    def over_batches(function):
        def embed(rows: np.ndarray) -> np.ndarray:
            parts = []
            for at in range(0, len(rows), size):
                chunk = rows[at : at + size]
                whole = padded_size(len(chunk))
                padding = [(0, whole - len(chunk))] + [(0, 0)] * (chunk.ndim - 1)
                padded = np.pad(chunk, padding)[local_rows(mesh, whole)]
                out = function(put_batch(mesh, {"rows": padded}, whole)["rows"])
                parts.append(np.asarray(out)[: len(chunk)])
                on_batch()
            return np.concatenate([np.zeros((0, embed_dim), np.float32), *parts])

        return embed

    return Embedder(over_batches(embed_images), over_batches(embed_texts), image_size, embed_dim)
