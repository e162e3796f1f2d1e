"""Sizes of a two-tower model, the named variants, and how a config changes them."""

import dataclasses
from typing import Protocol, TypeVar

from ml_collections import ConfigDict

from clip_jax.config.checks import require_choice
from clip_jax.data.preprocess import OPENAI_MEAN, OPENAI_STD
from clip_jax.models import layers, text, vit
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.vit import ViTConfig

VisionConfig = ViTConfig | ResNetConfig


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Everything that decides a model's parameters and its mathematics.

    ``norm_epsilon`` is that of the layer norms. With ``logit_bias`` a number is learned that is
    added to all logits, for the sigmoid loss.
    """

    embed_dim: int
    vision: VisionConfig
    text: TextConfig
    activation: str = "quick_gelu"
    image_mean: tuple[float, float, float] = OPENAI_MEAN
    image_std: tuple[float, float, float] = OPENAI_STD
    norm_epsilon: float = 1e-5
    logit_bias: bool = False


def _siglip(image_size: int, vision: tuple, text: tuple, length: int = 64) -> ClipConfig:
    """Sizes (patch, width, layers, heads, MLP ratio) of SigLIP's towers; text without patch."""
    patch, width, depth, heads, ratio = vision
    return ClipConfig(
        width,
        ViTConfig(image_size, patch, width, depth, heads, ratio, pool="map"),
        TextConfig(*text[:3], length, 32000, 1, text[3], causal=False, pool="last"),
        "gelu_tanh",
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        norm_epsilon=1e-6,
        logit_bias=True,
    )


_TEXT_512, _TEXT_640 = TextConfig(512, 12, 8), TextConfig(640, 12, 10)
_TEXT_768, _TEXT_1024 = TextConfig(768, 12, 12), TextConfig(1024, 12, 16)
_DEEP_1024, _DEEP_1280 = TextConfig(1024, 24, 16), TextConfig(1280, 32, 20)
_TEXT_TEST = TextConfig(32, 2, 4, 8, 64, 63)

VARIANTS: dict[str, ClipConfig] = {
    # The paper's Tables 19 and 20.
    "RN50": ClipConfig(1024, ResNetConfig(224, (3, 4, 6, 3), 64, 32), _TEXT_512),
    "RN101": ClipConfig(512, ResNetConfig(224, (3, 4, 23, 3), 64, 32), _TEXT_512),
    "RN50x4": ClipConfig(640, ResNetConfig(288, (4, 6, 10, 6), 80, 40), _TEXT_640),
    "RN50x16": ClipConfig(768, ResNetConfig(384, (6, 8, 18, 8), 96, 48), _TEXT_768),
    "RN50x64": ClipConfig(1024, ResNetConfig(448, (3, 15, 36, 10), 128, 64), _TEXT_1024),
    "ViT-B/32": ClipConfig(512, ViTConfig(224, 32, 768, 12, 12), _TEXT_512),
    "ViT-B/16": ClipConfig(512, ViTConfig(224, 16, 768, 12, 12), _TEXT_512),
    "ViT-L/14": ClipConfig(768, ViTConfig(224, 14, 1024, 24, 16), _TEXT_768),
    "ViT-L/14@336": ClipConfig(768, ViTConfig(336, 14, 1024, 24, 16), _TEXT_768),
    # OpenCLIP's larger models (Cherti et al. 2022, arXiv 2212.07143, and its repository).
    "ViT-H/14": ClipConfig(1024, ViTConfig(224, 14, 1280, 32, 16), _DEEP_1024, "gelu"),
    "ViT-g/14": ClipConfig(1024, ViTConfig(224, 14, 1408, 40, 16, 6144 / 1408), _DEEP_1024, "gelu"),
    "ViT-bigG/14": ClipConfig(
        1280, ViTConfig(224, 14, 1664, 48, 16, 8192 / 1664), _DEEP_1280, "gelu"
    ),
    # SigLIP (Zhai et al. 2023, arXiv 2303.15343, and big_vision's released models).
    "SigLIP-B/16": _siglip(224, (16, 768, 12, 12, 4.0), (768, 12, 12, 4.0)),
    "SigLIP-L/16": _siglip(256, (16, 1024, 24, 16, 4.0), (1024, 24, 16, 4.0)),
    "SigLIP-So400m/14": _siglip(
        224, (14, 1152, 27, 16, 4304 / 1152), (1152, 27, 16, 4304 / 1152), 16
    ),
    # Our own, for machines without accelerator.
    "ViT-Mini/16": ClipConfig(
        256, ViTConfig(48, 16, 256, 1, 16, stem=(32, 64, 128)), TextConfig(256, 1, 8, 24)
    ),
    "ViT-Test/8": ClipConfig(16, ViTConfig(16, 8, 32, 2, 4), _TEXT_TEST),
    "RN-Test": ClipConfig(16, ResNetConfig(64, (2, 1, 2, 1), 8, 4), _TEXT_TEST),
}


