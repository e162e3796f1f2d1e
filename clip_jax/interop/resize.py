"""Models for another resolution or context length: their position embeddings, interpolated."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.weights import Weights
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.variants import check

_TEXT_POSITIONS = "params/text_tower/position_embedding"


def resize_grid(positions: np.ndarray, side: int) -> np.ndarray:
    """Bicubic, antialiased interpolation of a square grid, as open_clip does it.

    Args:
      positions: float32[n * n (+ 1), D], row by row; a first one more belongs to the class token
        (or to the mean of a ResNet's attention pool) and is kept.
      side: of the new grid.

    Returns:
      float32[side * side (+ 1), D].

    Raises:
      LayoutError: the positions are no square.
    """
    old = int(np.sqrt(len(positions)))
    first = len(positions) - old * old
    if first not in (0, 1):
        raise LayoutError(f"{len(positions)} position embeddings are no square grid")
    grid = positions[first:].reshape(old, old, -1)
    if side != old:
        shape = (side, side, grid.shape[-1])
        grid = jax.image.resize(jnp.asarray(grid), shape, "cubic", antialias=True)
    return np.concatenate([positions[:first], np.asarray(grid).reshape(side * side, -1)])


def for_image_size(weights: Weights, image_size: int) -> Weights:
    """The same model for images of another size.

    Raises:
      LayoutError: the size is not a multiple of the patch size (or of a ResNet's stride).
    """
    vision = weights.config.vision
    resnet = isinstance(vision, ResNetConfig)
    cell = vision.stride if resnet else vision.patch_size
    if image_size < cell or image_size % cell:
        raise LayoutError(
            f"image_size={image_size} is not a multiple of {cell}, the pixels of a cell of this "
            f"model; for example {max(1, round(image_size / cell)) * cell}"
        )
    config = dataclasses.replace(
        weights.config, vision=dataclasses.replace(vision, image_size=image_size)
    )
    check(config)
    flat = flatten_dict(weights.variables, keep_empty_nodes=True, sep="/")
    key = f"params/image_tower/{'attention_pool/' if resnet else ''}position_embedding"
    flat[key] = resize_grid(flat[key], image_size // cell)
    return dataclasses.replace(
        weights,
        config=config,
        variables=unflatten_dict(flat, sep="/"),
        preprocess=dataclasses.replace(weights.preprocess, image_size=image_size),
    )


def for_context_length(weights: Weights, context_length: int) -> Weights:
    """The same model for texts of another length: linear interpolation, as open_clip does it.

    A shorter one may as well be cut: with a causal tower the first positions mean what they did.
    This stretches, so that the end of the longest text keeps its place.

    Raises:
      LayoutError: the length leaves no room for the start and the end of a text.
    """
    if context_length < 2:
        raise LayoutError(f"context_length={context_length} leaves no room for start and end")
    text = dataclasses.replace(weights.config.text, context_length=context_length)
    flat, key = flatten_dict(weights.variables, keep_empty_nodes=True, sep="/"), _TEXT_POSITIONS
    old = np.asarray(flat[key])
    # Not antialiased: neighbouring positions are distinguished by details that smoothing removes.
    place = (np.arange(context_length) + 0.5) * len(old) / context_length - 0.5
    left = np.clip(np.floor(place).astype(int), 0, len(old) - 2)
    share = np.clip(place - left, 0, 1)[:, None]
    moved = (1 - share) * old[left] + share * old[left + 1]
    flat[key] = moved.astype(old.dtype)
    tokenizer = weights.tokenizer
    if tokenizer is not None:
        tokenizer = tokenizer.with_context_length(context_length)
    return dataclasses.replace(
        weights,
        config=dataclasses.replace(weights.config, text=text),
        variables=unflatten_dict(flat, sep="/"),
        tokenizer=tokenizer,
    )
