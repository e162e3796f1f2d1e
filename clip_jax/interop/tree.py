"""Our variables as a flat table with one entry a layer: what the weight layouts are mapped to.

The towers keep the parameters of like blocks stacked, the last or first block apart. Here they are
numbered: ``params/text_tower/encoder/blocks/fc/kernel`` [11, 512, 2048] and its ``last_block``
become ``params/text_tower/encoder/0/fc/kernel`` [512, 2048] to ``.../11/fc/kernel``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from clip_jax.models.clip import ClipModel
from clip_jax.models.layers import Execution
from clip_jax.models.variants import ClipConfig

Flat = dict[str, Any]


def shapes(config: ClipConfig) -> dict[str, Any]:
    """The variables of a model as a tree of ShapeDtypeStruct; nothing is allocated."""
    side = config.vision.image_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    tokens = jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32)
    model = ClipModel(config, Execution(scan_layers=True))
    return nn.unbox(jax.eval_shape(model.init, jax.random.key(0), images, tokens))


def _numbered(path: tuple[Any, ...], count: int, depth: Mapping[str, int]) -> list[str]:
    """The flat names of a leaf; several for a stack of ``count`` blocks."""
    names = [k.key for k in path]
    for kind in ("blocks", "first_block", "last_block"):
        if kind in names:
            at = names.index(kind)
            stack = "/".join(names[:at])
            numbers = {
                "first_block": [0],
                "last_block": [depth.get(stack, 0)],
                # A ResNet's stack comes after its first block, a Transformer's before its last.
                "blocks": [i + (f"{stack}/first" in depth) for i in range(count)],
            }[kind]
            return ["/".join([stack, str(i), *names[at + 1 :]]) for i in numbers]
    return ["/".join(names)]


def _depths(leaves: list[tuple[tuple[Any, ...], Any]]) -> dict[str, int]:
    """Stack -> number of its like blocks; and a mark for stacks that have a first block."""
    found: dict[str, int] = {}
    for path, leaf in leaves:
        names = [k.key for k in path]
        if "blocks" in names:
            found["/".join(names[: names.index("blocks")])] = leaf.shape[0]
        if "first_block" in names:
            found["/".join(names[: names.index("first_block")]) + "/first"] = 1
    return found


def flatten(variables: Mapping[str, Any]) -> Flat:
    """Variables (arrays or shapes) to the flat table."""
    leaves = jax.tree_util.tree_flatten_with_path(dict(variables))[0]
    depth = _depths(leaves)
    flat: Flat = {}
    for path, leaf in leaves:
        stacked = any(k.key == "blocks" for k in path)
        names = _numbered(path, leaf.shape[0] if stacked else 1, depth)
        for i, name in enumerate(names):
            if not stacked:
                flat[name] = leaf
            elif isinstance(leaf, jax.ShapeDtypeStruct):
                flat[name] = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
            else:
                flat[name] = leaf[i]
    return flat


def unflatten(take: Callable[[str], np.ndarray], template: Mapping[str, Any]) -> dict[str, Any]:
    """The flat table back to variables.

    Args:
      take: gives the array of a flat name; asked once for each, so that it may let go of it.
      template: the tree to fill, as from ``shapes``.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(dict(template))
    depth = _depths(leaves)
    filled = []
    for path, leaf in leaves:
        stacked = any(k.key == "blocks" for k in path)
        names = _numbered(path, leaf.shape[0] if stacked else 1, depth)
        if not stacked:
            filled.append(take(names[0]))
            continue
        # Layer by layer into the stack: the weights are never held twice.
        stack = np.empty(leaf.shape, leaf.dtype)
        for i, name in enumerate(names):
            stack[i] = take(name)
        filled.append(stack)
    return jax.tree.unflatten(structure, filled)
