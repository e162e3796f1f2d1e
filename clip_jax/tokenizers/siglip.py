"""SigLIP's tokenizer: the SentencePiece model of its weights, applied as Hugging Face does."""

import hashlib
import os
import string
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from clip_jax.tokenizers.base import Tokenizer

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class SigLipTokenizer(Tokenizer):
    """Rows ``[ids..., end, end...]`` without a start: the end fills the row too.

    Text is lowered, stripped of ASCII punctuation, and its whitespace collapsed, as SigLIP's
    captions were (big_vision; ``SiglipTokenizer`` of transformers).
    """

    name = "siglip"
    reads_model = True
    sot_id = None
    cleaning = "lower, without punctuation, collapse whitespace"

    def __init__(self, model: str | os.PathLike | bytes, context_length: int = 64):
        """Loads a model.

        Args:
          model: path of a ``spiece.model``, or the bytes of one.
          context_length: ids in a row, at least 2.

        Raises:
          FileNotFoundError: there is no file at that path.
          ValueError: not a SentencePiece model, or one without an end; or a ``context_length``
            below 2.
        """
        source = "the model given as bytes" if isinstance(model, bytes) else os.fspath(model)
        self.model = model if isinstance(model, bytes) else Path(model).read_bytes()
        super().__init__(context_length, hashlib.sha256(self.model).hexdigest())
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.load_from_serialized_proto(self.model)
        except RuntimeError:
            raise ValueError(f"{source} is not a SentencePiece model") from None
        self.vocab_size = self._processor.get_piece_size()
        self.eot_id = self.pad_id = self._processor.eos_id()
        if self.eot_id < 0:
            raise ValueError(f"{source} has no end of text, which SigLIP's rows are filled with")

    def __reduce__(self):
        """Pickles the model itself, so that a worker needs no file."""
        return type(self), (self.model, self.context_length)

    def encode(self, text: str) -> list[int]:
        """All ids of the cleaned ``text``, without end."""
        cleaned = " ".join(text.lower().translate(_PUNCTUATION).split())
        return self._processor.encode(cleaned, out_type=int)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``; the end adds nothing to it.

        Raises:
          ValueError: an id is outside the vocabulary.
        """
        return self._processor.decode(self._checked(ids))
