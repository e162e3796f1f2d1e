"""Sizes of a model that files claim: inferred from tensors, and compared with what is there.

A few bytes of JSON, or one tensor's name, can claim a model of terabytes. Nothing is built before
its sizes are within what the tensors at hand could fill.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.settings import error_context, short_repr
from clip_jax.models import variants
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.variants import ClipConfig

Tensors = Mapping[str, np.ndarray]


def majority_size(tensors: Tensors, places: Iterable[tuple[str, int]], default: int) -> int:
    """The most frequent size at several places (name of a tensor, axis), or ``default``.

    So a tensor that is missing or misshapen does not change the model that all the others make,
    and is named when they are compared with it.
    """
    shapes = ((tensors[name].shape, axis) for name, axis in places if name in tensors)
    votes = Counter(s[a] for s, a in shapes if -len(s) <= a < len(s) and s[a] > 0)
    return votes.most_common(1)[0][0] if votes else default


def counted(tensors: Tensors, pattern: str) -> int:
    """The number of blocks, at least 1, whose tensors' names begin with ``pattern``.

    A number far from the others is none: the blocks are at most twice those that have tensors.

    Args:
      tensors: name -> array.
      pattern: a regular expression in which ``#`` stands for the number, from 0.
    """
    expression = re.compile(pattern.replace("#", "([0-9]{1,6})"))
    numbers = sorted({int(m[1]) for name in tensors if (m := expression.match(name))})
    return max([1, *(n + 1 for i, n in enumerate(numbers) if n + 1 <= 2 * (i + 1))])


def checked(config: ClipConfig, tensors: Tensors, source: str) -> ClipConfig:
    """A config whose sizes go together, and are no more than its tensors could fill.

    Whether each tensor fits it is for ``mapping.import_tensors`` to say.

    Raises:
      LayoutError: a value is of another kind than its field, sizes do not go together, or they
        are beyond all proportion to the tensors.
    """
    most = sum(math.prod(a.shape) for a in tensors.values())
    for place, group in (("", config), ("vision.", config.vision), ("text.", config.text)):
        _check_values(place, group, most, source)
    vision, text = config.vision, config.text
    resnet = isinstance(vision, ResNetConfig)
    blocks = text.num_layers + (sum(vision.num_layers) if resnet else vision.num_layers)
    # A block has 12 tensors and more. Fewer blocks than this are listed, missing or not.
    if blocks > max(64, len(tensors) // 4):
        raise LayoutError(f"{source}: {blocks} blocks cannot be made of {len(tensors)} tensors")
    if text.context_length < 2:
        raise LayoutError(f"{source}: text.context_length is 1: no room for start and end")
    if text.pool == "eot" and text.eot_id >= text.vocab_size:
        raise LayoutError(
            f"{source}: the end of text, {text.eot_id}, is not in the vocabulary of "
            f"{text.vocab_size} ids"
        )
    implied = (vision.tokens, vision.features if resnet else vision.mlp_width, text.mlp_width)
    if max(implied) > most:
        raise LayoutError(f"{source}: {max(implied)} units are more than all tensors hold: {most}")
    with error_context(source):
        variants.check(config)
    return config


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 2**31  # products with sizes stay finite


# Type of a field -> how to say it, and whether a value is of it.
_WANTED: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    int: ("a positive integer", lambda v: type(v) is int and v > 0),
    float: ("a positive number", lambda v: _is_finite(v) and v > 0),
    bool: ("true or false", lambda v: type(v) is bool),
    str: ("a text", lambda v: isinstance(v, str)),
    tuple[int, ...]: (
        "a list of positive integers",
        lambda v: isinstance(v, tuple) and all(type(x) is int and x > 0 for x in v),
    ),
    tuple[float, float, float]: (
        "3 numbers",
        lambda v: isinstance(v, tuple) and len(v) == 3 and all(map(_is_finite, v)),
    ),
}


def _check_values(place: str, group: object, most: int, source: str) -> None:
    """Refuses values of another kind than their field, and integers beyond ``most``."""
    for field in dataclasses.fields(group):
        value, problem = getattr(group, field.name), None
        if field.name == "eot_id" and value == 0:
            continue  # an id, and not a size
        wanted, fits = _WANTED.get(field.type, ("", lambda v: True))
        if not fits(value):
            problem = f"not {wanted}"
        elif type(value) is int and value > most:
            problem = f"more than the tensors have numbers: {most}"
        if problem is not None:
            raise LayoutError(f"{source}: {place}{field.name} is {short_repr(value)}, {problem}")
