"""What every source of image-text pairs has in common."""

import abc
import zlib
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from clip_jax.config import ConfigDict, ConfigError
from clip_jax.data.errors import DataError

MAX_CAPTION_BYTES = 4096


class Example(NamedTuple):
    """One pair: an encoded image (or uint8[H, W, 3 or 4] pixels), a caption, its group."""

    image: bytes | np.ndarray
    caption: str
    group: int


class LeftOut(NamedTuple):
    """Samples of the data that are no pairs, for one reason.

    Attributes:
      reason: what they lack.
      count: how many there are.
      first: where the first of them lies.
      advice: what to do about it.
      weighs: whether they count for ``data.max_bad_fraction``.
    """

    reason: str
    count: int
    first: str
    advice: str
    weighs: bool = True


class Source(abc.ABC):
    """Pairs by number. Must be picklable, so that decoding processes can have a copy.

    Attributes:
      fingerprint: sha256 over what decides the pairs and their order.
      groups: int32[n], or None where they are not known before reading. Pairs of one group show
        the same thing and are not negatives of each other under ``loss.mask_groups``.
      weights: float[n], how often a pair is drawn in comparison with others of its group under
        ``data.sampling="grouped"``; None: equally often.
      left_out: samples that are no pairs, by reason: those that weigh, the most frequent first.
      needs_path: whether ``data.path`` must be given.
      reads_ahead: whether ``will_read`` does anything.
    """

    fingerprint: str
    groups: np.ndarray | None = None
    weights: np.ndarray | None = None
    left_out: Sequence[LeftOut] = ()
    needs_path: bool = False
    reads_ahead: bool = False

    @classmethod
    @abc.abstractmethod
    def from_config(cls, data: ConfigDict) -> Self:
        """The source that ``config.data`` describes.

        Raises:
          DataError: missing files, or data that cannot be read.
        """

    @classmethod
    def validation(cls, data: ConfigDict) -> "Source":
        """The pairs that ``config.data`` keeps from training: those of ``data.validation_path``.

        Raises:
          ConfigError: no such pairs are configured, or the source cannot have any.
          DataError: as ``from_config``.
        """
        if not data.validation_path:
            raise ConfigError(
                "data.validation_path is empty: give it pairs that "
                "are not trained on, in the format of data.source"
            )
        return cls.from_config(ConfigDict(data.to_dict() | {"path": data.validation_path}))

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read(self, index: int, rng: np.random.Generator) -> Example:
        """Pair ``index``; ``rng`` picks among several captions. Raises where it is unreadable."""

    @abc.abstractmethod
    def caption(self, index: int, rng: np.random.Generator) -> str:
        """The caption that ``read`` gives with an ``rng`` like this, without reading the image."""

    def will_read(self, indices: Sequence[int]) -> None:  # noqa: B027 # most need not know
        """Says which pairs will be read soon, so that they can be fetched in a good order."""

    @abc.abstractmethod
    def describe(self, index: int) -> str:
        """Where pair ``index`` lies, for messages."""


def caption_group(caption: str) -> int:
    """A group number for sources without groups: equal captions share it."""
    return zlib.crc32(caption.encode("utf-8", "replace")) & 0x7FFFFFFF


def clean_caption(text: str | bytes) -> str:
    """UTF-8 text without control characters, at most 4 KiB.

    Raises:
      DataError: nothing is left.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    text = text[:MAX_CAPTION_BYTES]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    text = text.strip()
    if not text:
        raise DataError("empty caption")
    return text
