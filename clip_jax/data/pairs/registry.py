"""The sources of training pairs by name. A new one is a subclass of ``Source`` and a line here,
or a line elsewhere: ``SOURCES["mine"] = MySource``.
"""

import logging
from collections.abc import Sequence

import numpy as np

from clip_jax.config import ConfigDict, ConfigError
from clip_jax.config.checks import require_choice
from clip_jax.data.errors import DataError
from clip_jax.data.pairs.base import Source
from clip_jax.data.pairs.emoji import EmojiSource
from clip_jax.data.pairs.synthetic import SyntheticSource
from clip_jax.data.pairs.table import TableSource
from clip_jax.data.pairs.tar import TarSource
from clip_jax.data.pairs.tfds import TfdsSource
from clip_jax.runtime import distributed

_REASONS = 4  # shown of those for which samples are left out

SOURCES: dict[str, type[Source]] = {
    "emoji": EmojiSource,
    "table": TableSource,
    "tar": TarSource,
    "tfds": TfdsSource,
    "synthetic": SyntheticSource,
}


def check(data: ConfigDict) -> None:
    """Checks ``config.data`` as far as that is possible without the data.

    Raises:
      ConfigError: no such source, or it needs ``data.path``, which is empty.
    """
    require_choice("data.source", data.source, SOURCES)
    if SOURCES[data.source].needs_path and not data.path:
        raise ConfigError(
            f"data.path is empty: data.source={data.source!r} needs it, for example "
            "--config.data.path='/data/shards/*.tar'"
        )


def build(data: ConfigDict) -> Source:
    """The source that ``config.data`` describes.

    Raises:
      ConfigError: as ``check``.
      DataError: missing files, or data that cannot be read.
    """
    check(data)
    return _checked(SOURCES[data.source].from_config(data), data)


def build_validation(data: ConfigDict) -> Source:
    """The pairs that ``config.data`` keeps from training; see ``Source.validation``.

    Raises:
      ConfigError: no such pairs are configured, or the source cannot have any.
      DataError: as ``build``.
    """
    require_choice("data.source", data.source, SOURCES)
    try:
        source = _checked(SOURCES[data.source].validation(data), data)
    except DataError as error:
        raise DataError(f"validation pairs (data.validation_path): {error}") from error
    if (words := describe_left_out(source)) and distributed.is_lead():
        logging.warning("validation pairs: %s", words)
    return source


def _checked(source: Source, data: ConfigDict) -> Source:
    """The source, if no more is left out of it than ``data.max_bad_fraction`` allows."""
    groups = [group for group in source.left_out if group.weighs]
    count = sum(group.count for group in groups)
    total = len(source) + count
    # A few are no reason to refuse small data: ten, or a tenth.
    if count > max(data.max_bad_fraction * total, min(10, total // 10)):
        raise DataError(
            f"{describe_left_out(source)}. That is more than "
            f"data.max_bad_fraction={data.max_bad_fraction} of the data; {groups[0].advice}, or "
            "raise data.max_bad_fraction"
        )
    return source


def describe_left_out(source: Source) -> str:
    """What is left out of a source, in words; empty where nothing is."""
    count = sum(group.count for group in source.left_out)
    if not count:
        return ""
    shown = [f"{g.count:,}: {g.reason} (first {g.first})" for g in source.left_out[:_REASONS]]
    if len(source.left_out) > _REASONS:
        shown.append(f"and {len(source.left_out) - _REASONS} more reasons")
    return f"{count:,} of {len(source) + count:,} samples left out: " + "; ".join(shown)


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
