"""Pairs in tar shards, as img2dataset and webdataset write them."""

import collections
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from clip_jax.config import ConfigDict, ConfigError
from clip_jax.data import paths, tar_scan
from clip_jax.data.errors import DataError
from clip_jax.data.pairs.base import Example, LeftOut, Source, caption_group, clean_caption
from clip_jax.data.tar_index import TarIndex, TarShards, load_index
from clip_jax.data.tar_scan import Lack, ShardError

_KEYS = "set data.image_key and data.caption_key to the endings in the shard"
_ADVICE = {
    Lack.HALF: _KEYS,
    Lack.TWICE: "give every sample a name of its own",
    Lack.DOTS: "give the samples names without dots",
    Lack.NEITHER: _KEYS,
}
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
        ending, self.field = _json_field(caption_key)
        files = paths.matching_files(pattern)
        indices = _load(files, image_key, ending, cache_dir)
        self.shards = TarShards(indices)
        self.left_out = _left_out(indices)
        for index in indices:
            index.forget_left_out()
        if not len(self.shards):
            lacking = "; ".join(f"{g.count:,} samples have {g.reason}" for g in self.left_out[:4])
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            raise DataError(
                f"{files[0]}{more}: no sample has both .{image_key} and .{ending} files "
                f"({lacking or 'there is none at all'}); "
                f"{self.left_out[0].advice if self.left_out else _ADVICE[Lack.HALF]}"
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


def _json_field(caption_key: str) -> tuple[str, str]:
    """File ending and field of "json:FIELD"; any other key, and no field."""
    kinds = [kind.strip().lstrip(".") for kind in caption_key.split(";")]
    if not any(kind.partition(":")[0].lower() == "json" for kind in kinds):
        return caption_key, ""
    ending, _, field = kinds[0].partition(":")
    if len(kinds) > 1 or not field:
        raise ConfigError(
            f"data.caption_key={caption_key!r}: of JSON files give the field that is the caption, "
            "and no other ending beside it: json:caption"
        )
    return ending, field


def _left_out(indices: Sequence[TarIndex]) -> list[LeftOut]:
    counts: collections.Counter[tuple[Lack, str]] = collections.Counter()
    first: dict[tuple[Lack, str], str] = {}
    for index in indices:
        for reason, names in index.left_out().items():
            counts[reason] += len(names)
            first.setdefault(reason, f"{index.path}: {tar_scan.printable(names[0])}")
    groups = [
        LeftOut(words, count, first[lack, words], _ADVICE[lack], lack is not Lack.NEITHER)
        for (lack, words), count in counts.most_common()
    ]
    return sorted(groups, key=lambda group: not group.weighs)
