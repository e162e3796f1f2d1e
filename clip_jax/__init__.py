"""CLIP in JAX/Flax: training at TPU scale, evaluation, weights in and out.

``clip_jax.load(path)`` gives a pretrained model, see ``clip_jax.api``; ``clip_jax.evaluate(model)``
measures it as the paper does, see ``clip_jax.evaluate``. Importing this package imports neither JAX
nor anything heavy: that happens at the first use of a name.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_jax.api import Clip, load
    from clip_jax.evaluate import evaluate

__all__ = ["Clip", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        # The module of the command line, which can be called: whether it has been imported or not,
        # this name means the same.
        return importlib.import_module("clip_jax.evaluate")
    if name in __all__:
        from clip_jax import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
