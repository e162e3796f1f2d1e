"""Instances of look-alikes: a few pictures and captions each, to be told apart.

``selection:PATH`` reads the files that Winoground and SugarCrepe are published as, and a general
form of them.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.data.pairs.registry import DataError
from clip_jax.data.pairs.table import rows
from clip_jax.data.test_sets.files import ENDINGS, FilePictures
from clip_jax.data.test_sets.registry import MissingData, Options, PictureSet, digest

# The keys of pictures and of captions, in the same order; the general form has lists.
_LISTS = (("images",), ("captions",))
_FORMS = {
    "general": _LISTS,
    "Winoground": (("image_0", "image_1"), ("caption_0", "caption_1")),
    "SugarCrepe": (("filename",), ("caption", "negative_caption")),
}
_FOLDERS = ("", "images", "val2017")  # beside the file: Winoground's, and COCO's


@dataclasses.dataclass(frozen=True, eq=False)
class SelectionSet(PictureSet):
    """Pictures and captions in instances: the i-th picture of one belongs to its i-th caption.

    What is left over on the longer side only misleads: SugarCrepe's wrong captions.

    Attributes:
      name, split, pictures: as in ``LabelledSet``.
      captions: m texts.
      instance_of_image: int32[n], of every picture.
      instance_of_text: int32[m], of every caption.
      fingerprint: sha256 over what identifies the data: names and sizes of the pictures, captions.

    Raises:
      DataError: the instances do not fit the pictures and captions, or there is nothing to choose.
    """

    captions: Sequence[str]
    instance_of_image: np.ndarray
    instance_of_text: np.ndarray
    fingerprint: str

    def __post_init__(self):
        sides = {"instance_of_image": len(self.pictures), "instance_of_text": len(self.captions)}
        for field, size in sides.items():
            given = np.asarray(getattr(self, field))
            if given.shape != (size,) or given.dtype.kind not in "iu":
                raise DataError(
                    f"{self._place}: {field} is {given.dtype}{list(given.shape)}, not int32[{size}]"
                )
            object.__setattr__(self, field, given.astype(np.int32))
        if not len(self.pictures) and not len(self.captions):
            raise DataError(f"{self._place}: there are no instances")
        images, texts = map(set, (self.instance_of_image.tolist(), self.instance_of_text.tolist()))
        for instance in sorted(images ^ texts):
            side = "caption" if instance in images else "picture"
            raise DataError(f"{self._place}: instance {instance} has no {side}")
        alone = (self.pictures_each == 1) & (self.captions_each == 1)
        if alone.any():
            first = self.instances[np.argmax(alone)]
            raise DataError(
                f"{self._place}: instance {first} has one picture and one caption, nothing to "
                "choose from"
            )

    @property
    def _place(self) -> str:
        return f"{self.name} {self.split}"

    @property
    def instances(self) -> np.ndarray:
        """The instances in rising order: int32[k]."""
        return np.unique(self.instance_of_image)

    @property
    def pictures_each(self) -> np.ndarray:
        """How many pictures each instance has: int[k]."""
        return np.unique(self.instance_of_image, return_counts=True)[1]

    @property
    def captions_each(self) -> np.ndarray:
        """How many captions each instance has: int[k]."""
        return np.unique(self.instance_of_text, return_counts=True)[1]


def open_selection(path: str, split: str, options: Options) -> SelectionSet:
    """Opens a file of instances, one a row of a .jsonl file or an entry of a .json file.

    A row is Winoground's (``image_0``, ``image_1``, ``caption_0``, ``caption_1``), SugarCrepe's
    (``filename``, ``caption``, ``negative_caption``), or has lists ``images`` and ``captions``.
    Other keys are left alone. A .json file is an object {id: row}, as SugarCrepe's, or a list of
    rows. Pictures are looked for in ``options.image_root`` and, beside the file, in its own folder,
    ``images`` (Winoground's) and ``val2017`` (COCO's, whose SugarCrepe's are); a name without
    ending is a .png.

    Raises:
      MissingData: the file or a picture is not there.
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
    for number, (place, row) in enumerate(_rows(file, data)):
        names, texts = _instance(place, row)
        images += [_picture(place, name, roots) for name in names]
        captions += texts
        image_of += [number] * len(names)
        text_of += [number] * len(texts)
    if not captions:
        raise DataError(f"{file}: there are no instances in it")
    facts = [hashlib.sha256(data).hexdigest(), [p.stat().st_size for p in images]]
    return SelectionSet(
        file.stem, split, FilePictures(images), captions, np.array(image_of, np.int32),
        np.array(text_of, np.int32), digest("selection", *facts),
    )  # fmt: skip


def _rows(file: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    """The rows, each with where it lies."""
    ending = file.suffix.lower()
    if ending == ".jsonl":
        yield from ((f"{file}:{line}", row) for line, row in rows(file.with_suffix(ending), data))
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


def _instance(place: str, row: Any) -> tuple[list[str], list[str]]:
    """The names of a row's pictures, and its captions."""
    if not isinstance(row, dict):
        raise DataError(f"{place}: the row is a {type(row).__name__}, not an object")
    form = next((f for f in _FORMS.values() if all(k in row for side in f for k in side)), None)
    if form is None:
        known = "; or ".join(f"{', '.join((*i, *c))} ({name})" for name, (i, c) in _FORMS.items())
        raise DataError(f"{place}: the row has {sorted(row)}, but should have {known}")
    images, captions = (_texts(place, row, keys) for keys in form)
    if len(images) == len(captions) == 1:
        raise DataError(f"{place}: one picture and one caption, nothing to choose from")
    return images, [c.strip() for c in captions]


def _texts(place: str, row: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    values = [row[key] for key in keys]
    if keys in _LISTS:
        (values,) = values
        if not isinstance(values, list) or not values:
            raise DataError(f"{place}: {keys[0]!r} is {values!r}, not a list of texts")
        keys = keys * len(values)
    for key, value in zip(keys, values, strict=True):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{place}: {key!r} has {value!r}, not a text")
    return values


def _picture(place: str, name: str, roots: Sequence[Path]) -> Path:
    if Path(name).suffix.lower() not in ENDINGS:
        name += ".png"
    found = next((root / name for root in roots if (root / name).is_file()), None)
    if found is None:
        raise MissingData(
            f"{place}: no picture {name} in {', '.join(map(str, roots))}; say where the pictures "
            "lie with image_root (--image-root)"
        )
    return found
