"""The tensors of openai/CLIP, which open_clip has kept: names, and the sizes they give away."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from clip_jax.interop.mapping import Entry, LayoutError, torch_dense, torch_norm
from clip_jax.interop.sizes import counted, majority_size
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.variants import ClipConfig
from clip_jax.models.vit import ViTConfig

Tensors = Mapping[str, np.ndarray]

# Not weights: facts in OpenAI's archives, and what PyTorch counts but never uses here.
IGNORED = re.compile(
    r"(input_resolution|context_length|vocab_size|attn_mask)$|\.num_batches_tracked$"
)


def _transformer(ours: str, theirs: str, layers: int) -> list[Entry]:
    found = []
    for i in range(layers):
        a, b = f"{ours}/encoder/{i}", f"{theirs}.resblocks.{i}"
        found += [
            Entry(f"{a}/attention/qkv/kernel", (f"{b}.attn.in_proj_weight",), "linear"),
            Entry(f"{a}/attention/qkv/bias", (f"{b}.attn.in_proj_bias",), "vector"),
            *torch_dense(f"{a}/attention/out", f"{b}.attn.out_proj", "merging"),
            *torch_norm(f"{a}/norm_1/norm", f"{b}.ln_1"),
            *torch_dense(f"{a}/fc", f"{b}.mlp.c_fc"),
            *torch_dense(f"{a}/proj", f"{b}.mlp.c_proj"),
            *torch_norm(f"{a}/norm_2/norm", f"{b}.ln_2"),
        ]
    return found


def _vit(c: ViTConfig) -> list[Entry]:
    a = "params/image_tower"
    return [
        Entry(f"{a}/class_embedding", ("visual.class_embedding",), "same"),
        Entry(f"{a}/position_embedding", ("visual.positional_embedding",), "same"),
        Entry(f"{a}/projection/kernel", ("visual.proj",), "same"),
        Entry(f"{a}/patch_embedding/kernel", ("visual.conv1.weight",), "convolution"),
        *torch_norm(f"{a}/norm_pre/norm", "visual.ln_pre"),
        *_transformer(a, "visual.transformer", c.num_layers),
        *torch_norm(f"{a}/norm_post/norm", "visual.ln_post"),
    ]


def _convolution(place: str, ours: str, norm: str, conv: str, bn: str) -> list[Entry]:
    """A convolution without bias and its batch norm; ``place`` is inside the image tower."""
    a, stats = f"params/image_tower/{place}", f"batch_stats/image_tower/{place}"
    return [
        Entry(f"{a}{ours}/conv/kernel", (f"visual.{conv}.weight",), "convolution"),
        *torch_norm(f"{a}{norm}", f"visual.{bn}"),
        Entry(f"{stats}{norm}/mean", (f"visual.{bn}.running_mean",), "same"),
        Entry(f"{stats}{norm}/var", (f"visual.{bn}.running_var",), "same"),
    ]


def _resnet(c: ResNetConfig) -> list[Entry]:
    found = []
    for i in (1, 2, 3):
        found += _convolution("", f"stem_conv_{i}", f"stem_norm_{i}", f"conv{i}", f"bn{i}")
    for stage, blocks in enumerate(c.num_layers, 1):
        for block in range(blocks):
            a, b = f"stage_{stage}/{block}/", f"layer{stage}.{block}"
            for i in (1, 2, 3):
                found += _convolution(a, f"conv_{i}", f"norm_{i}", f"{b}.conv{i}", f"{b}.bn{i}")
            if block == 0:
                found += _convolution(
                    a, "conv_shortcut", "norm_shortcut", f"{b}.downsample.0", f"{b}.downsample.1"
                )
    a, b = "params/image_tower/attention_pool", "visual.attnpool"
    return [
        *found,
        Entry(f"{a}/position_embedding", (f"{b}.positional_embedding",), "same"),
        *torch_dense(f"{a}/key", f"{b}.k_proj"),
        *torch_dense(f"{a}/query", f"{b}.q_proj"),
        *torch_dense(f"{a}/value", f"{b}.v_proj"),
        *torch_dense(f"{a}/out", f"{b}.c_proj", "merging"),
    ]


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
    t = "params/text_tower"
    return [
        Entry(f"{t}/position_embedding", ("positional_embedding",), "same"),
        Entry(f"{t}/projection/kernel", ("text_projection",), "same"),
        Entry("params/logit_scale", ("logit_scale",), "same"),
        *(_resnet(vision) if resnet else _vit(vision)),
        *_transformer(t, "transformer", config.text.num_layers),
        Entry(f"{t}/token_embedding", ("token_embedding.weight",), "same"),
        *torch_norm(f"{t}/norm_final/norm", "ln_final"),
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
