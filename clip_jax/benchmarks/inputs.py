"""The same random images and captions for every program that is measured."""

import numpy as np

START, END = 49406, 49407  # of CLIP's vocabulary
# Tokens of captions, with start and end: what CLIP's tokenizer makes of the emoji dataset's
# captions ("rich"), whose lengths are like those of captions that people write.
CAPTIONS = ("full", "emoji")


def images(batch: int, size: int) -> np.ndarray:
    """uint8[batch, size, size, 3]."""
    return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)


def tokens(batch: int, context_length: int, captions: str) -> np.ndarray:
    """int32[batch, context_length]: random words between start and end, then padding.

    Args:
      captions: "full", each as long as the context, or "emoji", as long as captions of that
        dataset, which the extra ``emoji`` brings.
    """
    rng = np.random.default_rng(0)
    if captions == "full":
        lengths = np.full(batch, context_length)
    else:
        lengths = np.minimum(rng.choice(_emoji_lengths(), batch), context_length)
    out = np.zeros((batch, context_length), np.int32)
    for row, length in zip(out, lengths, strict=True):
        row[:length] = rng.integers(0, START, length)
        row[0], row[length - 1] = START, END
    return out


def _emoji_lengths() -> np.ndarray:
    from clip_jax import tokenizers
    from clip_jax.data import paths
    from clip_jax.data.pairs.emoji import EmojiSource

    source = EmojiSource(paths.cache_dir(), "all", "train", "rich")
    tokenizer, rng = tokenizers.build("clip", 77), np.random.default_rng(0)
    texts = [source.caption(i, rng) for i in range(0, len(source), max(1, len(source) // 2000))]
    return (tokenizer(texts) == END).argmax(1) + 1
