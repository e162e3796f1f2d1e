"""Tokenizers behind one callable: texts -> int32[B, L]."""

import os

from clip_jax.config.checks import require_choice
from clip_jax.tokenizers.base import Tokenizer
from clip_jax.tokenizers.clip_bpe import ClipTokenizer
from clip_jax.tokenizers.sentence_piece import SentencePieceTokenizer, train_sentencepiece
from clip_jax.tokenizers.siglip import SigLipTokenizer

__all__ = [
    "KINDS",
    "ClipTokenizer",
    "SentencePieceTokenizer",
    "SigLipTokenizer",
    "Tokenizer",
    "build",
    "train_sentencepiece",
]

# Every value of the config key ``tokenizer.name``; a tokenizer of your own is one more entry.
KINDS: dict[str, type[Tokenizer]] = {
    "clip": ClipTokenizer,
    "sentencepiece": SentencePieceTokenizer,
    "siglip": SigLipTokenizer,
}


def build(name: str, context_length: int, model_path: str | os.PathLike | None = None) -> Tokenizer:
    """Builds the tokenizer that a config names.

    Args:
      name: config key ``tokenizer.name``, a key of ``KINDS``.
      context_length: ids in a row, start and end included.
      model_path: config key ``tokenizer.model``; None or "" where no model file is read.

    Raises:
      ValueError: an unknown name; a model path that is missing, leads to no file, or is not for
        this kind; a file that is no usable model; a context length below 2.
    """
    require_choice("tokenizer.name", name, KINDS)
    kind = KINDS[name]
    if not kind.reads_model:
        if model_path:
            raise ValueError(
                f"tokenizer.name={name!r} has no use for "
                f"tokenizer.model={os.fspath(model_path)!r}: leave it empty, "
                "or set tokenizer.name='sentencepiece'"
            )
        return kind(context_length)
    if not model_path:
        raise ValueError(
            f"tokenizer.name={name!r} needs tokenizer.model, the path of a model file: train one "
            "on your captions with `python -m clip_jax.tokenizers.train`"
        )
    if not os.path.isfile(model_path):
        raise ValueError(f"tokenizer.model={os.fspath(model_path)!r}: there is no such file")
    return kind(model_path, context_length)
