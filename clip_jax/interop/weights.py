"""Weights of a CLIP with all that belongs to them, read and written in the layouts that exist.

=============  ==================================================================================
layout         files
=============  ==================================================================================
openai         ``.pt``: the TorchScript archives OpenAI published, or a state dict
open_clip      ``.pt``, ``.bin``, ``.safetensors``: a state dict or a training checkpoint; a folder
               with ``open_clip_config.json``
hugging_face   a folder with ``config.json`` and safetensors (in parts too) or ``.bin``
big_vision     ``.npz`` of SigLIP
clip_jax       a folder with ``clip_jax.json`` and ``model.safetensors``
=============  ==================================================================================
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from clip_jax.data.preprocess import Preprocess
from clip_jax.interop import files, readers, tree
from clip_jax.interop.files import WeightFiles
from clip_jax.interop.formats import big_vision, hugging_face, openai
from clip_jax.interop.mapping import Entry, LayoutError, import_tensors
from clip_jax.interop.readers import LayoutHints, Parts
from clip_jax.interop.settings import JsonObject, error_context
from clip_jax.interop.sizes import checked
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.variants import ClipConfig
from clip_jax.models.vit import ViTConfig
from clip_jax.runtime.digests import Json, json_digest
from clip_jax.tokenizers import KINDS, Tokenizer

FORMAT = 1  # of clip_jax.json
TOKENIZER_FILE = "tokenizer.model"

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model's numbers and all without which they mean nothing.

    Attributes:
      config: sizes and mathematics.
      variables: float32 arrays, as ``Clip.apply`` takes them.
      preprocess: makes an image into its input.
      tokenizer: makes texts into its input; None where the files do not hold it.
      layout: where they came from, a name in ``LAYOUTS``.
      source: the path, for messages.
    """

    config: ClipConfig
    variables: tree.Variables
    preprocess: Preprocess
    tokenizer: Tokenizer | None
    layout: str
    source: str

    def description(self) -> dict[str, Json]:
        """Architecture, activation, preprocessing and tokenizer, as JSON can hold them."""
        t, keys = self.tokenizer, ("name", "context_length", "vocab_size", "fingerprint")
        return {
            "model": model_to_dict(self.config),
            "preprocess": self.preprocess.to_dict(),
            "tokenizer": None if t is None else {key: getattr(t, key) for key in keys},
        }

    def file_metadata(self, layout: str) -> dict[str, Json]:
        """Those that the settings beside a file of a layout might contradict; see ``_agreed``."""
        metadata, c = self.description(), self.config
        return {
            "layout": layout,
            "heads": [c.vision.num_heads, c.text.num_heads],
            "activation": c.activation,
            "context_length": c.text.context_length,
            "preprocess": metadata["preprocess"],
            "tokenizer": metadata["tokenizer"],
        }

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of ``description``: what has to agree for the numbers to be used."""
        return json_digest(self.description())


# Names and a value of the towers' fields in format 1, of which fingerprints are made.
_STORED = {"num_heads": "heads", "num_layers": "layers"}
_FIELDS = {stored: field for field, stored in _STORED.items()}


def model_to_dict(config: ClipConfig) -> dict[str, Json]:
    """A model's sizes as JSON can hold them, in the names of clip_jax.json."""
    tower = "resnet" if isinstance(config.vision, ResNetConfig) else "vit"
    fields = dataclasses.asdict(config) | {"image_tower": tower}
    for group in ("vision", "text"):
        fields[group] = {_STORED.get(k, k): v for k, v in fields[group].items()}
    if fields["vision"].get("pool") == "cls":
        fields["vision"]["pool"] = "class"
    return json.loads(json.dumps(fields))


