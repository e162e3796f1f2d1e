"""Pairs made on the fly, for tests and benchmarks."""

from typing import Self

import numpy as np

from clip_jax.config import ConfigDict
from clip_jax.data.pairs.base import Example, Source
from clip_jax.runtime.digests import json_digest

COLORS = {
    "red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 70, 210), "black": (20, 20, 20),
    "yellow": (240, 210, 50), "white": (250, 250, 250), "orange": (245, 140, 30),
    "purple": (130, 50, 170),
}  # fmt: skip


class SyntheticSource(Source):
    """Two-colour images and their captions.

    All images differ, also between sources with different numbers: ``first`` is the lowest.
    """

    def __init__(self, size: int = 4096, pixels: int = 32, first: int = 0):
        self.size, self.pixels, self.first = size, pixels, first
        self.names = [(a, b) for a in COLORS for b in COLORS if a != b]
        self.groups = np.arange(size, dtype=np.int32) % len(self.names)
        self.fingerprint = json_digest(["synthetic", size, pixels, first])

    @classmethod
    def from_config(cls, data: ConfigDict) -> Self:
        del data
        return cls()

    @classmethod
    def validation(cls, data: ConfigDict) -> Self:
        """Pairs whose numbers begin far after those of any training source."""
        del data
        return cls(first=1 << 32)

    def __len__(self) -> int:
        return self.size

    def read(self, index: int, rng: np.random.Generator) -> Example:
        group = int(self.groups[index])
        above, below = self.names[group]
        image = np.empty((self.pixels, self.pixels, 3), np.int16)
        image[: self.pixels // 2], image[self.pixels // 2 :] = COLORS[above], COLORS[below]
        noise = np.random.default_rng(self.first + index)
        image += noise.integers(-20, 20, image.shape, np.int16)
        return Example(image.clip(0, 255).astype(np.uint8), self.caption(index, rng), group)

    def caption(self, index: int, rng: np.random.Generator) -> str:
        del rng
        return "{} above {}".format(*self.names[int(self.groups[index])])

    def describe(self, index: int) -> str:
        return f"synthetic pair {index}"
