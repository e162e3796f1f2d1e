"""One row of a batch: a record read, decoded, augmented and tokenized."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from clip_jax.config import ConfigDict
from clip_jax.data import decoders
from clip_jax.data.batch import Batch
from clip_jax.data.errors import DataError
from clip_jax.data.pairs.base import Source
from clip_jax.data.stream.order import PROBE, Order, generator

PROBES = 8  # other records tried in place of an unreadable one


class RowReader:
    """Stream position -> one row of a batch. Called in threads or in processes."""

    def __init__(
        self,
        source: Source,
        tokenizer: Callable[..., np.ndarray],
        data: ConfigDict,
        image_size: int,
        seed: int,
    ):
        self.source, self.tokenizer, self.image_size, self.seed = (
            source, tokenizer, image_size, seed,
        )  # fmt: skip
        self.order = Order(source, data.sampling, seed)
        self.decoder = decoders.get(data.decoder)
        self.augment = self.decoder.augmentation(data.augmentation, data.resize)
        self.cache: dict[int, Image.Image | np.ndarray] | None = {} if data.cache_decoded else None
        self.warnings = 5  # per process: the counters tell the rest

    def __call__(self, position: int) -> Batch:
        """Reads a row; an unreadable record is replaced by a record that the position decides.

        The replacement keeps shapes, order and every other row as they are.
        ``unreadable`` counts the records that failed.

        Raises:
          DataError: ``PROBES`` replacements failed too.
        """
        index = self.order(position)
        for attempt in range(PROBES + 1):
            try:
                return self._read(index, position, attempt)
            except Exception as error:  # whatever the data did, the run goes on
                self._warn(index, error)
                last = f"{self.source.describe(index)}: {error}"
            rng = generator(self.seed, PROBE + attempt, position)
            index = int(rng.integers(len(self.source)))
        raise DataError(f"{PROBES + 1} records in a row cannot be read, the last being {last}")

    def will_read(self, positions: Sequence[int]) -> None:
        """Tells the source which records come next, so that a slow disk can begin."""
        if self.source.reads_ahead:
            self.source.will_read(self.order.ahead(positions))

    def _read(self, index: int, position: int, unreadable: int) -> Batch:
        rng = generator(self.seed, 0, position)
        example = self.source.read(index, rng)
        image = self._decode(index, example.image)
        return Batch(
            images=self.augment(image, self.image_size, rng),
            tokens=self.tokenizer([example.caption])[0],
            groups=np.int32(example.group),
            unreadable=np.int32(unreadable),
            preempted=np.int32(0),
        )

    def _decode(self, index: int, image: bytes | np.ndarray) -> Image.Image | np.ndarray:
        if self.cache is not None and index in self.cache:
            return self.cache[index]
        decoded = self.decoder.decode(image, self.image_size)
        if self.cache is not None:
            self.cache[index] = decoded
        return decoded

    def _warn(self, index: int, error: Exception) -> None:
        if self.warnings > 0:
            self.warnings -= 1
            logging.warning("unreadable record %s: %s", self.source.describe(index), error)
