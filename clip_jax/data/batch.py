"""What a train step reads: one batch, from the loader through the devices to the step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray | jax.ShapeDtypeStruct


class Batch(NamedTuple):
    """Rows of a global batch; without the leading axis, one example.

    The last two fields are signals that each process knows of itself alone. They ride in the batch
    because its rows already reach every device: the step reduces them over the global batch with
    the all-reduce that its metrics need anyway, so that all processes learn of them at the same
    step and act alike (count, or save and stop), without a collective of their own.

    Attributes:
      images: uint8[B, H, W, 3].
      tokens: int32[B, L].
      groups: int32[B], examples of one group are not each other's negatives.
      unreadable: int32[B], records that could not be read in place of which this row was drawn;
        summed in the step.
      preempted: int32[B], 1 if the process that read the row was asked to stop; the maximum is
        taken in the step.
    """

    images: Array
    tokens: Array
    groups: Array
    unreadable: Array
    preempted: Array


def abstract(
    batch_size: int, image_size: int, context_length: int, sharding: jax.sharding.Sharding
) -> Batch:
    """Shapes, dtypes and placement of a global batch."""
    scalar = ((), jnp.int32)
    rows = Batch(
        images=((image_size, image_size, 3), jnp.uint8),
        tokens=((context_length,), jnp.int32),
        groups=scalar,
        unreadable=scalar,
        preempted=scalar,
    )
    return Batch(*(jax.ShapeDtypeStruct((batch_size, *s), d, sharding=sharding) for s, d in rows))
