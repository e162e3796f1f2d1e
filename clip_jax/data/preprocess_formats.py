"""``Preprocess`` in the words of others: Hugging Face's and open_clip's configuration files.

What a file asks for and ``Preprocess`` cannot do exactly is refused, by the name of its key.
"""

import math
from collections.abc import Mapping

from clip_jax.data.preprocess import FILTERS, OPENAI_MEAN, OPENAI_STD, Preprocess
from clip_jax.runtime.digests import Json

# What Hugging Face's classes fill in for keys that are missing or null.
_COMMON = {"do_resize": True, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255,
           "do_normalize": True, "do_convert_rgb": True}  # fmt: skip
_HUGGING_FACE: dict[str, dict[str, Json]] = {
    "CLIPImageProcessor": _COMMON
    | {
        "size": {"shortest_edge": 224},
        "do_center_crop": True,
        "crop_size": 224,
        "image_mean": OPENAI_MEAN,
        "image_std": OPENAI_STD,
    },
    "SiglipImageProcessor": _COMMON
    | {
        "size": {"height": 224, "width": 224},
        "do_center_crop": False,
        "crop_size": None,
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
    },
}
_RESAMPLE = {int(code): name for name, code in FILTERS.items()}


def from_hugging_face(preprocessor_config: Mapping[str, Json]) -> Preprocess:
    """Reads a ``preprocessor_config.json`` of a CLIPImageProcessor or SiglipImageProcessor.

    Their older and newer names (CLIPFeatureExtractor, ...Fast, ...Pil) count too, and a
    ``processor_config.json`` that holds one. Three things that Hugging Face does differently from
    openai/CLIP, with which the weights were trained, are not imitated: it converts to RGB before
    it resizes, crops one pixel further left or up where 3, 7, ... pixels are cut off, and rounds
    otherwise in its torchvision classes.

    Source: transformers ``CLIPImageProcessor``, ``SiglipImageProcessor``, ``image_transforms``.

    Raises:
      ValueError: another processor, a step that is missing or unknown, or an output that is not
        square.
    """
    kind, config = _completed(preprocessor_config)
    resize, image_size = _geometry(config)
    if not isinstance(config["resample"], int) or config["resample"] not in _RESAMPLE:
        raise ValueError(
            f"resample={config['resample']!r} is not supported for {kind}, only {_RESAMPLE}"
        )
    normalize = config["do_normalize"]
    return Preprocess(
        image_size=image_size,
        resize=resize,
        interpolation=_RESAMPLE[config["resample"]],
        mean=_channels(config["image_mean"] if normalize else 0.0),
        std=_channels(config["image_std"] if normalize else 1.0),
    )


def _completed(preprocessor_config: Mapping[str, Json]) -> tuple[str, dict[str, Json]]:
    """The processor's name, and its keys with its defaults; refuses steps we do not have."""
    given = preprocessor_config.get("image_processor", preprocessor_config)
    if not isinstance(given, Mapping):
        raise ValueError(f"image_processor={given!r} is not an object")
    kind = str(given.get("image_processor_type") or given.get("feature_extractor_type"))
    family = kind.removesuffix("Fast").removesuffix("Pil")
    defaults = _HUGGING_FACE.get(family.replace("FeatureExtractor", "ImageProcessor"))
    if defaults is None:
        raise ValueError(
            f"image_processor_type={kind} is not one of {sorted(_HUGGING_FACE)}: set the one that "
            "fits, or write the Preprocess out yourself"
        )
    config = defaults | {key: value for key, value in given.items() if value is not None}
    for key, value in config.items():
        # Json other switch, such as do_pad, changes the image in a way that is unknown here.
        if value is True and key not in defaults:
            raise ValueError(f"{key}=true is not supported for {kind}: set it to false")
        if not value and key in ("do_resize", "do_rescale"):
            raise ValueError(f"{key}=false is not supported for {kind}: set it to true")
    factor = config["rescale_factor"]
    if not isinstance(factor, float) or not math.isclose(factor, 1 / 255, rel_tol=1e-6):
        raise ValueError(f"rescale_factor={factor!r} is not supported for {kind}, only 1/255")
    return kind, config


