"""The train state of one stage, for the image size of the next."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from clip_jax.interop.resize import resize_grid
from clip_jax.training.state import TrainState

POSITIONS = "position_embedding"
Path = tuple[object, ...]  # of a leaf, as jax.tree_util has it
Shape = tuple[int, ...]


def for_image_size(state: TrainState, abstract: TrainState) -> TrainState:
    """A state with the shapes of another image size, in its shards.

    Position embeddings and their moving average are interpolated as those of pretrained models
    are (``interop.resize``), and so is Adam's first moment, which lies in the same space. The
    second moment, which must stay positive, is interpolated by the positive part of the same
    weights. Everything else has the same shape at every size and stays as it is.

    Args:
      state: after the last step of a stage.
      abstract: shapes and shardings of the next stage's state.

    Raises:
      ValueError: see ``check``.
    """

    def fitted(path: Path, old: jax.Array, new: jax.ShapeDtypeStruct) -> jax.Array:
        weights = _weights_of(path, old.shape, new.shape)
        if weights is None:
            return old
        return jax.jit(_interpolate, out_shardings=new.sharding)(weights, old)

    return jax.tree_util.tree_map_with_path(fitted, state, abstract)


def check(old: TrainState, new: TrainState) -> None:
    """Whether a state of one abstract can become one of the other.

    Raises:
      ValueError: something other than position embeddings differs, or they are no square grid;
        names it.
    """
    compare = lambda path, x, y: _weights_of(path, x.shape, y.shape)  # noqa: E731
    jax.tree_util.tree_map_with_path(compare, old, new)


def _weights_of(path: Path, old: Shape, new: Shape) -> np.ndarray | None:
    """What an array of one shape is multiplied with to have the other; None: it has it already."""
    if old == new:
        return None
    names = [getattr(key, "key", getattr(key, "name", "")) for key in path]
    if names[-1] != POSITIONS or old[1:] != new[1:]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        raise ValueError(
            f"{name} is {[*old]} and then {[*new]}: of what depends on the image size, only "
            f"a {POSITIONS} can be resized"
        )
    return _weights(old[0], new[0], positive="nu" in names)


def _interpolate(weights: jax.Array, positions: jax.Array) -> jax.Array:
    whole = positions.astype(jnp.float32)
    moved = jnp.dot(weights, whole, precision=jax.lax.Precision.HIGHEST)
    return moved.astype(positions.dtype)


@functools.lru_cache(maxsize=8)
def _weights(old: int, new: int, positive: bool) -> np.ndarray:
    """Interpolation is linear: the matrix float32[new, old] that it multiplies positions with."""
    matrix = resize_grid(np.eye(old, dtype=np.float32), math.isqrt(new))
    if positive:
        matrix = np.maximum(matrix, 0)
        matrix /= matrix.sum(1, keepdims=True)
    return matrix
