"""Pairs in tar shards, as img2dataset and webdataset write them."""

import collections
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from clip_jax.config import ConfigDict, ConfigError
from clip_jax.data import paths
from clip_jax.data.errors import DataError
from clip_jax.data.pairs.base import Example, LeftOut, Source, caption_group, clean_caption
from clip_jax.data.tar_index import TarIndex, TarShards, load_index
from clip_jax.data.tar_scan import ShardError

_NAMED = 5  # damaged shards in one message


class TarSource(Source):
    """Pairs in tar shards; see ``clip_jax.data.tar_index``.

    ``caption_key`` may be a field of JSON files: "json:caption".
    """

    needs_path = True
    reads_ahead = True

    def __init__(self, pattern: str, image_key: str, caption_key: str, cache_dir: Path):
        """Indexes the shards that have not been indexed.

        Raises:
          ConfigError: ``caption_key`` is "json" without a field.
          ShardError: shards are damaged.
          DataError: there is no shard, or no pair in them.
        """
        ending, _, self.field = caption_key.partition(":")
        if ending.strip(" .").lower() == "json" and not self.field:
            raise ConfigError(
                f"data.caption_key={caption_key!r} would take the whole JSON text as the caption; "
                "name the field, such as json:caption"
            )
        files = paths.matching_files(pattern)
        indices = _load(files, image_key, ending, cache_dir)
        self.shards = TarShards(indices)
        self.left_out = _left_out(indices)
        if not len(self.shards):
            lacking = "; ".join(f"{g.count:,} samples have {g.reason}" for g in self.left_out[:4])
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            raise DataError(
                f"{files[0]}{more}: no sample has both .{image_key} and .{ending} files "
                f"({lacking or 'there is none at all'}); set data.image_key and data.caption_key "
                "to the endings in the shard"
            )
        digest = hashlib.sha256(f"{image_key}\0{caption_key}".encode())
        for shard in self.shards.indices:
            keys = "\0".join(shard.keys.tolist()).encode("utf-8", "surrogateescape")
            sizes = [shard.path.name, shard.path.stat().st_size, len(shard), len(keys)]
            digest.update(json.dumps(sizes).encode() + keys)
            digest.update(np.ascontiguousarray(shard.spans, "<i8").tobytes())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def from_config(cls, data: ConfigDict) -> Self:
        return cls(data.path, data.image_key, data.caption_key, paths.cache_dir(data.cache_dir))

    def __len__(self) -> int:
        return len(self.shards)

    def read(self, index: int, rng: np.random.Generator) -> Example:
        del rng
        image, text = self.shards.sample(index)
        caption = self._caption(text)
        return Example(image, caption, caption_group(caption))

    def will_read(self, indices: Sequence[int]) -> None:
        self.shards.will_read(indices)

    def caption(self, index: int, rng: np.random.Generator) -> str:
        del rng
        return self._caption(self.shards.text(index))

    def _caption(self, text: bytes) -> str:
        if not self.field:
            return clean_caption(text)
        fields = json.loads(text)
        value = fields.get(self.field) if isinstance(fields, dict) else None
        if not isinstance(value, str):
            has = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
            raise DataError(f"its JSON has no text {self.field!r} (data.caption_key), but {has}")
        return clean_caption(value)

    def describe(self, index: int) -> str:
        return self.shards.describe(index)


def _load(
    files: Sequence[Path], image_key: str, caption_key: str, cache_dir: Path
) -> list[TarIndex]:
    """The indices of all shards; damaged ones are named together, not one at each start."""
    indices, damaged = [], []
    for path in files:
        try:
            indices.append(load_index(path, image_key, caption_key, cache_dir))
        except ShardError as error:
            damaged.append(str(error))
    if len(damaged) > 1:
        more = [f"and {len(damaged) - _NAMED} more"] if len(damaged) > _NAMED else []
        lines = "\n  ".join(damaged[:_NAMED] + more)
        raise ShardError(f"{len(damaged)} of {len(files)} shards cannot be read:\n  {lines}")
    if damaged:
        raise ShardError(damaged[0])
    return indices


def _left_out(indices: Sequence[TarIndex]) -> list[LeftOut]:
    counts: collections.Counter[str] = collections.Counter()
    first: dict[str, str] = {}
    for index in indices:
        for key, reason in zip(index.incomplete.tolist(), index.reasons.tolist(), strict=True):
            counts[reason] += 1
            first.setdefault(reason, f"{index.path}: {key}")
    return [LeftOut(reason, count, first[reason]) for reason, count in counts.most_common()]
