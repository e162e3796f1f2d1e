"""Files and folders of weights: which tensors they hold, and the settings that lie beside them."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

from clip_jax.interop import npz_file
from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.settings import JsonObject, json_file, short_repr
from clip_jax.interop.torch import weight_file
from clip_jax.runtime.atomic import whole_file
from clip_jax.runtime.digests import Json

# What a folder of each layout holds: the file of its settings; those of its tensors, of which the
# first counts that is there and has the layout's names; and how those names begin. An index names
# the parts of a divided file.
FOLDERS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "clip_jax": ("clip_jax.json", ("model.safetensors",), ("params/",)),
    "open_clip": (
        "open_clip_config.json",
        (
            "open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin",
            "open_clip_pytorch_model.safetensors", "pytorch_model.bin",
        ),
        ("visual.", "transformer.resblocks.", "text.transformer.resblocks."),
    ),
    "hugging_face": (
        "config.json",
        (
            "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
            "pytorch_model.bin.index.json",
        ),
        ("vision_model.", "text_model."),
    ),
}  # fmt: skip
PREPROCESSOR = "preprocessor_config.json"
_METADATA_KEY = "clip_jax"  # key in the metadata of a safetensors file
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz")


@dataclasses.dataclass(frozen=True)
class WeightFiles:
    """The tensors and the settings at a path.

    Attributes:
      tensors: all tensors, as stored.
      layout: of a folder, by its settings; None for a lone file.
      settings: contents of the settings file, or None.
      preprocessor: contents of preprocessor_config.json, or None.
      metadata: what we wrote into the tensors' file about them, or None.
      folder: where the files lie.
    """

    tensors: Mapping[str, np.ndarray]
    layout: str | None
    settings: Mapping[str, Json] | None
    preprocessor: Mapping[str, Json] | None
    metadata: Mapping[str, Json] | None
    folder: Path


def find(path: str | os.PathLike, layout: str | None = None) -> WeightFiles:
    """Reads the tensors at a path (a file or a folder), and the settings beside them.

    Args:
      path: a file or a folder.
      layout: of a folder that holds several; None for the first that is whole.

    Raises:
      FileNotFoundError: nothing is there, or a part is missing.
      LayoutError: no weights, another kind of file, or a damaged one; names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    layout, settings, file = _chosen(path, layout) if path.is_dir() else (None, None, path)
    values = None if settings is None else json_file(settings)
    preprocessor, tensors = folder / PREPROCESSOR, _load(file)
    return WeightFiles(
        tensors,
        layout,
        values,
        json_file(preprocessor) if path.is_dir() and preprocessor.is_file() else None,
        _metadata(file, tensors),
        folder,
    )


def _chosen(folder: Path, wanted: str | None) -> tuple[str, Path, Path]:
    """Layout, settings and tensors of a folder.

    Models on the hub often lie in one folder in two layouts, with file names that both use: the
    names of the tensors decide.
    """
    known = {k: v for k, v in FOLDERS.items() if wanted in (None, k)}
    there = {k: v for k, v in known.items() if (folder / v[0]).is_file()}
    if not there:
        raise LayoutError(
            f"{folder}: none of {', '.join(s for s, *_ in known.values())} is in this folder; "
            "give the folder of a model, or its weight file"
            if known
            else f"{folder} is a folder, and layout {wanted!r} is one file: give that"
        )
    choices = [
        (layout, folder / settings, folder / name)
        for layout, (settings, names, _) in there.items()
        for name in names
        if (folder / name).is_file()
    ]
    if not choices:
        lone = [f"{s} is there, but none of {', '.join(names)}" for s, names, _ in there.values()]
        raise LayoutError(f"{folder}: {'; '.join(lone)}")
    if len(choices) == 1:
        return choices[0]
    fits = (c for c in choices if any(n.startswith(FOLDERS[c[0]][2]) for n in _names(c[2])))
    # Of files that fit none, the first: the comparison with its model says what is wrong.
    return next(fits, choices[0])


def _names(path: Path) -> Iterable[str]:
    """The names of a file's tensors, without their contents."""
    if path.name.endswith(".index.json"):
        return _places(path)
    if path.suffix != ".safetensors":
        return weight_file.names(path)
    with _whole(path), safetensors.safe_open(path, "np") as file:
        return file.keys()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Names the file in what is raised about a damaged one."""
    try:
        yield
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        kind = "safetensors file" if path.suffix == ".safetensors" else ".npz file of plain arrays"
        raise LayoutError(f"{path} is not a whole {kind}: {error}") from None


def _load(path: Path) -> Mapping[str, np.ndarray]:
    if path.name.endswith(".index.json"):
        return _load_parts(path)
    if path.suffix == ".safetensors":
        with _whole(path):
            return load_file(path)
    if path.suffix == ".npz":
        with _whole(path):
            return npz_file.read(path)
    if path.suffix in SUFFIXES:
        return weight_file.read(path)
    raise LayoutError(f"{path}: not one of {', '.join(SUFFIXES)}")


def _metadata(path: Path, tensors: Mapping[str, np.ndarray]) -> Mapping[str, Json] | None:
    if path.suffix != ".safetensors":
        return None
    with safetensors.safe_open(path, "np") as file:
        text = (file.metadata() or {}).get(_METADATA_KEY)
    if text is None:
        return None
    try:
        metadata = dict(json.loads(text))
        digest = metadata.pop("sha256")
    except (ValueError, TypeError, KeyError) as error:
        raise LayoutError(f"{path}: its metadata {_METADATA_KEY!r} is damaged: {error!r}") from None
    if digest != tensors_digest(tensors):
        raise LayoutError(
            f"{path} is damaged: its tensors are not those that were written (sha256 differs); "
            "copy or convert it again"
        )
    return metadata


def _places(index: Path) -> dict[str, str]:
    """Name of a tensor -> name of the part that holds it."""
    places = JsonObject(json_file(index), str(index)).child("weight_map").values
    if not places:
        raise LayoutError(f"{index}: weight_map is empty")
    for tensor, part in places.items():
        # Not an index again, which might name this one.
        if not isinstance(part, str) or not part.endswith((".safetensors", ".bin")):
            raise LayoutError(
                f"{index}: weight_map.{tensor[:200]} is {short_repr(part)}, not the name of a "
                ".safetensors or .bin file"
            )
        if Path(part).name != part:
            raise LayoutError(f"{index}: the part {part!r} is not in the same folder")
    return dict(places)


def _load_parts(index: Path) -> dict[str, np.ndarray]:
    """The tensors of a divided file, by its index."""
    places = _places(index)
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(set(places.values())):
        part = index.parent / name
        if not part.is_file():
            raise FileNotFoundError(f"{index} names {name}, which is not there")
        tensors |= _load(part)
    if missing := sorted(places.keys() - tensors.keys()):
        raise LayoutError(f"{index}: {len(missing)} tensors are in no part: {missing[:5]}")
    return tensors


def tensors_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 (hex) of names, types, shapes and contents."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def save_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Json]
) -> None:
    """Writes a safetensors file, whole or not at all, with ``WeightFiles.metadata``."""
    contiguous = {k: np.ascontiguousarray(v).reshape(v.shape) for k, v in tensors.items()}
    # transformers refuses files that do not say that their arrangement is PyTorch's.
    metadata = {**metadata, "sha256": tensors_digest(contiguous)}
    header = {"format": "pt", _METADATA_KEY: json.dumps(metadata, sort_keys=True)}
    with whole_file(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode  # save_file lets only the owner read
        save_file(contiguous, partial, metadata=header)
        partial.chmod(mode)