def model_from_dict(stored: Mapping[str, Json], source: str) -> ClipConfig:
    """The inverse of ``model_to_dict``; for the values see ``sizes.checked``.

    Raises:
      LayoutError: a key is unknown or missing, or a group is none.
    """

    def fields(group: JsonObject) -> dict[str, Json]:
        return {k: tuple(v) if isinstance(v, list) else v for k, v in group.values.items()}

    group = JsonObject(stored, source)
    towers = {"resnet": ResNetConfig, "vit": ViTConfig}
    tower = towers[group.choice("image_tower", towers)]
    top = fields(group)
    del top["image_tower"]
    vision, text = (
        {_FIELDS.get(k, k): v for k, v in fields(group.child(name)).items()}
        for name in ("vision", "text")
    )
    if vision.get("pool") == "class":
        vision["pool"] = "cls"
    try:
        return ClipConfig(**(top | {"vision": tower(**vision), "text": TextConfig(**text)}))
    except TypeError as error:
        raise LayoutError(f"{source}: not the description of a model: {error}") from None


def _read_clip_jax(files: WeightFiles, tensors: Tensors, hints: LayoutHints, source: str) -> Parts:
    settings = files.settings
    if settings is None:
        raise LayoutError(f"{source}: give the folder that holds clip_jax.json")
    hints.refuse(source, "clip_jax.json")
    if settings.get("format") != FORMAT:
        raise LayoutError(
            f"{source}: clip_jax.json has format {settings.get('format')!r}, this version reads "
            f"{FORMAT}; upgrade clip_jax"
        )
    file = f"{source}/clip_jax.json"
    top = JsonObject(settings, file)
    config = checked(model_from_dict(top.child("model").values, file), tensors, file)
    with error_context(f"{file}, preprocess"):
        preprocess = Preprocess.from_dict(top.child("preprocess").values)
    tokenizer = None
    if settings.get("tokenizer") is not None:
        tokenizer = _own_tokenizer(top.child("tokenizer"), files.folder)
    weights = Weights(config, {}, preprocess, tokenizer, "clip_jax", source)
    if settings.get("fingerprint") != weights.fingerprint:
        difference = _difference(settings, weights.description())
        raise LayoutError(
            f"{source}: {difference}; the folder was changed since it was written, or a file of "
            "another model lies in it"
        )
    return config, preprocess, tokenizer


def _agreed(
    parts: Parts, metadata: Mapping[str, Json], layout: str, alone: bool, source: str
) -> Parts:
    """What the settings beside tensors that we wrote say, where the tensors' file agrees.

    Raises:
      LayoutError: it does not; names the difference.
    """
    config, preprocess, tokenizer = parts
    # No other layout can say what becomes of transparent pixels.
    try:
        stored = Preprocess.from_dict(metadata["preprocess"])
    except (KeyError, TypeError, ValueError) as error:
        raise LayoutError(f"{source}: its metadata is damaged: {error!r}") from None
    if alone:  # then nothing else says it
        preprocess = stored
    preprocess = dataclasses.replace(preprocess, transparency=stored.transparency)
    now = Weights(config, {}, preprocess, tokenizer, "", source).file_metadata(layout)
    if tokenizer is None or metadata["tokenizer"] is None:  # not known on both sides
        now["tokenizer"] = metadata["tokenizer"]
    if now != metadata:
        raise LayoutError(
            f"{source}: {_difference(metadata, now)}; a file of the folder was changed or exchanged"
        )
    return config, preprocess, tokenizer


def _own_tokenizer(metadata: JsonObject, folder: Path) -> Tokenizer:
    length, name = metadata.integer("context_length", least=2), metadata.choice("name", KINDS)
    if not KINDS[name].reads_model:
        return KINDS[name](length)
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{metadata.source} wants {TOKENIZER_FILE}, which is not beside it")
    with error_context(str(file)):
        return KINDS[name](file, length)


def _difference(stored: Mapping[str, Json], now: Mapping[str, Json]) -> str:
    """The first value in which two descriptions differ, in words."""
    for group, values in now.items():
        old = stored.get(group)
        if old == values:
            continue
        if isinstance(old, Mapping) and isinstance(values, Mapping):
            key = next((k for k in values if old.get(k) != values[k]), "?")
            return f"{group}.{key} is {values.get(key)!r}, but it was written as {old.get(key)!r}"
        return f"{group} is {values!r}, but it was written as {old!r}"
    return "its fingerprint differs"


