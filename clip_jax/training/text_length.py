"""The length at which a step computes its captions: that of the longest, agreed by all processes.

A causal tower that pools at the end token does not see what follows it, so that captions can be cut
without changing a number. But every process must run the same program, and knows only its own
captions. The devices find the longest one, between two steps: the number is asked for one step
before it is needed, when the batch is on the devices already, so that nobody waits for it.
"""

from collections.abc import Iterator

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clip_jax.data.batch import Batch
from clip_jax.models.text import TextConfig
from clip_jax.runtime.mesh import replicated


def longest(config: ConfigDict, text: TextConfig) -> int:
    """Tokens to which captions are cut in training, ``train.context_length``.

    Raises:
      ValueError: it is longer than the model's, or the text tower depends on what is cut.
    """
    length = config.train.context_length
    if length in (0, text.context_length):
        return text.context_length
    if not 2 <= length < text.context_length:
        raise ValueError(
            f"train.context_length={length} must be 2 to {text.context_length}, which "
            "tokenizer.context_length says"
        )
    if text.sees_padding:
        raise ValueError(
            f"train.context_length={length}: the text tower {_why_whole(text)}, and has to be "
            "trained at its whole length; use 0"
        )
    return length


def _why_whole(text: TextConfig) -> str:
    return "pools at the last position" if text.pool == "last" else "is not causal"


def with_lengths(
    batches: Iterator[Batch], text: TextConfig, mesh: Mesh
) -> Iterator[tuple[Batch, int]]:
    """Global batches, each with the static length at which its captions are to be computed."""
    if len(text.static_lengths) == 1:
        for batch in batches:
            yield batch, text.context_length if text.sees_padding else batch.tokens.shape[1]
        return
    of_batch = jax.jit(text.longest, out_shardings=replicated(mesh))
    pending: tuple[Batch, jax.Array] | None = None
    error: Exception | None = None
    while True:
        try:
            batch = next(batches, None)
        except Exception as raised:  # after the step before it
            batch, error = None, raised
        if error is not None and jax.process_count() > 1:
            raise error  # the others have asked for the next number already, and wait for this one
        ahead = None if batch is None else (batch, of_batch(batch.tokens))
        if pending is not None:
            length = text.static_length(int(pending[1]))
            yield pending[0], min(length, pending[0].tokens.shape[1])
        if error is not None:
            raise error
        if ahead is None:
            return
        pending = ahead


def describe(config: ConfigDict, text: TextConfig) -> str:
    """What happens to captions, in words."""
    if text.sees_padding:
        return f"all at {text.context_length} tokens, for the text tower {_why_whole(text)}"
    most = longest(config, text)
    lengths = [*(n for n in text.static_lengths if n < most), most]
    return f"cut to the longest of their batch: at {', '.join(map(str, lengths))} tokens"
