"""The tensors of openai/CLIP, which open_clip has kept: names, and the sizes they give away."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clip_jax.interop.mapping import Entry, LayoutError, blocks, filled, read_table
from clip_jax.interop.sizes import counted, majority_size
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.variants import ClipConfig
from clip_jax.models.vit import ViTConfig

Tensors = Mapping[str, np.ndarray]

# Not weights: numbers in OpenAI's archives, and what PyTorch counts but never uses here.
IGNORED = re.compile(
    r"(input_resolution|context_length|vocab_size|attn_mask)$|\.num_batches_tracked$"
)


_TABLE = read_table(Path(__file__).with_name("openai_tensors.txt"))


def _resnet(c: ResNetConfig) -> list[Entry]:
    table = [*_TABLE["resnet stem"]]
    for stage, count in enumerate(c.num_layers, 1):
        for i in range(count):
            table += filled(_TABLE["resnet block"], stage=stage, i=i)
            if i == 0:
                table += filled(_TABLE["resnet shortcut"], stage=stage)
    return [*table, *_TABLE["resnet pool"]]


def _vit(c: ViTConfig) -> list[Entry]:
    block, theirs = _TABLE["block"], "visual.transformer"
    encoder = blocks(block, c.num_layers, tower="image_tower", theirs=theirs)
    return [*_TABLE["vit begin"], *encoder, *_TABLE["vit end"]]


def entries(config: ClipConfig) -> list[Entry]:
    """The layout's table for a model.

    Raises:
      LayoutError: the layout cannot hold this model.
    """
    vision = config.vision
    resnet = isinstance(vision, ResNetConfig)
    if config.text.pool != "eot" or not config.text.causal or config.logit_bias:
        raise LayoutError("OpenAI's layout has no bidirectional text tower and no logit bias")
    if config.text.eot_id != config.text.vocab_size - 1:
        raise LayoutError(
            f"OpenAI's layout pools texts at the largest id, {config.text.vocab_size - 1}; this "
            f"model's end of text is {config.text.eot_id}; write --to=clip_jax"
        )
    if config.norm_epsilon != 1e-5:
        raise LayoutError(f"OpenAI's layout has norm_epsilon 1e-5, not {config.norm_epsilon}")
    if not resnet and (vision.pool != "cls" or vision.stem):
        raise LayoutError(
            "OpenAI's layout has no convolutional stem and no attention pooling of a ViT"
        )
    return [
        *_TABLE["begin"],
        *(_resnet(vision) if resnet else _vit(vision)),
        *blocks(_TABLE["block"], config.text.num_layers, tower="text_tower", theirs="transformer"),
        *_TABLE["end"],
    ]


def weights(tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors that are weights, under OpenAI's names.

    open_clip's models with a text tower of its own say ``text.transformer`` for ``transformer``.
    """
    return {
        re.sub(r"^text\.", "", name): array
        for name, array in tensors.items()
        if not IGNORED.search(name)
    }


def _hidden(tensors: Tensors, block: str, width: int) -> int:
    """Hidden width of the MLP of a block."""
    c, p = f"{block}.mlp.c_fc", f"{block}.mlp.c_proj.weight"
    return majority_size(tensors, [(f"{c}.weight", 0), (f"{c}.bias", 0), (p, 1)], 4 * width)


def infer(tensors: Tensors, activation: str, heads: tuple[int, int] | None = None) -> ClipConfig:
    """The model that most of the shapes describe; what does not fit it is for others to list.

    Args:
      tensors: as ``weights`` gives them.
      activation: "quick_gelu" for OpenAI's weights; shapes do not tell.
      heads: of the image and of the text tower, which shapes do not tell either; None for heads
        64 wide, as in all of OpenAI's models.
    """
    block = "transformer.resblocks.0"
    width = majority_size(
        tensors,
        [
            ("positional_embedding", 1), ("token_embedding.weight", 1), ("ln_final.weight", 0),
            ("text_projection", 0), (f"{block}.ln_1.weight", 0),
        ],
        512,
    )  # fmt: skip
    vocab_size = majority_size(tensors, [("token_embedding.weight", 0)], 49408)
    resnet = any(name.startswith(("visual.layer1.", "visual.attnpool.")) for name in tensors)
    vision = (_infer_resnet if resnet else _infer_vit)(tensors)
    image_heads, text_heads = heads or (
        max(1, (vision.features if resnet else vision.width) // 64),
        max(1, width // 64),
    )
    text = TextConfig(
        width,
        counted(tensors, r"transformer\.resblocks\.#\."),
        text_heads,
        majority_size(tensors, [("positional_embedding", 0)], 77),
        vocab_size,
        vocab_size - 1,
        _hidden(tensors, block, width) / width,
    )
    embed_dim = majority_size(
        tensors,
        [("text_projection", 1), ("visual.proj", 1), ("visual.attnpool.c_proj.weight", 0)],
        width,
    )
    vision = dataclasses.replace(vision, num_heads=image_heads)
    return ClipConfig(embed_dim, vision, text, activation)


def _infer_vit(tensors: Tensors) -> ViTConfig:
    block = "visual.transformer.resblocks.0"
    width = majority_size(
        tensors,
        [
            ("visual.conv1.weight", 0), ("visual.class_embedding", 0), ("visual.proj", 0),
            ("visual.positional_embedding", 1), ("visual.ln_pre.weight", 0),
            (f"{block}.ln_1.weight", 0),
        ],
        768,
    )  # fmt: skip
    patch = majority_size(tensors, [("visual.conv1.weight", 3), ("visual.conv1.weight", 2)], 32)
    tokens = majority_size(tensors, [("visual.positional_embedding", 0)], 50)
    return ViTConfig(
        _side(tokens) * patch,
        patch,
        width,
        counted(tensors, r"visual\.transformer\.resblocks\.#\."),
        1,
        _hidden(tensors, block, width) / width,
    )


def _infer_resnet(tensors: Tensors) -> ResNetConfig:
    width = majority_size(
        tensors,
        [(f"visual.layer1.0.{part}.weight", 0) for part in ("conv1", "bn1", "conv2", "bn2")],
        64,
    )
    tokens = majority_size(tensors, [("visual.attnpool.positional_embedding", 0)], 50)
    # They are numbered from 1.
    stages = range(1, max(2, counted(tensors, r"visual\.layer#\.")))
    layers = tuple(counted(tensors, rf"visual\.layer{stage}\.#\.") for stage in stages)
    return ResNetConfig(_side(tokens) * 4 * 2 ** (len(layers) - 1), layers, width, 1)


def _side(tokens: int) -> int:
    """Side of the square grid that a class token, or a mean, comes on top of."""
    return max(1, round((tokens - 1) ** 0.5))
