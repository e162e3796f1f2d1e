"""The sources of training pairs by name. A new one is a subclass of ``Source`` and a line here,
or a line elsewhere: ``SOURCES["mine"] = MySource``.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clip_jax.config import ConfigError
from clip_jax.data.errors import DataError
from clip_jax.data.pairs.base import Source
from clip_jax.data.pairs.emoji import EmojiSource
from clip_jax.data.pairs.synthetic import SyntheticSource
from clip_jax.data.pairs.table import TableSource
from clip_jax.data.pairs.tar import TarSource
from clip_jax.data.pairs.tfds import TfdsSource

SOURCES: dict[str, type[Source]] = {
    "emoji": EmojiSource,
    "table": TableSource,
    "tar": TarSource,
    "tfds": TfdsSource,
    "synthetic": SyntheticSource,
}


def _source(data: Mapping[str, Any]) -> type[Source]:
    if data["source"] not in SOURCES:
        raise DataError(f"data.source={data['source']!r} is not one of {sorted(SOURCES)}")
    return SOURCES[data["source"]]


def build(data: Mapping[str, Any]) -> Source:
    """The source that ``config.data`` describes.

    Raises:
      ConfigError: the source needs ``data.path``, which is empty.
      DataError: no such source, missing files, or data that cannot be read.
    """
    kind = _source(data)
    if kind.needs_path and not data["path"]:
        raise ConfigError(
            f"data.path is empty: data.source={data['source']!r} needs it, for example "
            "--config.data.path='/data/shards/*.tar'"
        )
    return kind.from_config(data)


def build_validation(data: Mapping[str, Any]) -> Source:
    """The pairs that ``config.data`` keeps from training; see ``Source.validation``.

    Raises:
      ConfigError: no such pairs are configured, or the source cannot have any.
      DataError: as ``build``.
    """
    try:
        return _source(data).validation(data)
    except DataError as error:
        raise DataError(f"validation pairs (data.validation_path): {error}") from error


def captions(
    source: Source, limit: int | None = None, *, seed: int = 0, max_bad_fraction: float = 0.0
) -> list[str]:
    """The captions of a source in order, one drawing each: the text to train a tokenizer on.

    Args:
      source: its images are not read.
      limit: the most records to read; of more, ``seed`` chooses a sample from the whole source.
      seed: see ``limit``.
      max_bad_fraction: share of unreadable captions that are left out, as in training.

    Raises:
      DataError: more of them are unreadable, or all.
    """
    chosen: Sequence[int] = range(len(source))
    if limit is not None and limit < len(source):
        pick = np.random.default_rng(seed).choice(len(source), limit, replace=False)
        chosen = np.sort(pick).tolist()
    rng = np.random.default_rng(0)
    texts: list[str] = []
    unreadable = 0
    for index in chosen:
        try:
            texts.append(source.caption(index, rng))
        except Exception as error:  # whatever the data did
            unreadable, last = unreadable + 1, f"{source.describe(index)}: {error}"
            if unreadable <= 5:
                logging.warning("unreadable caption of %s", last)
    if unreadable > max_bad_fraction * max(len(chosen), 1000) or (unreadable and not texts):
        raise DataError(
            f"{unreadable} of {len(chosen)} captions could not be read, more than "
            f"data.max_bad_fraction={max_bad_fraction}; the last is that of {last}"
        )
    return texts
