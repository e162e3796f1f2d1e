"""Pairs in tar shards, as img2dataset and webdataset write them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from clip_jax.config import ConfigDict
from clip_jax.data import paths
from clip_jax.data.pairs.base import Example, Source, caption_group, clean_caption
from clip_jax.data.tar_index import TarShards, load_index


class TarSource(Source):
    """Pairs in tar shards; see ``clip_jax.data.tar_index``."""

    needs_path = True
    reads_ahead = True

    def __init__(self, pattern: str, image_key: str, caption_key: str, cache_dir: Path):
        self.shards = TarShards(
            [
                load_index(path, image_key, caption_key, cache_dir)
                for path in paths.matching_files(pattern)
            ]
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
        caption = clean_caption(text)
        return Example(image, caption, caption_group(caption))

    def will_read(self, indices: Sequence[int]) -> None:
        self.shards.will_read(indices)

    def caption(self, index: int, rng: np.random.Generator) -> str:
        del rng
        return clean_caption(self.shards.text(index))

    def describe(self, index: int) -> str:
        return self.shards.describe(index)