class TokenizerSizes(Protocol):
    """What a model takes from a tokenizer."""

    vocab_size: int
    context_length: int
    eot_id: int


def resolve(model: ConfigDict, tokenizer: TokenizerSizes | None = None) -> ClipConfig:
    """The named variant with the config's overrides and the tokenizer's sizes put in.

    Without a tokenizer, vocabulary, context length and end token are the variant's own.

    Raises:
      ValueError: unknown variant or activation, a key that the variant's tower does not have, or
        sizes that do not go together; names the key.
    """
    require_choice("model.variant", model["variant"], VARIANTS)
    base = VARIANTS[model["variant"]]
    text_config = _replaced(base.text, model, "text")
    if tokenizer is not None:
        text_config = dataclasses.replace(
            text_config,
            vocab_size=tokenizer.vocab_size,
            context_length=tokenizer.context_length,
            eot_id=tokenizer.eot_id,
        )
    own = ("embed_dim", "activation", "image_mean", "image_std", "norm_epsilon", "logit_bias")
    config = dataclasses.replace(
        base,
        vision=_replaced(base.vision, model, "vision"),
        text=text_config,
        **{k: _tuple(model[k]) for k in own if model[k] is not None},
    )
    check(config)
    return config


Tower = TypeVar("Tower", ViTConfig, ResNetConfig, TextConfig)


def _replaced(tower: Tower, model: ConfigDict, group: str) -> Tower:
    """A tower's sizes with those of ``config.model[group]`` that are not None."""
    given = {k: v for k, v in dict(model[group]).items() if v is not None and k != "param_dtype"}
    legal = {f.name for f in dataclasses.fields(tower)}
    for key in given:
        if key not in legal:
            raise ValueError(
                f"model.{group}.{key}={given[key]!r}: model.variant={model['variant']!r} has no "
                f"such size; it has {', '.join(sorted(legal))}"
            )
    return dataclasses.replace(tower, **{k: _tuple(v) for k, v in given.items()})


def _tuple(value: object) -> object:
    """A list, which is what a tuple becomes in JSON, back to a tuple."""
    return tuple(value) if isinstance(value, list) else value


def check(config: ClipConfig) -> None:
    """Whether the sizes of a model go together.

    Raises:
      ValueError: they do not; names the config key.
    """
    vision = config.vision

    def require(ok: bool, message: str) -> None:
        if not ok:
            raise ValueError(message)

    def divisible(tower: str, what: str, width: int, heads: int) -> None:
        require(
            width % heads == 0,
            f"model.{tower}.{what}={width} is not divisible by model.{tower}.num_heads={heads}",
        )

    require_choice("model.activation", config.activation, layers.ACTIVATIONS)
    require_choice("model.text.pool", config.text.pool, text.POOLS)
    divisible("text", "width", config.text.width, config.text.num_heads)
    if isinstance(vision, ResNetConfig):
        blocks = vision.num_layers
        require(
            isinstance(blocks, tuple) and blocks and min(blocks) > 0,
            f"model.vision.num_layers={blocks!r}: a ResNet needs the blocks of each stage, such as "
            "(3, 4, 6, 3)",
        )
        require(vision.width % 2 == 0, f"model.vision.width={vision.width} must be even")
        divisible("vision", "width * 32 = features", vision.features, vision.num_heads)
        require(
            vision.image_size % vision.stride == 0,
            f"model.vision.image_size={vision.image_size} is not a multiple of {vision.stride}, "
            "the stride of this ResNet",
        )
        return
    if not isinstance(vision, ViTConfig):
        return
    require_choice("model.vision.pool", vision.pool, vit.POOLS)
    require_choice("model.vision.position_init", vision.position_init, vit.POSITIONS)
    divisible("vision", "width", vision.width, vision.num_heads)
    require(
        vision.image_size >= vision.patch_size,
        f"model.vision.image_size={vision.image_size} is smaller than "
        f"model.vision.patch_size={vision.patch_size}",
    )
    require(
        vision.pool == "cls" or config.embed_dim == vision.width,
        f"model.embed_dim={config.embed_dim} differs from model.vision.width={vision.width}: "
        "with model.vision.pool='map' there is no projection between them",
    )
    stride = 2 ** len(vision.stem)
    require(
        vision.patch_size % stride == 0 and vision.image_size % stride == 0,
        f"model.vision.stem has {len(vision.stem)} convolutions of stride 2, so that "
        f"model.vision.patch_size={vision.patch_size} and "
        f"model.vision.image_size={vision.image_size} must be multiples of {stride}",
    )
