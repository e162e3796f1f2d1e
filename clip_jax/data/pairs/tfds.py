"""Pairs in a prepared TFDS dataset."""

from typing import Self

import numpy as np

from clip_jax.config import ConfigDict
from clip_jax.data import tfds_split
from clip_jax.data.errors import DataError
from clip_jax.data.pairs.base import Example, Source, caption_group, clean_caption
from clip_jax.runtime.digests import json_digest


class TfdsSource(Source):
    """A TFDS dataset in ArrayRecord (or another random-access) format, already prepared."""

    needs_path = True

    def __init__(self, name: str, split: str, image_key: str, caption_key: str, data_dir: str):
        try:
            builder, self.data = tfds_split.open_split(name, split, image_key, data_dir)
            tfds_split.require_feature(builder, "caption_key", caption_key)
        except DataError as error:
            raise DataError(f"data.{error}") from None
        except Exception as error:  # it raises a dozen kinds
            why = (str(error).strip() or repr(error)).splitlines()[0][:300]
            raise DataError(
                f"data.path={name!r}, data.split={split!r}: TFDS cannot open it: {why}. If it is "
                f"not prepared: {tfds_split.preparation(name, data_dir)}"
            ) from error
        self.name, self.image_key, self.caption_key = name, image_key, caption_key
        identity = tfds_split.identity(builder, split, self.data)
        self.fingerprint = json_digest([*identity, image_key, caption_key])

    @classmethod
    def from_config(cls, data: ConfigDict) -> Self:
        keys = (data.image_key, data.caption_key)
        return cls(data.path, data.split, *keys, data.tfds_data_dir)

    @classmethod
    def validation(cls, data: ConfigDict) -> Self:
        """The pairs of ``data.validation_split``, of ``data.validation_path`` or ``data.path``."""
        path = data.validation_path or data.path
        split = data.validation_split
        return cls.from_config(ConfigDict(data.to_dict() | {"path": path, "split": split}))

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int, rng: np.random.Generator) -> Example:
        record = self.data[index]
        caption = self._caption(record, rng)
        return Example(record[self.image_key], caption, caption_group(caption))

    def caption(self, index: int, rng: np.random.Generator) -> str:
        return self._caption(self.data[index], rng)

    def _caption(self, record: tfds_split.Record, rng: np.random.Generator) -> str:
        text = record[self.caption_key]
        if isinstance(text, list | np.ndarray):
            text = text[int(rng.integers(len(text)))]
        return clean_caption(text)

    def describe(self, index: int) -> str:
        return f"{self.name}: record {index}"
