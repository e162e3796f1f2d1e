"""What every tokenizer shares: framing of ids into rows, and the fingerprint."""

import abc
from collections.abc import Sequence

import numpy as np

from clip_jax.runtime.digests import json_digest
from clip_jax.tokenizers.cleaning import CLEANING


class Tokenizer(abc.ABC):
    """Turns texts into rows ``[sot, ids..., eot, pad...]`` of a fixed length.

    Instances pickle, may be shared between threads, and never import jax.

    Attributes:
      name: the value of the config key ``tokenizer.name``.
      context_length: ids in a row, the start and end of the text included.
      vocab_size: number of ids; every id is in ``range(vocab_size)``.
      pad_id: fills a row after the end of the text.
      sot_id: starts every row; None: rows start with the text.
      eot_id: ends the text; a text tower pools at its first occurrence.
      reads_model: whether it is built from a model file, ``cls(model_path, context_length)``,
        and not by ``cls(context_length)``.
      cleaning: names the rules by which texts are cleaned.
      fingerprint: sha256 (hex) over everything that decides the ids.
    """

    name: str
    vocab_size: int
    pad_id: int
    sot_id: int | None
    eot_id: int
    reads_model: bool = False
    cleaning: str = CLEANING

    def __init__(self, context_length: int, content: str):
        """Sets the length of a row, and the fingerprint from what identifies the vocabulary.

        Raises:
          ValueError: ``context_length`` is not an integer of at least 2.
        """
        if not isinstance(context_length, int) or context_length < 2:
            raise ValueError(
                f"context_length={context_length!r}: give an integer of at least 2, "
                "a row needs room for the start and the end of the text"
            )
        self.context_length = context_length
        identity = [self.name, content, self.cleaning, context_length]
        self.fingerprint = json_digest(identity)

    def with_context_length(self, context_length: int) -> "Tokenizer":
        """The same tokenizer with rows of another length.

        One whose constructor takes more than the length must override this.

        Raises:
          ValueError: as the constructor.
        """
        return type(self)(context_length)

    @abc.abstractmethod
    def encode(self, text: str) -> Sequence[int]:
        """All ids of the cleaned ``text``, without start, end and padding."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The (cleaned) text that ``ids`` stand for."""

    def __call__(self, texts: str | Sequence[str], *, truncate: bool = True) -> np.ndarray:
        """Tokenizes one text or B texts: int32[B, context_length].

        Args:
          texts: a string makes a batch of one.
          truncate: cut a text that is too long and end its row with ``eot_id``; otherwise refuse.

        Raises:
          TypeError: an entry of ``texts`` is not a string.
          ValueError: a text is too long and ``truncate`` is False.
        """
        texts = [texts] if isinstance(texts, str) else texts
        start = [] if self.sot_id is None else [self.sot_id]
        rows = np.full((len(texts), self.context_length), self.pad_id, np.int32)
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(
                    f"texts[{index}] is {type(text).__name__}, not str: decode it to text first"
                )
            ids = [*start, *self.encode(text), self.eot_id]
            if len(ids) > self.context_length:
                if not truncate:
                    raise ValueError(
                        f"texts[{index}] has {len(ids)} ids with its start and end, the context "
                        f"length is {self.context_length}: shorten it or pass truncate=True"
                    )
                ids = [*ids[: self.context_length - 1], self.eot_id]
            rows[index, : len(ids)] = ids
        return rows

    def _checked(self, ids: Sequence[int]) -> list[int]:
        """``ids`` as Python integers, or raises ValueError for one out of range."""
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"id {i} is outside this vocabulary of {self.vocab_size} ids")
        return ids
