"""Which record stands at a position of the stream."""

from collections.abc import Sequence

import grain
import numpy as np

from clip_jax.data.errors import DataError
from clip_jax.data.pairs.base import Source

SAMPLINGS = ("uniform", "grouped")  # values of ``data.sampling``, see ``Order``
_SHUFFLE, MEMBER, PROBE = 1, 2, 3  # separate streams of randomness


class Order:
    """Stream position -> record number.

    uniform: each pass over the data is a fresh permutation of all records.
    grouped: each pass is a fresh permutation of the groups, with one record drawn from each:
    groups count alike however many records they have, and do not meet themselves in a batch.
    """

    def __init__(self, source: Source, sampling: str, seed: int):
        self.seed = seed
        self.members: list[np.ndarray] | None = None
        count = len(source)
        if count == 0:
            raise DataError("the data source has no records")
        if sampling == "grouped":
            if source.groups is None:
                raise DataError(
                    "data.sampling='grouped' needs a source whose groups are known beforehand "
                    "(emoji, synthetic); set data.sampling='uniform'"
                )
            by_group = np.argsort(source.groups, kind="stable")
            cuts = np.flatnonzero(np.diff(source.groups[by_group])) + 1
            self.members = np.split(by_group, cuts)
            weights = np.ones(count) if source.weights is None else source.weights
            self.shares = [np.cumsum(weights[m]) / weights[m].sum() for m in self.members]
            count = len(self.members)
        self.count = count
        self._permutation = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
        self._known: dict[int, int] = {}

    def __call__(self, position: int) -> int:
        known = self._known.pop(position, None)
        return self._record(position) if known is None else known

    def ahead(self, positions: Sequence[int]) -> list[int]:
        """The records of positions that will be asked for again, once each."""
        records = [self._record(p) for p in positions]
        self._known.update(zip(positions, records, strict=True))
        return records

    def _record(self, position: int) -> int:
        pick = int(self._permutation[position])
        if self.members is None:
            return pick
        draw = generator(self.seed, MEMBER, position).random()
        return int(self.members[pick][np.searchsorted(self.shares[pick], draw, "right")])


def generator(seed: int, stream: int, position: int) -> np.random.Generator:
    """The randomness of one kind (``stream``) at one position."""
    return np.random.default_rng((seed, stream, position))
