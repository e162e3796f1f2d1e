"""Instances of look-alikes: a few images and captions each, to be told apart.

``selection:PATH`` reads the files that Winoground and SugarCrepe are published as, and a general
form of them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from clip_jax.data.digests import digest
from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.table_rows import read_rows
from clip_jax.data.test_sets.files import ENDINGS
from clip_jax.data.test_sets.types import CompositionalityDataset, Options
from clip_jax.runtime.digests import Json

# The keys of images and of captions, in the same order; the general form has lists.
_LISTS = (("images",), ("captions",))
_FORMS = {
    "general": _LISTS,
    "Winoground": (("image_0", "image_1"), ("caption_0", "caption_1")),
    "SugarCrepe": (("filename",), ("caption", "negative_caption")),
}
_FOLDERS = ("", "images", "val2017")  # beside the file: Winoground's, and COCO's


def open_selection(path: str, split: str, options: Options) -> CompositionalityDataset:
    """Opens a file of instances: a .jsonl file of rows, or a .json object {id: row} or list.

    A row is Winoground's (``image_0``, ``image_1``, ``caption_0``, ``caption_1``), SugarCrepe's
    (``filename``, ``caption``, ``negative_caption``), or has lists ``images`` and ``captions``.
    Images are looked for in ``options.image_root`` and, beside the file, in its own folder,
    ``images`` (Winoground's) and ``val2017`` (COCO's, whose SugarCrepe's are); a name without
    ending is a .png.

    Raises:
      MissingData: the file or an image is not there.
      DataError: a row is not in order; the message names file and row.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise MissingData(f"{file}: no such file; it should be .jsonl or .json, one instance a row")
    data = file.read_bytes()
    roots = [Path(options.image_root).expanduser()] if options.image_root else []
    roots += [file.parent / folder for folder in _FOLDERS]
    images: list[Path] = []
    captions: list[str] = []
    image_of: list[int] = []
    text_of: list[int] = []
    for number, (location, row) in enumerate(_rows(file, data)):
        names, texts = _instance(location, row)
        images += [_image(location, name, roots) for name in names]
        captions += texts
        image_of += [number] * len(names)
        text_of += [number] * len(texts)
    if not captions:
        raise DataError(f"{file}: there are no instances in it")
    identity = [hashlib.sha256(data).hexdigest(), [p.stat().st_size for p in images]]
    return CompositionalityDataset(
        file.stem, split, images, captions, np.array(image_of, np.int32),
        np.array(text_of, np.int32), digest("selection", *identity),
    )  # fmt: skip


def _rows(file: Path, data: bytes) -> Iterator[tuple[str, Json]]:
    """The rows, each with where it lies."""
    ending = file.suffix.lower()
    if ending == ".jsonl":
        yield from read_rows(file, data)
        return
    if ending != ".json":
        raise DataError(f"{file}: instances are in .jsonl or .json files")
    try:
        whole = json.loads(data.decode("utf-8-sig"))
    except ValueError as error:  # UnicodeDecodeError is one
        raise DataError(f"{file}: not JSON: {error}") from None
    if not isinstance(whole, dict | list):
        raise DataError(f"{file}: it holds neither an object of rows nor a list of them")
    entries = whole.items() if isinstance(whole, dict) else enumerate(whole)
    yield from ((f"{file}, entry {key!r}", row) for key, row in entries)


def _instance(location: str, row: Json) -> tuple[list[str], list[str]]:
    """The names of a row's images, and its captions."""
    if not isinstance(row, dict):
        raise DataError(f"{location}: the row is a {type(row).__name__}, not an object")
    form = next((f for f in _FORMS.values() if all(k in row for side in f for k in side)), None)
    if form is None:
        known = "; or ".join(f"{', '.join((*i, *c))} ({name})" for name, (i, c) in _FORMS.items())
        raise DataError(f"{location}: the row has {sorted(row)}, but should have {known}")
    images, captions = (_texts(location, row, keys) for keys in form)
    if len(images) == len(captions) == 1:
        raise DataError(f"{location}: one image and one caption, nothing to choose from")
    return images, [c.strip() for c in captions]


def _texts(location: str, row: Mapping[str, Json], keys: Sequence[str]) -> list[str]:
    values = [row[key] for key in keys]
    if keys in _LISTS:
        (values,) = values
        if not isinstance(values, list) or not values:
            raise DataError(f"{location}: {keys[0]!r} is {values!r}, not a list of texts")
        keys = keys * len(values)
    for key, value in zip(keys, values, strict=True):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{location}: {key!r} has {value!r}, not a text")
    return values


def _image(location: str, name: str, roots: Sequence[Path]) -> Path:
    if Path(name).suffix.lower() not in ENDINGS:
        name += ".png"
    path = next((root / name for root in roots if (root / name).is_file()), None)
    if path is None:
        raise MissingData(
            f"{location}: no image {name} in {', '.join(map(str, roots))}; say where the images "
            "lie with image_root (--image-root)"
        )
    return path
