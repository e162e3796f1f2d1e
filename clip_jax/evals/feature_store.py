"""Embeddings of whole datasets: read in threads, embedded on all devices, stored on disk.

A dataset is embedded in parts, and each part is a file as soon as it is complete: an interrupted
evaluation continues there, and what has been embedded once is read. The key is what decides the
numbers: the model's weights, its preprocessing and the data.
"""

import concurrent.futures
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from clip_jax.data.image_file import BadImage
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.types import ImageDataset
from clip_jax.evals.embedder import Rows
from clip_jax.runtime import distributed
from clip_jax.runtime.atomic import whole_file
from clip_jax.runtime.digests import json_digest

PART = 8192  # images a file

Embed = Callable[[Rows], np.ndarray]
Say = Callable[[str], None]


class PixelCache:
    """Preprocessed images in memory, for a model that is evaluated again and again as it learns.

    A dataset that does not fit in what is left of the limit is read and decoded every time. Each
    process fills in the images of its own devices only.
    """

    def __init__(self, limit: int):
        """Starts empty; ``limit`` is in bytes, of all datasets together."""
        self._left = limit
        self._images: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}

    def of(self, data: ImageDataset, preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
        """The images uint8[n, S, S, 3] of a dataset, and which are there: bool[n].

        Both have no rows where the dataset does not fit.
        """
        key = data.fingerprint, preprocess.fingerprint
        if key not in self._images:
            # The images of another preprocessing will not come back: the model has another size.
            for old in [k for k in self._images if k[0] == key[0]]:
                self._left += self._images.pop(old)[0].nbytes
            shape = (len(data), preprocess.image_size, preprocess.image_size, 3)
            count = len(data) if int(np.prod(shape)) <= self._left else 0
            self._images[key] = np.empty((count, *shape[1:]), np.uint8), np.zeros(count, bool)
            self._left -= self._images[key][0].nbytes
        return self._images[key]


class Pixels:
    """The images of a dataset as rows for an ``Embedder``, decoded when they are needed.

    ``pixels[rows]``, for int[k], is uint8[k, S, S, 3]. An unreadable image is black and its
    error is in ``bad``: the devices of other processes need not wait for this process.
    """

    def __init__(self, data: ImageDataset, preprocess: Preprocess, cache: PixelCache | None = None):
        self.data, self.preprocess = data, preprocess
        self.bad: list[BadImage] = []
        self.read = 0
        self._cached, self._is_cached = (cache or PixelCache(0)).of(data, preprocess)
        # Pillow releases the interpreter lock while it decodes and resizes.
        self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        size = self.preprocess.image_size
        if not len(rows):
            return np.zeros((0, size, size, 3), np.uint8)
        self.read += len(rows)
        return np.stack(list(self._pool.map(self._read, rows)))

    def _read(self, index: int) -> np.ndarray:
        cached = len(self._cached) > 0
        if cached and self._is_cached[index]:
            return self._cached[index]
        try:
            image = self.data.load(int(index), self.preprocess)
        except BadImage as error:
            self.bad.append(error)
            return np.zeros((self.preprocess.image_size, self.preprocess.image_size, 3), np.uint8)
        if cached:
            self._cached[index], self._is_cached[index] = image, True
        return image

    def check(self) -> None:
        """Raises BadImage on all processes if one could not read an image. All must call it."""
        if distributed.all_hosts(not self.bad):
            return
        if not self.bad:
            raise BadImage("another process could not read an image: see its message")
        first, more = self.bad[0], len(self.bad) - 1
        if not distributed.is_lead():
            print(f"error: {first}", file=sys.stderr)  # the lead, which reports, does not know it
        raise BadImage(f"{first}{f' (and {more} more)' if more else ''}") from first


class _Slice:
    """Rows ``start`` to ``stop`` of others."""

    def __init__(self, rows: Pixels, start: int, stop: int):
        self.rows, self.start, self.stop = rows, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.rows[self.start + np.asarray(rows)]


class Store:
    """Features of images under a folder, by key; without a folder, in this process's memory."""

    def __init__(
        self,
        folder: Path | None,
        model: str,
        say: Say = lambda line: None,
        pixels: PixelCache | None = None,
    ):
        """Opens a store.

        Args:
          folder: of the files; None: no files.
          model: fingerprint of weights, preprocessing and computation.
          say: called with lines of progress.
          pixels: preprocessed images that outlive the store; None: all are decoded.
        """
        self.folder, self.model, self.say, self.pixels = folder, model, say, pixels
        self._whole: dict[str, np.ndarray] = {}
        self._in_parts: dict[str, list[np.ndarray]] = {}

    def get(
        self, kind: str, embed: Embed, data: ImageDataset, preprocess: Preprocess
    ) -> np.ndarray:
        """Features of all images of a dataset. All processes must ask for the same.

        Args:
          kind: "images" or "features", the Embedder's function.
          embed: that function.
          data: the images.
          preprocess: image -> the model's input.

        Returns:
          float32[n, E], in memory.

        Raises:
          BadImage: an image cannot be read.
        """
        key = self._key(kind, data)
        if key not in self._whole:
            pixels = Pixels(data, preprocess, self.pixels)
            parts = list(self._parts(key, embed, pixels))
            self._whole[key] = np.concatenate(parts) if parts else embed(pixels)
        return self._whole[key]

    def parts(
        self, kind: str, embed: Embed, data: ImageDataset, preprocess: Preprocess
    ) -> Iterator[np.ndarray]:
        """The features of ``get`` in parts of ``PART`` images, for datasets larger than memory.

        What is on disk comes as memory maps. Without a folder all stays in memory.
        """
        key, pixels = self._key(kind, data), Pixels(data, preprocess, self.pixels)
        if self.folder:
            yield from self._parts(key, embed, pixels, mapped=True)
            return
        if key not in self._in_parts:
            self._in_parts[key] = list(self._parts(key, embed, pixels))
        yield from self._in_parts[key]

    def _key(self, kind: str, data: ImageDataset) -> str:
        return json_digest([kind, self.model, data.fingerprint, len(data)])[:24]

    def _parts(
        self, key: str, embed: Embed, pixels: Pixels, mapped: bool = False
    ) -> Iterator[np.ndarray]:
        for start in range(0, len(pixels), PART):
            rows, began = _Slice(pixels, start, min(start + PART, len(pixels))), time.perf_counter()
            yield self._part(f"{key}-{start // PART:05d}", embed, rows, mapped)
            if len(pixels) > PART and pixels.read:
                rate = pixels.read / (time.perf_counter() - began)
                self.say(f"    {rows.stop:,} of {len(pixels):,} images, {rate:,.0f}/s")
            pixels.read = 0

    def _part(self, name: str, embed: Embed, rows: _Slice, mapped: bool) -> np.ndarray:
        path = self.folder / f"{name}.npy" if self.folder else None
        features = _read(path, len(rows), mapped) if path else None
        # Either all processes read, or all embed: the devices of all work together.
        if distributed.all_hosts(features is not None):
            return features
        features = embed(rows)
        rows.rows.check()
        if path and distributed.is_lead():
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial:
                np.save(partial, features)
        return features

    def clear(self) -> None:
        """Frees what ``get`` holds in memory."""
        self._whole.clear()


def _read(path: Path, rows: int, mapped: bool) -> np.ndarray | None:
    """A part, or None where there is none that is whole."""
    try:
        features = np.load(path, mmap_mode="r" if mapped else None)
    except Exception:  # a damaged header can be anything to numpy
        return None
    return features if features.ndim == 2 and len(features) == rows else None
