"""The two-tower model, the table of its named sizes, and how a config becomes a model."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from clip_jax.models import layers
from clip_jax.models.text import TextConfig, TextTransformer
from clip_jax.models.vit import POSITIONS, ViT, ViTConfig

# Paper section 2.5: the temperature starts at 0.07, and its inverse is clipped at 100.
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
MAX_LOGIT_SCALE = math.log(100)


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Everything that decides a model's parameters and its mathematics."""

    embed_dim: int
    vision: ViTConfig
    text: TextConfig
    activation: str = "quick_gelu"
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


# Sizes from the paper's Table 20; the last entries are our own, for machines without accelerator.
VARIANTS: dict[str, ClipConfig] = {
    "ViT-B/32": ClipConfig(512, ViTConfig(224, 32, 768, 12, 12), TextConfig(512, 12, 8)),
    "ViT-B/16": ClipConfig(512, ViTConfig(224, 16, 768, 12, 12), TextConfig(512, 12, 8)),
    "ViT-L/14": ClipConfig(768, ViTConfig(224, 14, 1024, 24, 16), TextConfig(768, 12, 12)),
    "ViT-L/14@336": ClipConfig(768, ViTConfig(336, 14, 1024, 24, 16), TextConfig(768, 12, 12)),
    "ViT-Mini/16": ClipConfig(
        256, ViTConfig(48, 16, 256, 1, 16, stem=(32, 64, 128)), TextConfig(256, 1, 8, 24)
    ),
    "ViT-Test/8": ClipConfig(16, ViTConfig(16, 8, 32, 2, 4), TextConfig(32, 2, 4, 8, 64, 63)),
}


class Clip(nn.Module):
    """uint8 or float images [B, H, W, 3] and int32 tokens [B, L] to two unit embeddings.

    Float images are taken to be normalised already; uint8 ones are normalised here, on the
    device, so that a batch crosses the host boundary in a quarter of the bytes.
    """

    config: ClipConfig
    dtype: Any = jnp.float32
    scan: bool = False
    remat: str = "none"
    patch_dropout: float = 0.0

    def setup(self):
        c = self.config
        common = dict(dtype=self.dtype, scan=self.scan, remat=self.remat)
        self.image_tower = ViT(
            c.vision, c.embed_dim, c.activation, patch_dropout=self.patch_dropout, **common
        )
        self.text_tower = TextTransformer(c.text, c.embed_dim, c.activation, **common)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(INITIAL_LOGIT_SCALE), (), jnp.float32
        )

    def __call__(self, images: jax.Array, tokens: jax.Array, train: bool = False):
        """Returns image embeddings f32[B, E], text embeddings f32[B, E], exp(logit scale) f32[]."""
        return (
            self.embed_images(images, train),
            self.embed_texts(tokens),
            jnp.exp(self.logit_scale),
        )

    def embed_images(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Unit image embeddings f32[B, E]."""
        if images.dtype == jnp.uint8:
            mean, std = jnp.array(self.config.image_mean), jnp.array(self.config.image_std)
            images = (images.astype(jnp.float32) / 255 - mean) / std
        return normalize(self.image_tower(images, train))

    def embed_texts(self, tokens: jax.Array) -> jax.Array:
        """Unit text embeddings f32[B, E]."""
        return normalize(self.text_tower(tokens))


def normalize(x: jax.Array) -> jax.Array:
    """Scales rows to unit L2 norm; a zero row stays zero, and so does its gradient."""
    squares = (x * x).sum(-1, keepdims=True)
    # The inner choice keeps the gradient of the other branch finite: zero times infinity is NaN.
    scale = jax.lax.rsqrt(jnp.maximum(jnp.where(squares == 0, 1.0, squares), 1e-24))
    return x * jnp.where(squares == 0, 0.0, scale)


def resolve(model: Mapping[str, Any], tokenizer: Any = None) -> ClipConfig:
    """The named variant with the config's overrides and the tokenizer's sizes put in.

    Args:
      model: ``config.model``.
      tokenizer: gives vocabulary, context length and end token; the variant's own without one.

    Raises:
      ValueError: unknown variant or activation, or sizes that do not go together; names the key.
    """
    if model["variant"] not in VARIANTS:
        raise ValueError(f"model.variant={model['variant']!r} is not one of {sorted(VARIANTS)}")
    base = VARIANTS[model["variant"]]

    def given(group):
        return {k: v for k, v in dict(group).items() if v is not None}

    vision = dataclasses.replace(base.vision, **given(model["vision"]))
    vision = dataclasses.replace(vision, stem=tuple(vision.stem))  # a list where JSON has been
    text = dataclasses.replace(base.text, **given(model["text"]))
    if tokenizer is not None:
        text = dataclasses.replace(
            text,
            vocab_size=tokenizer.vocab_size,
            context_length=tokenizer.context_length,
            eot_id=tokenizer.eot_id,
        )
    config = dataclasses.replace(
        base,
        vision=vision,
        text=text,
        **given({k: model[k] for k in ("embed_dim", "activation", "image_mean", "image_std")}),
    )
    for key, tower in (("vision", vision), ("text", text)):
        if tower.width % tower.heads:
            raise ValueError(
                f"model.{key}.width={tower.width} is not divisible by "
                f"model.{key}.heads={tower.heads}"
            )
    if vision.image_size < vision.patch_size:
        raise ValueError(
            f"model.vision.image_size={vision.image_size} is smaller than "
            f"model.vision.patch_size={vision.patch_size}"
        )
    stride = 2 ** len(vision.stem)
    if vision.patch_size % stride or vision.image_size % stride:
        raise ValueError(
            f"model.vision.stem has {len(vision.stem)} convolutions of stride 2, so that "
            f"model.vision.patch_size={vision.patch_size} and "
            f"model.vision.image_size={vision.image_size} must be multiples of {stride}"
        )
    if vision.position_init not in POSITIONS:
        raise ValueError(
            f"model.vision.position_init={vision.position_init!r} is not one of {sorted(POSITIONS)}"
        )
    if config.activation not in layers.ACTIVATIONS:
        raise ValueError(
            f"model.activation={config.activation!r} is not one of {sorted(layers.ACTIVATIONS)}"
        )
    return config


def build(model: Mapping[str, Any], tokenizer: Any = None) -> Clip:
    """The model that ``config.model`` describes; see ``resolve``."""
    config = resolve(model, tokenizer)
    if model["remat"] not in ("none", *layers.REMAT_POLICIES):
        raise ValueError(
            f"model.remat={model['remat']!r} is not one of "
            f"{['none', *sorted(layers.REMAT_POLICIES)]}"
        )
    return Clip(
        config,
        dtype=jnp.dtype(model["dtype"]),
        scan=model["scan"],
        remat=model["remat"],
        patch_dropout=model["patch_dropout"],
    )
