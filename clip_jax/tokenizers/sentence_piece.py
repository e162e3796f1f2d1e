"""SentencePiece tokenizer over a model trained on the user's own captions."""

import abc
import hashlib
import io
import os
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from clip_jax.config.checks import require_choice
from clip_jax.runtime.atomic import write_atomically
from clip_jax.tokenizers.base import Tokenizer
from clip_jax.tokenizers.cleaning import CLEANING, clean

# How a text is cut. "word" keeps whole words, and all it has not seen are one unknown: for small
# sets of captions, in which the parts of a word mean nothing.
MODEL_TYPES = ("unigram", "bpe", "word")

_PUNCTUATION = re.compile(r"([^\w\s])")
_SPECIAL_IDS = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
_LOG_ERRORS_ONLY = 2
_TOO_MANY = re.compile(r"Vocabulary size too high.*?<=\s*(\d+)", re.DOTALL)
_TOO_FEW = re.compile(r"smaller than required_chars\.\s*\d+ vs (\d+)")


class ModelTokenizer(Tokenizer):
    """Applies a SentencePiece model to cleaned texts."""

    reads_model = True

    def __init__(self, model: str | os.PathLike | bytes, context_length: int):
        """Loads a model from the path of its file, or from its bytes.

        Raises:
          FileNotFoundError: there is no file at that path.
          ValueError: not a SentencePiece model, one with other special ids than this kind needs, or
            a ``context_length`` below 2.
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
        self._take_ids(source)

    def with_context_length(self, context_length: int) -> "ModelTokenizer":
        return type(self)(self.model, context_length)

    def __reduce__(self):
        """Pickles the model itself, so that a worker needs no file."""
        return type(self), (self.model, self.context_length)

    @abc.abstractmethod
    def _take_ids(self, source: str) -> None:
        """Checks the model's special ids, or takes them from it."""

    @abc.abstractmethod
    def _cleaned(self, text: str) -> str:
        """What the model is applied to."""

    def encode(self, text: str) -> list[int]:
        """All ids of the cleaned ``text``, without start, end and padding."""
        return self._processor.encode(self._cleaned(text), out_type=int)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``; start, end and padding add nothing to it.

        Raises:
          ValueError: an id is outside the vocabulary.
        """
        return self._processor.decode(self._checked(ids))


class SentencePieceTokenizer(ModelTokenizer):
    """A model of our own training: pad 0, start 1, end 2, unknown 3."""

    name = "sentencepiece"
    cleaning = f"{CLEANING}, punctuation apart"
    pad_id = _SPECIAL_IDS["pad_id"]
    sot_id = _SPECIAL_IDS["bos_id"]
    eot_id = _SPECIAL_IDS["eos_id"]
    unk_id = _SPECIAL_IDS["unk_id"]

    def _take_ids(self, source: str) -> None:
        ids = {name: getattr(self._processor, name)() for name in _SPECIAL_IDS}
        if ids != _SPECIAL_IDS:
            flags = " ".join(f"--{name}={value}" for name, value in _SPECIAL_IDS.items())
            raise ValueError(
                f"{source} has the special ids {ids}: train it with {flags}, "
                "which is what `python -m clip_jax.tokenizers.train` does"
            )

    def _cleaned(self, text: str) -> str:
        return _apart(text)


def _apart(text: str) -> str:
    """Cleaned text whose punctuation stands between spaces: "fire," holds the word "fire"."""
    return " ".join(_PUNCTUATION.sub(r" \1 ", clean(text)).split())


def train_sentencepiece(
    captions: Iterable[str],
    vocab_size: int,
    path: str | os.PathLike,
    *,
    model_type: str = "unigram",
    max_captions: int = 1_000_000,
    seed: int = 0,
) -> int:
    """Trains a SentencePiece model on ``captions`` and writes it to ``path``, whole or not at all.

    The same captions and arguments give the same bytes.

    Args:
      captions: texts; they are cleaned here, and empty ones are left out.
      vocab_size: number of ids, the four special ones included; for "word" the most.
      path: where the model goes; an existing file is replaced, folders are made.
      model_type: one of ``MODEL_TYPES``.
      max_captions: of more, learn from a random sample; memory and time grow with it.
      seed: chooses that sample.

    Returns:
      The number of captions it learned from.

    Raises:
      ValueError: there is no caption, or ``vocab_size`` does not suit the captions; the message
        gives the largest or smallest size that does.
    """
    require_choice("tokenizer.model_type", model_type, MODEL_TYPES)
    if vocab_size <= len(_SPECIAL_IDS) or max_captions < 1:
        raise ValueError(
            f"tokenizer.vocab_size={vocab_size} must be above the {len(_SPECIAL_IDS)} special ids "
            f"and max_captions={max_captions} at least 1"
        )
    sample = _sample(captions, max_captions, seed)
    cleaned = [text for text in map(_apart, sample) if text]
    if not cleaned:
        raise ValueError("there is no caption with any text in it to train a tokenizer on")
    model = _train(cleaned, vocab_size, model_type)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, model)
    return len(cleaned)


def _sample(captions: Iterable[str], size: int, seed: int) -> list[str]:
    """``size`` captions that are not blank, each as likely, from one pass over them."""
    rng = random.Random(seed)
    sample: list[str] = []
    for seen, caption in enumerate(c for c in captions if c.strip()):
        if seen < size:
            sample.append(caption)
        elif (place := rng.randrange(seen + 1)) < size:
            sample[place] = caption
    return sample


def _train(captions: list[str], vocab_size: int, model_type: str) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(captions),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=model_type != "word",
            character_coverage=1.0,
            # ``clean`` has normalised the text; a second normalisation could undo its choices.
            normalization_rule_name="identity",
            max_sentence_length=2**20,  # bytes; the library's own 4,192 drops longer captions
            num_threads=1,  # the sums of several threads differ in their last bits
            minloglevel=_LOG_ERRORS_ONLY,
            **_SPECIAL_IDS,
        )
    except RuntimeError as error:
        raise ValueError(_explain(str(error), len(captions), vocab_size)) from None
    return model.getvalue()


def _explain(message: str, captions: int, vocab_size: int) -> str:
    """Rewrites what the library says about a vocabulary size."""
    if match := _TOO_MANY.search(message):
        return (
            f"tokenizer.vocab_size={vocab_size} is too large for {captions} captions: "
            f"use at most {match[1]}, or give more captions"
        )
    if match := _TOO_FEW.search(message):
        return (
            f"tokenizer.vocab_size={vocab_size} is too small for the characters in these captions: "
            f"use at least {match[1]}"
        )
    return f"SentencePiece could not train on {captions} captions: {message}"
