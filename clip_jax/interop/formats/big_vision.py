"""big_vision's two-tower checkpoints (``.npz``), as SigLIP was published: names and sizes."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clip_jax.interop.mapping import Entry, LayoutError, blocks, read_table
from clip_jax.interop.sizes import counted, majority_size
from clip_jax.models.text import TextConfig
from clip_jax.models.variants import ClipConfig
from clip_jax.models.vit import ViTConfig

_MOST_BLOCKS = 1000  # an array without numbers may claim any number of them
_ATTENTION = "MultiHeadDotProductAttention_0"


_TABLE = read_table(Path(__file__).with_name("big_vision_tensors.txt"))


def entries(config: ClipConfig) -> list[Entry]:
    """The layout's table for a model.

    Raises:
      LayoutError: the layout holds SigLIP's architecture alone.
    """
    vision, text = config.vision, config.text
    if not isinstance(vision, ViTConfig) or vision.pool != "map" or text.pool != "last":
        raise LayoutError(
            "big_vision's layout is known for SigLIP models alone; convert to another layout"
        )
    block, image, words = _TABLE["block"], "img/Transformer", "txt/Encoder_0"
    return [
        *_TABLE["image begin"],
        *blocks(block, vision.num_layers, tower="image", theirs=image),
        *_TABLE["image end and text begin"],
        *blocks(block, text.num_layers, tower="text", theirs=words),
        *_TABLE["text end"],
    ]


def weights(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors that are weights; blocks that a scan has stacked are numbered."""
    numbered = {}
    for name, array in tensors.items():
        if not name.startswith("params/"):
            continue  # optimizer state and counters of a training checkpoint
        if "/encoderblock/" in name and array.ndim and array.shape[0] <= _MOST_BLOCKS:
            for i in range(array.shape[0]):
                numbered[name.replace("/encoderblock/", f"/encoderblock_{i}/")] = array[i]
        else:
            numbered[name] = array
    return numbered


def infer(tensors: Mapping[str, np.ndarray]) -> ClipConfig:
    """The model that most of the shapes describe; what does not fit it is for others to list.

    Args:
      tensors: as ``weights`` gives them.
    """

    def size(default: int, *places: tuple[str, int]) -> int:
        return majority_size(tensors, places, default)

    def tower(prefix: str) -> tuple[int, int, int, float]:
        block = f"{prefix}/encoderblock_0"
        attention, dense = f"{block}/{_ATTENTION}", f"{block}/MlpBlock_0/Dense_"
        width = size(
            768,
            (f"{attention}/query/kernel", 0),
            (f"{attention}/key/kernel", 0),
            (f"{block}/LayerNorm_0/scale", 0),
            (f"{prefix}/encoder_norm/scale", 0),
        )
        heads = size(
            1,
            (f"{attention}/query/kernel", 1),
            (f"{attention}/key/kernel", 1),
            (f"{attention}/out/kernel", 0),
        )
        hidden = size(
            4 * width, (f"{dense}0/kernel", 1), (f"{dense}0/bias", 0), (f"{dense}1/kernel", 0)
        )
        layers = counted(tensors, rf"{re.escape(prefix)}/encoderblock_#/")
        return width, layers, heads, hidden / width

    embedding = "params/img/embedding/kernel"
    patch = size(16, (embedding, 0), (embedding, 1))
    side = max(1, round(size(196, ("params/img/pos_embedding", -2)) ** 0.5))
    width, layers, heads, ratio = tower("params/txt/Encoder_0")
    text = TextConfig(
        width, layers, heads, size(64, ("params/txt/pos_embedding", -2)),
        size(32000, ("params/txt/Embed_0/embedding", 0)), 1, ratio, causal=False, pool="last",
    )  # fmt: skip
    image = tower("params/img/Transformer")
    return ClipConfig(
        image[0],  # there is no projection: the text tower's goes to the image tower's width
        ViTConfig(side * patch, patch, *image, pool="map"),
        text,
        "gelu_tanh",
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        norm_epsilon=1e-6,
        logit_bias=True,
    )
