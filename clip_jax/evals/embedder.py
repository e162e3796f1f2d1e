"""What an evaluation knows of a model: functions from images and texts to embeddings."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from clip_jax.models.text import TextConfig
from clip_jax.runtime.mesh import batch_shards, local_rows, put_batch


class Rows(Protocol):
    """Images or tokens: an array, or what reads rows by indices int[k], in each process its own."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


class Embedder(Protocol):
    """A model as evaluations see it; every function gives the same on every process."""

    def images(self, rows: Rows) -> np.ndarray:
        """uint8[n, H, W, 3], any n -> float32[n, E], rows of unit length."""

    def texts(self, rows: Rows) -> np.ndarray:
        """int32[n, L], any n -> float32[n, E], rows of unit length."""

    def features(self, rows: Rows) -> np.ndarray:
        """uint8[n, H, W, 3], any n -> float32[n, F]: a linear probe's input, not normalised."""


class _Texts:
    """Tokens int32[n, L] of which each batch is as long as its longest text."""

    def __init__(self, tokens: np.ndarray, config: TextConfig):
        self.tokens, self.config = tokens, config

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        return self.tokens[rows]

    def cut(self, start: int, count: int) -> np.ndarray:
        """All tokens, to the static length of the texts ``start`` to ``start + count``."""
        longest = self.config.longest(self.tokens[start : start + count])
        return self.tokens[:, : self.config.static_length(int(longest))]


@dataclasses.dataclass(frozen=True)
class BatchedEmbedder:
    """An Embedder over jitted functions of global batches, split over all devices of the mesh.

    Every call pads its rows to whole batches and drops the padding again, so that each function
    is compiled once (or for few sizes) and odd numbers of rows change nothing. The next batch is
    read while the devices work on one.

    Attributes:
      embed_images, embed_texts, probe_features: global batch sharded over the batch axes ->
        replicated [B, E], [B, E] and [B, F].
      mesh: the mesh of the batches.
      batch_size: rows a batch; rounded up to a multiple of the batch shards.
      embed_dim, probe_dim: E and F.
      shrink: pad few rows to the next power of two a device only, not to a whole batch.
      text: sizes of the text tower, which says how short texts may be cut; None: not at all.
      on_batch: called after every batch, such as a heartbeat.
    """

    embed_images: Callable[[jax.Array], jax.Array]
    embed_texts: Callable[[jax.Array], jax.Array]
    probe_features: Callable[[jax.Array], jax.Array]
    mesh: Mesh
    batch_size: int
    embed_dim: int
    probe_dim: int
    text: TextConfig | None = None
    shrink: bool = False
    on_batch: Callable[[], None] = lambda: None

    def images(self, rows: Rows) -> np.ndarray:
        return self._in_batches(self.embed_images, rows, self.embed_dim)

    def texts(self, rows: Rows) -> np.ndarray:
        if self.text is None:
            return self._in_batches(self.embed_texts, rows, self.embed_dim)
        # Every process has all texts, so that all cut a batch to the same length.
        tokens = np.asarray(rows[np.arange(len(rows))])
        return self._in_batches(self.embed_texts, _Texts(tokens, self.text), self.embed_dim)

    def features(self, rows: Rows) -> np.ndarray:
        return self._in_batches(self.probe_features, rows, self.probe_dim)

    def _in_batches(
        self, function: Callable[[jax.Array], jax.Array], rows: Rows, width: int
    ) -> np.ndarray:
        shards = batch_shards(self.mesh)
        size = -(-self.batch_size // shards) * shards
        embeddings = np.empty((len(rows), width), np.float32)
        running: list[tuple[slice, jax.Array]] = []

        def collect() -> None:
            target, output = running.pop()
            embeddings[target] = np.asarray(output)[: target.stop - target.start]
            self.on_batch()

        for start in range(0, len(rows), size):
            count = min(size, len(rows) - start)
            span = rows.cut(start, count) if isinstance(rows, _Texts) else rows
            batch = self._batch(span, start, count, size)
            if running:
                collect()
            running.append((slice(start, start + count), function(batch)))
        if running:
            collect()
        return embeddings

    def _batch(self, rows: Rows, start: int, count: int, size: int) -> jax.Array:
        """The global batch of rows ``start`` to ``start + count``, padded."""
        if self.shrink:
            shards = batch_shards(self.mesh)
            size = min(size, shards << (-(-count // shards) - 1).bit_length())
        local = local_rows(self.mesh, size)
        real = np.asarray(rows[start + local[local < count]])
        padding = [(0, len(local) - len(real))] + [(0, 0)] * (real.ndim - 1)
        return put_batch(self.mesh, {"rows": np.pad(real, padding)}, size)["rows"]
