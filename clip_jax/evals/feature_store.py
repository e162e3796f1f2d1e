"""Embeddings of whole datasets: read in threads, embedded on all devices, kept on disk.

A set is embedded in parts, and each part is a file as soon as it is there: what was interrupted
goes on where it was, and what has been embedded once is read. The key is what decides the numbers:
the model's weights, its preprocessing and the data.
"""

import concurrent.futures
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.data.image_file import BadImage
from clip_jax.data.preprocess import Preprocess
from clip_jax.runtime import distributed
from clip_jax.runtime.atomic import whole_file

PART = 8192  # images a file

Say = Callable[[str], None]


class Pixels:
    """The images of a set as rows of pixels for an ``Embedder``: decoded when asked for.

    ``pixels[rows]``, for int[k], is uint8[k, S, S, 3]. An image that cannot be read is black: what
    was wrong stays in ``bad``, so that the others' devices need not wait for this process's.
    """

    def __init__(self, data: Any, preprocess: Preprocess, threads: int | None = None):
        self.data, self.preprocess = data, preprocess
        self.bad: list[BadImage] = []
        self.read = 0
        # Pillow lets go of the interpreter while it decodes and resizes.
        self._pool = concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count())

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        size = self.preprocess.image_size
        if not len(rows):
            return np.zeros((0, size, size, 3), np.uint8)
        self.read += len(rows)
        return np.stack(list(self._pool.map(self._read, rows)))

    def _read(self, index: int) -> np.ndarray:
        try:
            return self.data.load(int(index), self.preprocess)
        except BadImage as error:
            self.bad.append(error)
            return np.zeros((self.preprocess.image_size, self.preprocess.image_size, 3), np.uint8)

    def check(self) -> None:
        """Tells all processes of images that one of them could not read. All must call it.

        Raises:
          BadImage: on every process, naming the first one where it is known.
        """
        if distributed.all_hosts(not self.bad):
            return
        if not self.bad:
            raise BadImage("another process could not read an image: see what it says")
        first, more = self.bad[0], len(self.bad) - 1
        if not distributed.is_lead():
            print(f"error: {first}", file=sys.stderr)  # the lead, which speaks, does not know it
        raise BadImage(f"{first}{f' (and {more} more)' if more else ''}") from first


class _Some:
    """Rows ``start`` to ``stop`` of others."""

    def __init__(self, rows: Any, start: int, stop: int):
        self.rows, self.start, self.stop = rows, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.rows[self.start + np.asarray(rows)]


class Store:
    """Features of images under a folder, by key; without a folder, of this process's memory."""

    def __init__(self, folder: Path | None, model: str, say: Say = lambda line: None):
        """Opens a store.

        Args:
          folder: where files are kept; None: nowhere.
          model: fingerprint of weights, preprocessing and computation.
          say: called with lines of progress.
        """
        self.folder, self.model, self.say = folder, model, say
        self._held: dict[str, np.ndarray] = {}
        self._kept: dict[str, list[np.ndarray]] = {}

    def get(
        self, kind: str, embed: Callable[[Any], np.ndarray], data: Any, preprocess: Preprocess
    ) -> np.ndarray:
        """Features of all images of a set. All processes must ask for the same.

        Args:
          kind: "images" or "features", the Embedder's function.
          embed: that function.
          data: a ``ClassificationDataset`` or ``RetrievalDataset``.
          preprocess: the way to the model's input.

        Returns:
          float32[n, E], in memory.

        Raises:
          BadImage: an image cannot be read.
        """
        key = self._key(kind, data)
        if key not in self._held:
            pixels = Pixels(data, preprocess)
            parts = list(self._parts(key, embed, pixels))
            self._held[key] = np.concatenate(parts) if parts else embed(pixels)
        return self._held[key]

    def parts(
        self, kind: str, embed: Callable[[Any], np.ndarray], data: Any, preprocess: Preprocess
    ) -> Iterator[np.ndarray]:
        """The features of ``get`` in parts of ``PART`` images, for sets larger than memory.

        What is on disk comes as memory maps. Without a folder all of it is kept in memory, also
        after ``clear``.
        """
        key, pixels = self._key(kind, data), Pixels(data, preprocess)
        if self.folder:
            yield from self._parts(key, embed, pixels, mapped=True)
            return
        if key not in self._kept:
            self._kept[key] = list(self._parts(key, embed, pixels))
        yield from self._kept[key]

    def _key(self, kind: str, data: Any) -> str:
        facts = [kind, self.model, data.fingerprint, len(data)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]

    def _parts(
        self, key: str, embed: Callable[[Any], np.ndarray], pixels: Pixels, mapped: bool = False
    ) -> Iterator[np.ndarray]:
        for at in range(0, len(pixels), PART):
            rows, began = _Some(pixels, at, min(at + PART, len(pixels))), time.perf_counter()
            yield self._part(f"{key}-{at // PART:05d}", embed, rows, mapped)
            if len(pixels) > PART and pixels.read:
                rate = pixels.read / (time.perf_counter() - began)
                self.say(f"    {rows.stop:,} of {len(pixels):,} images, {rate:,.0f}/s")
            pixels.read = 0

    def _part(
        self, name: str, embed: Callable[[Any], np.ndarray], rows: _Some, mapped: bool
    ) -> np.ndarray:
        path = self.folder / f"{name}.npy" if self.folder else None
        found = _read(path, len(rows), mapped) if path else None
        # Either all processes read, or all embed: the devices of all work together.
        if distributed.all_hosts(found is not None):
            return found
        found = embed(rows)
        rows.rows.check()
        if path and distributed.is_lead():
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial:
                np.save(partial, found)
        return found

    def clear(self) -> None:
        """Frees what ``get`` holds in memory."""
        self._held.clear()


def _read(path: Path, rows: int, mapped: bool) -> np.ndarray | None:
    """A part, or None where there is none that is whole."""
    try:
        found = np.load(path, mmap_mode="r" if mapped else None)
    except Exception:  # a damaged header can be anything to numpy
        return None
    return found if found.ndim == 2 and len(found) == rows else None
