"""The towers, the two-tower model, and their configs; each is imported at its first use."""

from typing import TYPE_CHECKING

from clip_jax import lazy

if TYPE_CHECKING:
    from clip_jax.models.clip import ClipModel
    from clip_jax.models.resnet import ResNet, ResNetConfig
    from clip_jax.models.text import TextConfig, TextTransformer
    from clip_jax.models.variants import ClipConfig
    from clip_jax.models.vit import ViT, ViTConfig

__all__ = [
    "ClipConfig",
    "ClipModel",
    "ResNet",
    "ResNetConfig",
    "TextConfig",
    "TextTransformer",
    "ViT",
    "ViTConfig",
]

__getattr__ = lazy.attributes(
    __name__,
    {
        "ClipConfig": "clip_jax.models.variants",
        "ClipModel": "clip_jax.models.clip",
        "ResNet": "clip_jax.models.resnet",
        "ResNetConfig": "clip_jax.models.resnet",
        "TextConfig": "clip_jax.models.text",
        "TextTransformer": "clip_jax.models.text",
        "ViT": "clip_jax.models.vit",
        "ViTConfig": "clip_jax.models.vit",
    },
)


def __dir__() -> list[str]:
    return __all__
