"""Hugging Face's ``CLIPModel`` and ``SiglipModel``: tensor names, and ``config.json`` both ways."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clip_jax.interop.mapping import Entry, LayoutError, blocks, read_table
from clip_jax.interop.settings import JsonObject, short_repr
from clip_jax.models.text import TextConfig
from clip_jax.models.variants import ClipConfig
from clip_jax.models.vit import ViTConfig
from clip_jax.runtime.digests import Json

# Buffers that older files hold beside the weights.
IGNORED = re.compile(r"\.position_ids$")

# What config.json leaves out has these values; those of the library's two configuration classes.
_DEFAULTS: dict[str, dict[str, dict[str, Json]]] = json.loads(
    Path(__file__).with_name("hugging_face_defaults.json").read_text("utf-8")
)
_ACTIVATIONS = {
    "quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}  # fmt: skip
_ACTIVATION_NAMES = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


_TABLE = read_table(Path(__file__).with_name("hugging_face_tensors.txt"))


def is_siglip(config: ClipConfig) -> bool:
    """Whether a model is of SigLIP's architecture rather than of CLIP's.

    Raises:
      LayoutError: it is of neither, which Hugging Face has no class for.
    """
    text, vision = config.text, config.vision
    if not isinstance(vision, ViTConfig) or vision.stem:
        raise LayoutError(
            "Hugging Face's layout has no ResNet and no convolutional stem; convert to another "
            "layout (--to=openai holds ResNets)"
        )
    kind = (text.causal, text.pool, vision.pool, config.logit_bias)
    if kind == (True, "eot", "cls", False):
        if text.eot_id == 2:
            raise LayoutError(
                "Hugging Face's CLIPModel takes an end of text of 2 for a sign of old files, and "
                "pools at the largest id instead; write --to=clip_jax"
            )
        return False
    if kind == (False, "last", "map", True):
        return True
    raise LayoutError("Hugging Face's layout has only whole CLIPs and whole SigLIPs, no mixtures")


def entries(config: ClipConfig) -> list[Entry]:
    """The layout's table for a model.

    Raises:
      LayoutError: the layout cannot hold this model.
    """
    kind = "siglip" if is_siglip(config) else "clip"

    def tower(ours: str, theirs: str, layers: int) -> list[Entry]:
        encoder = blocks(_TABLE["block"], layers, tower=ours, theirs=theirs)
        return [*_TABLE[f"{ours} begin"], *encoder, *_TABLE[f"{ours} end"]]

    return [
        *_TABLE[f"{kind} begin"],
        *tower("text", "text_model", config.text.num_layers),
        *tower("image", "vision_model", config.vision.num_layers),
        *_TABLE[f"{kind} end"],
    ]


def weights(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors that are weights."""
    return {name: array for name, array in tensors.items() if not IGNORED.search(name)}


def from_json(config: object, source: str) -> ClipConfig:
    """``config.json`` of a CLIPModel or a SiglipModel to our sizes.

    Raises:
      LayoutError: another kind of model, a setting that our towers do not have, or a value of
        another kind; names the key.
    """
    top = JsonObject(config, source)
    kind = top.choice("model_type", _DEFAULTS)
    siglip = kind == "siglip"
    groups = []
    for name, standard in _DEFAULTS[kind].items():
        # A null stands for all defaults.
        given = top.values.get(name)
        values = {} if given is None else top.child(name).values
        groups.append(JsonObject(standard | dict(values), source, name))
    text, vision = groups
    activation = text.choice("hidden_act", _ACTIVATIONS)
    epsilon = text.number("layer_norm_eps")
    for key, ours in (("hidden_act", activation), ("layer_norm_eps", epsilon)):
        if vision.values[key] != ours:
            raise LayoutError(
                f"{source}: text_config.{key}={ours!r} differs from "
                f"vision_config.{key}={short_repr(vision.values[key])}; both towers must share it"
            )
    width, text_width = vision.integer("hidden_size"), text.integer("hidden_size")
    vocab_size = text.integer("vocab_size")
    # SigLIP's text tower does not look for it, and what its files say is often CLIP's.
    outside = siglip and text.values.get("eos_token_id") not in range(vocab_size)
    eot_id = 1 if outside else text.integer("eos_token_id", least=0)
    if not siglip and eot_id == 2:
        # Old files say 2 whatever the vocabulary; the library then pools at the largest id.
        eot_id = vocab_size - 1
    return ClipConfig(
        width if siglip else top.integer("projection_dim", 512),
        ViTConfig(
            vision.integer("image_size"), vision.integer("patch_size"), width,
            vision.integer("num_hidden_layers"), vision.integer("num_attention_heads"),
            vision.integer("intermediate_size") / width, pool="map" if siglip else "cls",
        ),
        TextConfig(
            text_width, text.integer("num_hidden_layers"), text.integer("num_attention_heads"),
            text.integer("max_position_embeddings"), vocab_size, eot_id,
            text.integer("intermediate_size") / text_width,
            causal=not siglip, pool="last" if siglip else "eot",
        ),
        _ACTIVATIONS[activation],
        norm_epsilon=epsilon,
        logit_bias=siglip,
    )  # fmt: skip


def to_json(config: ClipConfig) -> dict[str, Json]:
    """Our sizes to the contents of ``config.json``."""
    siglip = is_siglip(config)
    kind = "siglip" if siglip else "clip"
    shared = {
        "hidden_act": _ACTIVATION_NAMES[config.activation],
        "layer_norm_eps": config.norm_epsilon,
    }
    if not siglip:
        shared["projection_dim"] = config.embed_dim

    def tower(c: object, name: str) -> dict[str, Json]:
        return {
            "model_type": f"{kind}_{name}_model",
            "hidden_size": c.width,
            "intermediate_size": c.mlp_width,
            "num_hidden_layers": c.num_layers,
            "num_attention_heads": c.num_heads,
            **shared,
        }

    text = tower(config.text, "text") | {
        "max_position_embeddings": config.text.context_length,
        "vocab_size": config.text.vocab_size,
        "eos_token_id": config.text.eot_id,
    }
    if siglip:
        text["projection_size"] = config.embed_dim
    else:
        text["bos_token_id"] = config.text.eot_id - 1
    vision = tower(config.vision, "vision") | {
        "image_size": config.vision.image_size,
        "patch_size": config.vision.patch_size,
    }
    top = {} if siglip else {"projection_dim": config.embed_dim}
    return {
        "architectures": ["SiglipModel" if siglip else "CLIPModel"],
        "model_type": kind,
        "text_config": text,
        "vision_config": vision,
        **top,
    }
