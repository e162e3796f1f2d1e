"""SigLIP's tokenizer: the SentencePiece model of its weights, applied as Hugging Face does."""

import os
import string

from clip_jax.tokenizers.sentence_piece import ModelTokenizer

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class SigLipTokenizer(ModelTokenizer):
    """Rows ``[ids..., end, end...]`` without a start: the end fills the row too.

    Text is lowered, stripped of ASCII punctuation, and its whitespace collapsed, as SigLIP's
    captions were (big_vision; ``SiglipTokenizer`` of transformers). The model is a
    ``spiece.model``.
    """

    name = "siglip"
    sot_id = None
    cleaning = "lower, without punctuation, collapse whitespace"

    def __init__(self, model: str | os.PathLike | bytes, context_length: int = 64):
        """See ``ModelTokenizer``."""
        super().__init__(model, context_length)

    def _take_ids(self, source: str) -> None:
        self.eot_id = self.pad_id = self._processor.eos_id()
        if self.eot_id < 0:
            raise ValueError(f"{source} has no end of text, which SigLIP's rows are filled with")

    def _cleaned(self, text: str) -> str:
        return " ".join(text.lower().translate(_PUNCTUATION).split())
