"""Our variables as a flat table with one entry a layer: what the weight layouts are mapped to.

The towers keep the parameters of like blocks stacked, the last or first block apart. Here they are
numbered: ``params/text_tower/encoder/blocks/fc/kernel`` [11, 512, 2048] and its ``last_block``
become ``params/text_tower/encoder/0/fc/kernel`` [512, 2048] to ``.../11/fc/kernel``.
"""

import functools
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from clip_jax.models.clip import ClipModel
from clip_jax.models.execution import Execution
from clip_jax.models.variants import ClipConfig

Leaf = jax.Array | np.ndarray | jax.ShapeDtypeStruct
Variables = Mapping[str, "Variables | Leaf"]  # as flax nests them
Flat = dict[str, Leaf]
_BLOCKS = ("blocks", "first_block", "last_block")


@functools.lru_cache(maxsize=8)  # reading a folder of our own asks twice, and tracing takes long
def shapes(config: ClipConfig) -> Variables:
    """The variables of a model as a tree of ShapeDtypeStruct; nothing is allocated."""
    side = config.vision.image_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    tokens = jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32)
    model = ClipModel(config, Execution(scan_layers=True))
    return nn.unbox(jax.eval_shape(model.init, jax.random.key(0), images, tokens))


def _names(path: jax.tree_util.KeyPath) -> tuple[str, str, list[str]]:
    """What lies above a kind of block, the kind ("" outside of all), and what lies below."""
    names = [k.key for k in path]
    at = next((i for i, n in enumerate(names) if n in _BLOCKS), len(names))
    return "/".join(names[:at]), "".join(names[at : at + 1]), names[at + 1 :]


def _leaves(variables: Variables) -> Iterator[tuple[list[str], bool, Leaf]]:
    """Flat names, whether the leaf is a stack of as many layers, and the leaf."""
    leaves = [
        (*_names(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables))
    ]
    count = {stack: leaf.shape[0] for stack, kind, _, leaf in leaves if kind == "blocks"}
    # A ResNet's stack comes after its first block, a Transformer's before its last.
    first = {stack for stack, kind, _, _ in leaves if kind == "first_block"}
    for stack, kind, below, leaf in leaves:
        if not kind:
            yield [stack], False, leaf
            continue
        begins = {"last_block": count.get(stack, 0), "blocks": int(stack in first)}
        begin = begins.get(kind, 0)
        numbers = range(begin, begin + (leaf.shape[0] if kind == "blocks" else 1))
        yield ["/".join([stack, str(i), *below]) for i in numbers], kind == "blocks", leaf


def flatten(variables: Variables) -> Flat:
    """Variables (arrays or shapes) to the flat table."""
    flat: Flat = {}
    for names, stacked, leaf in _leaves(variables):
        for i, name in enumerate(names):
            if not stacked:
                flat[name] = leaf
            elif isinstance(leaf, jax.ShapeDtypeStruct):
                flat[name] = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
            else:
                flat[name] = leaf[i]
    return flat


def unflatten(take: Callable[[str], np.ndarray], template: Variables) -> Variables:
    """The flat table back to variables.

    Args:
      take: gives the array of a flat name; asked once for each, so that it may let go of it.
      template: the tree to fill, as from ``shapes``.
    """
    filled = []
    for names, stacked, leaf in _leaves(template):
        if not stacked:
            filled.append(take(names[0]))
            continue
        # Layer by layer into the stack: the weights are never held twice.
        stack = np.empty(leaf.shape, leaf.dtype)
        for i, name in enumerate(names):
            stack[i] = take(name)
        filled.append(stack)
    return jax.tree.unflatten(jax.tree.structure(dict(template)), filled)
