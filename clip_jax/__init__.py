"""CLIP in JAX/Flax: training at TPU scale, evaluation, weights in and out.

``clip_jax.load(path)`` gives a pretrained model; see ``clip_jax.api``. Importing this package
imports neither JAX nor anything heavy: that happens at the first use of a name.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_jax.api import Clip, load

__all__ = ["Clip", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from clip_jax import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
