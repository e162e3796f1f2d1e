"""Hugging Face's ``CLIPModel`` and ``SiglipModel``: tensor names, and ``config.json`` both ways."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from clip_jax.interop.mapping import Entry, LayoutError, torch_dense, torch_norm
from clip_jax.interop.settings import JsonObject, short_repr
from clip_jax.models.text import TextConfig
from clip_jax.models.variants import ClipConfig
from clip_jax.models.vit import ViTConfig

# Buffers that older files hold beside the weights.
IGNORED = re.compile(r"\.position_ids$")

# What config.json leaves out has these values; those of the library's two configuration classes.
_TRANSFORMER = {"num_hidden_layers": 12, "intermediate_size": 3072, "hidden_size": 768}
_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "clip": {
        "text_config": {
            "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
            "num_attention_heads": 8, "max_position_embeddings": 77, "vocab_size": 49408,
            "eos_token_id": 49407, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        },
        "vision_config": _TRANSFORMER | {
            "num_attention_heads": 12, "image_size": 224, "patch_size": 32,
            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        },
    },
    "siglip": {
        "text_config": _TRANSFORMER | {
            "num_attention_heads": 12, "max_position_embeddings": 64, "vocab_size": 32000,
            "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
        },
        "vision_config": _TRANSFORMER | {
            "num_attention_heads": 12, "image_size": 224, "patch_size": 16,
            "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
        },
    },
}  # fmt: skip
_ACTIVATIONS = {
    "quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}  # fmt: skip
_ACTIVATION_NAMES = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


def _encoder(tower: str, theirs: str, layers: int) -> list[Entry]:
    found = []
    for i in range(layers):
        a, b = f"params/{tower}/encoder/{i}", f"{theirs}.encoder.layers.{i}"
        parts = [f"{b}.self_attn.{p}_proj" for p in ("q", "k", "v")]
        found += [
            Entry(f"{a}/attention/qkv/kernel", tuple(f"{p}.weight" for p in parts), "linear"),
            Entry(f"{a}/attention/qkv/bias", tuple(f"{p}.bias" for p in parts), "vector"),
            *torch_dense(f"{a}/attention/out", f"{b}.self_attn.out_proj", "merging"),
            *torch_norm(f"{a}/norm_1/norm", f"{b}.layer_norm1"),
            *torch_dense(f"{a}/fc", f"{b}.mlp.fc1"),
            *torch_dense(f"{a}/proj", f"{b}.mlp.fc2"),
            *torch_norm(f"{a}/norm_2/norm", f"{b}.layer_norm2"),
        ]
    return found


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
    kinds = {
        (text.causal, text.pool, vision.pool, config.logit_bias),
    }
    if kinds == {(True, "eot", "cls", False)}:
        if text.eot_id == 2:
            raise LayoutError(
                "Hugging Face's CLIPModel takes an end of text of 2 for a sign of old files, and "
                "pools at the largest id instead; write --to=clip_jax"
            )
        return False
    if kinds == {(False, "last", "map", True)}:
        return True
    raise LayoutError("Hugging Face's layout has only whole CLIPs and whole SigLIPs, no mixtures")


def entries(config: ClipConfig) -> list[Entry]:
    """The layout's table for a model.

    Raises:
      LayoutError: the layout cannot hold this model.
    """
    siglip = is_siglip(config)
    image, text = "params/image_tower", "params/text_tower"
    v, t = "vision_model", "text_model"
    table = [
        Entry(f"{text}/token_embedding", (f"{t}.embeddings.token_embedding.weight",), "same"),
        Entry(f"{text}/position_embedding", (f"{t}.embeddings.position_embedding.weight",), "same"),
        *_encoder("text_tower", t, config.text.num_layers),
        *torch_norm(f"{text}/norm_final/norm", f"{t}.final_layer_norm"),
        Entry(
            f"{image}/patch_embedding/kernel",
            (f"{v}.embeddings.patch_embedding.weight",),
            "convolution",
        ),
        Entry(
            f"{image}/position_embedding", (f"{v}.embeddings.position_embedding.weight",), "same"
        ),
        *_encoder("image_tower", v, config.vision.num_layers),
        *torch_norm(f"{image}/norm_post/norm", f"{v}.post_layernorm"),
    ]
    if not siglip:
        return [
            Entry("params/logit_scale", ("logit_scale",), "same"),
            *table,
            Entry(f"{image}/class_embedding", (f"{v}.embeddings.class_embedding",), "same"),
            *torch_norm(f"{image}/norm_pre/norm", f"{v}.pre_layrnorm"),
            Entry(f"{image}/projection/kernel", ("visual_projection.weight",), "linear"),
            Entry(f"{text}/projection/kernel", ("text_projection.weight",), "linear"),
        ]
    pool, head = f"{image}/pool", f"{v}.head"
    return [
        Entry("params/logit_scale", ("logit_scale",), "batched"),
        Entry("params/logit_bias", ("logit_bias",), "batched"),
        *table,
        *torch_dense(f"{text}/projection", f"{t}.head"),
        Entry(f"{image}/patch_embedding/bias", (f"{v}.embeddings.patch_embedding.bias",), "same"),
        Entry(f"{pool}/query", (f"{head}.probe",), "batched_twice"),
        Entry(f"{pool}/attention/qkv/kernel", (f"{head}.attention.in_proj_weight",), "linear"),
        Entry(f"{pool}/attention/qkv/bias", (f"{head}.attention.in_proj_bias",), "vector"),
        *torch_dense(f"{pool}/attention/out", f"{head}.attention.out_proj", "merging"),
        *torch_norm(f"{pool}/norm/norm", f"{head}.layernorm"),
        *torch_dense(f"{pool}/fc", f"{head}.mlp.fc1"),
        *torch_dense(f"{pool}/proj", f"{head}.mlp.fc2"),
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


def to_json(config: ClipConfig) -> dict[str, Any]:
    """Our sizes to the contents of ``config.json``."""
    siglip = is_siglip(config)
    kind = "siglip" if siglip else "clip"
    shared = {
        "hidden_act": _ACTIVATION_NAMES[config.activation],
        "layer_norm_eps": config.norm_epsilon,
    }
    if not siglip:
        shared["projection_dim"] = config.embed_dim

    def tower(c: object, name: str) -> dict[str, Any]:
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
