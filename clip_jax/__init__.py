"""CLIP in JAX/Flax: training at TPU scale, evaluation, weights in and out.

===============  =================================================================
``load``         a pretrained model (a ``Clip``) from files, a run or the hub
``evaluate``     measures it as the paper does
``models``       the towers, the two-tower model, and their configs
``losses``       the contrastive losses
``tokenizers``   texts to token ids
===============  =================================================================

Importing this package imports neither JAX nor anything heavy: that happens at the first use of a
name.
"""

from typing import TYPE_CHECKING

from clip_jax import lazy

if TYPE_CHECKING:
    from clip_jax import losses, models, tokenizers
    from clip_jax.api import Clip, load
    from clip_jax.evaluation import evaluate

__all__ = ["Clip", "evaluate", "load", "losses", "models", "tokenizers"]

__getattr__ = lazy.attributes(
    __name__,
    {
        "Clip": "clip_jax.api",
        "load": "clip_jax.api",
        "evaluate": "clip_jax.evaluation",
        "losses": "clip_jax.losses",
        "models": "clip_jax.models",
        "tokenizers": "clip_jax.tokenizers",
    },
)


def __dir__() -> list[str]:
    return __all__