def _own_entries(config: ClipConfig) -> list[Entry]:
    return [Entry(name, (name,), "same") for name in tree.flatten(tree.shapes(config))]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How a layout tells its model, which of its tensors are weights, and where these go."""

    parts: Callable[[WeightFiles, Tensors, LayoutHints, str], Parts]
    weights: Callable[[Tensors], Tensors]
    entries: Callable[[ClipConfig], Sequence[Entry]]


LAYOUTS: dict[str, _Layout] = {
    "clip_jax": _Layout(_read_clip_jax, dict, _own_entries),
    "openai": _Layout(readers.read_openai, openai.weights, openai.entries),
    "open_clip": _Layout(readers.read_open_clip, openai.weights, openai.entries),
    "hugging_face": _Layout(readers.read_hugging_face, hugging_face.weights, hugging_face.entries),
    "big_vision": _Layout(readers.read_big_vision, big_vision.weights, big_vision.entries),
}


def read(
    path: str | os.PathLike,
    *,
    layout: str | None = None,
    activation: str | None = None,
    heads: tuple[int, int] | None = None,
) -> Weights:
    """Reads weights of any of ``LAYOUTS``.

    Args:
      path: a file or a folder, see above.
      layout: for a lone file whose layout its tensors do not tell: "openai" (its activation is
        QuickGELU) or "open_clip" (GELU).
      activation: "quick_gelu" for a lone file of an open_clip model ``-quickgelu``.
      heads: attention heads of the image and the text tower, for a lone open_clip file whose sizes
        are not those of a named variant.

    Raises:
      FileNotFoundError: nothing is there.
      LayoutError: unknown or ambiguous layout, or tensors that do not make a model; lists them.
      WeightFileError: a damaged or hostile PyTorch file.
    """
    if layout is not None and layout not in LAYOUTS:
        raise LayoutError(f"layout={layout!r} is not one of {', '.join(LAYOUTS)}")
    stored, source = files.find(path, layout), str(path)
    metadata = stored.metadata or {}
    if metadata and metadata.get("layout") not in LAYOUTS:
        raise LayoutError(f"{source}: its metadata is damaged: layout={metadata.get('layout')!r}")
    name = layout or stored.layout or metadata.get("layout")
    name = name or _recognized(stored.tensors, activation, source)
    if name == "open_clip" and stored.layout is None:
        activation = activation or metadata.get("activation")
        heads = heads or tuple(metadata.get("heads", ())) or None
    kind = LAYOUTS[name]
    tensors = kind.weights(stored.tensors)
    parts = kind.parts(stored, tensors, LayoutHints(activation, heads), source)
    if metadata:
        parts = _agreed(parts, metadata, name, stored.settings is None, source)
    config, preprocess, tokenizer = parts
    # The model normalises uint8 images itself, by the numbers that its preprocessing has.
    config = dataclasses.replace(config, image_mean=preprocess.mean, image_std=preprocess.std)
    variables = import_tensors(tensors, kind.entries(config), tree.shapes(config), source)
    return Weights(config, variables, preprocess, tokenizer, name, source)


def _recognized(tensors: Tensors, activation: str | None, source: str) -> str:
    """The layout of a lone file, by its tensors."""
    if any(n.startswith(("params/img/", "params/txt/")) for n in tensors):
        return "big_vision"
    if any(n.startswith(("params/image_tower/", "params/text_tower/")) for n in tensors):
        return "clip_jax"
    if any(n.startswith(("vision_model.", "text_model.")) for n in tensors):
        return "hugging_face"
    if not any(re.match(r"visual\.|(text\.)?transformer\.resblocks\.", n) for n in tensors):
        some = ", ".join(list(tensors)[:5])
        raise LayoutError(f"{source}: not the tensors of a CLIP in a known layout: {some}, ...")
    if "input_resolution" in tensors:
        return "openai"
    if activation is not None:
        return "open_clip"
    raise LayoutError(
        f"{source}: OpenAI's and open_clip's tensors have the same names, but not the same "
        "activation; say layout='openai' (QuickGELU), layout='open_clip' (GELU), or "
        "activation='quick_gelu' for an open_clip model whose name ends in -quickgelu"
    )
