"""open_clip's ``open_clip_config.json``: model sizes both ways. Its tensors are OpenAI's."""

import dataclasses
import math
from collections.abc import Mapping

from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.settings import JsonObject, short_repr
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.variants import VARIANTS, ClipConfig
from clip_jax.models.vit import ViTConfig
from clip_jax.runtime.digests import Json

# Keys that say something our towers have. All others must be absent or hold one of the values
# that turn them off: a key that is passed over would be another model.
_MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale"}
_VISION = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
_OFF = (None, False, 0, 0.0, {}, [], "")


def _unknown(group: Mapping[str, Json], known: set[str], harmless: Mapping[str, Json]) -> list[str]:
    return [
        f"{k}={short_repr(v)}"
        for k, v in group.items()
        if k not in known and v not in _OFF and harmless.get(k) != v
    ]


def from_json(model_cfg: object, source: str) -> ClipConfig:
    """``model_cfg`` of open_clip_config.json (or of its model files) to our sizes.

    Raises:
      LayoutError: it has settings that our towers do not have, and lists them; or a value is
        missing or of another kind, and names the key.
    """
    model = JsonObject(model_cfg, source, "model_cfg")
    vision, text = model.child("vision_cfg"), model.child("text_cfg")
    problems = [
        group.key(p)
        for group, unknown in (
            (model, _unknown(model.values, _MODEL, {})),
            (vision, _unknown(vision.values, _VISION, {"pool_type": "tok", "pos_embed_type":
                                                       "learnable", "act_kwargs": None})),
            (text, _unknown(text.values, _TEXT, {"pool_type": "argmax", "proj_type": "linear"})),
        )
        for p in unknown
    ]  # fmt: skip
    if problems:
        raise LayoutError(f"{source}: not known here: {', '.join(problems)}")
    width, head_width = vision.integer("width"), vision.integer("head_width", 64)
    size = vision.integer("image_size", 224)
    if isinstance(vision.values.get("layers"), list | tuple):
        layers = vision.integers("layers")
        tower: object = ResNetConfig(size, layers, width, width * 32 // head_width)
    else:
        tower = ViTConfig(
            size, vision.integer("patch_size", 16), width, vision.integer("layers"),
            width // head_width, _ratio(vision, width),
        )  # fmt: skip
    vocab_size, text_width = text.integer("vocab_size", 49408), text.integer("width")
    return ClipConfig(
        model.integer("embed_dim"),
        tower,
        TextConfig(
            text_width, text.integer("layers"), text.integer("heads"),
            text.integer("context_length", 77), vocab_size, vocab_size - 1,
            _ratio(text, text_width),
        ),
        "quick_gelu" if model.values.get("quick_gelu") else "gelu",
    )  # fmt: skip


def _ratio(tower: JsonObject, width: int) -> float:
    """The exact ratio of the MLPs' hidden width, which open_clip rounds down, to the width."""
    return int(width * tower.number("mlp_ratio", 4.0)) / width


def _rounded_ratio(width: int, hidden: int) -> float:
    """The shortest number that gives a hidden width, rounded up as open_clip's own files have it.

    The exact ratio, times the width, may fall short of the hidden width by a rounding error.
    """
    for digits in range(4, 17):
        ratio = math.ceil(hidden / width * 10**digits) / 10**digits
        if int(width * ratio) == hidden:
            return ratio
    raise LayoutError(f"open_clip's mlp_ratio cannot say a hidden width of {hidden} for {width}")


def with_known_heads(config: ClipConfig, source: str) -> ClipConfig:
    """Sizes from the tensors of a lone file, with the heads of the model that has these sizes.

    Raises:
      LayoutError: no model of ``VARIANTS`` has them.
    """

    def without_heads(c: ClipConfig) -> tuple[object, ...]:
        towers = [dataclasses.replace(tower, num_heads=0) for tower in (c.vision, c.text)]
        return (c.embed_dim, *towers, c.norm_epsilon, c.logit_bias)

    sizes = without_heads(config)
    heads = {
        (v.vision.num_heads, v.text.num_heads)
        for v in VARIANTS.values()
        if without_heads(v) == sizes
    }
    if len(heads) != 1:
        raise LayoutError(
            f"{source}: the tensors do not tell the number of attention heads, and these are not "
            "the sizes of a model that is known here; give a folder with open_clip_config.json, or "
            "say heads=(image, text) (convert: --heads IMAGE TEXT)"
        )
    return with_heads(config, heads.pop())


def with_heads(config: ClipConfig, heads: tuple[int, int]) -> ClipConfig:
    """The same sizes with so many heads in the image and the text tower."""
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, num_heads=heads[0]),
        text=dataclasses.replace(config.text, num_heads=heads[1]),
    )


def to_json(config: ClipConfig) -> dict[str, Json]:
    """Our sizes to ``model_cfg``.

    Raises:
      LayoutError: an activation or a hidden width that open_clip's configuration cannot say.
    """
    vision, text = config.vision, config.text
    if config.activation not in ("quick_gelu", "gelu"):
        raise LayoutError(f"open_clip's layout has no activation {config.activation!r}")
    tower: dict[str, Json] = {"image_size": vision.image_size, "width": vision.width}
    if isinstance(vision, ResNetConfig):
        tower |= {"layers": list(vision.num_layers), "patch_size": None,
                  "head_width": vision.features // vision.num_heads}  # fmt: skip
    else:
        tower |= {
            "layers": vision.num_layers, "patch_size": vision.patch_size,
            "head_width": vision.width // vision.num_heads,
            "mlp_ratio": _rounded_ratio(vision.width, vision.mlp_width),
        }  # fmt: skip
    return {
        "embed_dim": config.embed_dim,
        "quick_gelu": config.activation == "quick_gelu",
        "vision_cfg": tower,
        "text_cfg": {
            "context_length": text.context_length, "vocab_size": text.vocab_size,
            "width": text.width, "heads": text.num_heads, "layers": text.num_layers,
            "mlp_ratio": _rounded_ratio(text.width, text.mlp_width),
        },
    }  # fmt: skip
