"""The length at which a step computes its captions: that of the longest, agreed by all processes.

A causal tower that pools at the end token does not see what follows it, so that captions can be cut
without changing a number. But every process must run the same program, and knows only its own
captions. The devices find the longest one, between two steps: the number is asked for one step
before it is needed, when the batch is on the devices already, so that nobody waits for it.
"""

from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from clip_jax.data.batch import Batch
from clip_jax.models.text import TextConfig
from clip_jax.runtime.mesh import replicated


def with_lengths(
    batches: Iterator[Batch], text: TextConfig, mesh: Mesh
) -> Iterator[tuple[Batch, int]]:
    """Global batches, each with the static length at which its captions are to be computed."""
    if len(text.static_lengths) == 1:
        for batch in batches:
            yield batch, text.context_length
        return
    longest = jax.jit(text.longest, out_shardings=replicated(mesh))
    pending: tuple[Batch, jax.Array] | None = None
    error: Exception | None = None
    while True:
        try:
            batch = next(batches, None)
        except Exception as raised:  # after the step before it
            batch, error = None, raised
        if error is not None and jax.process_count() > 1:
            raise error  # the others have asked for the next number already, and wait for this one
        ahead = None if batch is None else (batch, longest(batch.tokens))
        if pending is not None:
            yield pending[0], text.static_length(int(pending[1]))
        if error is not None:
            raise error
        if ahead is None:
            return
        pending = ahead


def describe(text: TextConfig) -> str:
    """What happens to captions, in words."""
    if text.sees_padding:
        why = "pools at the last position" if text.pool == "last" else "is not causal"
        return f"all at {text.context_length} tokens, for the text tower {why}"
    lengths = ", ".join(map(str, text.static_lengths))
    return f"cut to the longest of their batch: at {lengths} tokens"