def _geometry(config: Mapping[str, Json]) -> tuple[str, int]:
    """How a Hugging Face processor makes a square, and its side."""
    size, crop = config["size"], None
    size = {"shortest_edge": size} if isinstance(size, int) else _sides(size)
    if config["do_center_crop"]:
        crop = _sides(config["crop_size"])
    match size:
        case {"shortest_edge": n} if len(size) == 1 and crop == {"height": n, "width": n}:
            return "shortest", n
        case {"height": n, "width": w} if len(size) == 2 and w == n and crop in (None, size):
            return "squash", n
    raise ValueError(
        f"size={config['size']!r} with crop_size={config['crop_size']!r} and "
        f"do_center_crop={config['do_center_crop']} is not supported: either the shortest_edge "
        "and a crop of the same height and width, or the height and width of a square"
    )


def _sides(size: Json) -> dict[str, int]:
    """A size as a dict; the older files have lists and single numbers."""
    if isinstance(size, Mapping):
        return {side: value for side, value in size.items() if value is not None}
    sides = size if isinstance(size, list | tuple) else (size, size)
    return dict(zip(("height", "width"), sides, strict=False))


def _channels(values: Json) -> Json:
    """A single number stands for three."""
    return (values,) * 3 if isinstance(values, int | float) else values


def to_hugging_face(preprocess: Preprocess) -> dict[str, Json]:
    """A ``preprocessor_config.json``: CLIPImageProcessor, or SiglipImageProcessor for "squash".

    Raises:
      ValueError: ``resize="longest"``, which neither can do.
    """
    if preprocess.resize == "longest":
        raise ValueError(
            "resize='longest' cannot be written for Hugging Face, whose CLIP and SigLIP processors "
            "do not fill up: write it for open_clip, or use 'shortest' or 'squash'"
        )
    shortest, n = preprocess.resize == "shortest", preprocess.image_size
    return {
        "image_processor_type": "CLIPImageProcessor" if shortest else "SiglipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": n} if shortest else {"height": n, "width": n},
        "resample": int(FILTERS[preprocess.interpolation]),
        "do_center_crop": shortest,
        "crop_size": {"height": n, "width": n},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }


def from_open_clip(preprocess_cfg: Mapping[str, Json], image_size: Json = None) -> Preprocess:
    """Reads the ``preprocess_cfg`` of an ``open_clip_config.json``: the evaluation transform.

    As in open_clip, other keys are ignored, missing and null ones have its defaults, and "random"
    interpolation, of training, means "bicubic".

    Source: open_clip ``transform.py`` (``PreprocessCfg``, ``image_transform_v2``), ``factory.py``.

    Args:
      preprocess_cfg: mean, std, interpolation, resize_mode, fill_color and size.
      image_size: of the file's ``vision_cfg``; goes before ``size``, which most files leave out.

    Raises:
      ValueError: no size, one that is not square, or a value that is not legal.
    """
    given = {key: value for key, value in preprocess_cfg.items() if value is not None}
    size = given.get("size") if image_size is None else image_size
    if size is None:
        raise ValueError("preprocess_cfg has no size: give image_size, of the file's vision_cfg")
    sides = list(size) if isinstance(size, list | tuple) else [size]
    if not sides or any(side != sides[0] for side in sides):
        raise ValueError(f"size={size} is not a square, and only squares are supported")
    if given.get("mode", "RGB") != "RGB":
        raise ValueError(f"mode={given['mode']!r} is not supported, only 'RGB'")
    interpolation = given.get("interpolation") or "bicubic"
    return Preprocess(
        image_size=sides[0],
        resize=given.get("resize_mode") or "shortest",
        interpolation="bicubic" if interpolation == "random" else interpolation,
        mean=_channels(given.get("mean") or OPENAI_MEAN),
        std=_channels(given.get("std") or OPENAI_STD),
        fill=given.get("fill_color", 0),
    )


def to_open_clip(preprocess: Preprocess) -> dict[str, Json]:
    """The ``preprocess_cfg`` of an ``open_clip_config.json``."""
    return {
        "size": preprocess.image_size,
        "mode": "RGB",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize,
        "fill_color": preprocess.fill,
    }
