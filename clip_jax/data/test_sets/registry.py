"""Test sets: pictures with classes, or with captions, read when asked for.

``open_set`` opens one by a short name of where it lies: ``tfds:NAME``, ``wds:PATH`` (a folder as
CLIP_benchmark writes them), ``folder:PATH`` (a folder a class), ``csv:PATH`` (CSV, TSV or JSONL),
``selection:PATH``, ``emoji:held_out`` and ``digits``. An error of one kind tells what is missing.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.data.image_file import BadImage
from clip_jax.data.pairs import registry
from clip_jax.data.pairs.registry import DataError
from clip_jax.data.preprocess import Picture, Preprocess
from clip_jax.data.test_sets import groups as groups_room

Names = Sequence[str | Sequence[str]]


class MissingData(DataError):
    """A data set that is not here; the message says what is missing and how to get it."""


@dataclasses.dataclass(frozen=True, eq=False)
class PictureSet:
    """What sets of pictures have in common."""

    name: str
    split: str
    pictures: Sequence[Picture]

    def __len__(self) -> int:
        return len(self.pictures)

    def describe(self, index: int) -> str:
        """Where picture ``index`` lies, for messages."""
        describe = getattr(self.pictures, "describe", None)
        return describe(index) if describe else f"{self.name} {self.split}: picture {index}"

    def load(self, index: int, preprocess: Preprocess) -> np.ndarray:
        """Reads picture ``index`` and prepares it: uint8[n, n, 3]. Any thread may.

        Raises:
          BadImage: it cannot be read; the message says where it lies.
        """
        try:
            return preprocess(self.pictures[index])
        except Exception as error:  # whatever the data did
            place, said = self.describe(index), str(error)
            why = said if isinstance(error, BadImage) else f"{type(error).__name__}: {said}"
            raise BadImage(why if place in why else f"{place}: {why}") from error


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledSet(PictureSet):
    """The pictures of one split, with their classes.

    Attributes:
      name: as in the catalog, or the user's own.
      split: "train", "val" or "test".
      pictures: ``pictures[i]`` is what ``Preprocess`` takes; it is read then, not before.
      labels: int32[n], 0 to K - 1; or bool[n, K], where a picture may have several classes.
      class_names: K classes, each one name or several; () where the data has no names.
      templates: the data's own prompts, with ``{}`` for the name, if it has any.
      descriptions: whole texts of each class, to be used instead of its name in the templates.
      fingerprint: sha256 over what identifies the data: names, sizes and labels of the pictures.
      groups: attribute ("age") -> the group of each picture, where the data names any.

    Raises:
      DataError: the labels or the groups do not fit the pictures or the names.
    """

    labels: np.ndarray
    class_names: Names = ()
    templates: Sequence[str] = ()
    descriptions: Sequence[Sequence[str]] = ()
    fingerprint: str = dataclasses.field(kw_only=True)
    groups: groups_room.Groups = dataclasses.field(default_factory=dict, kw_only=True)

    def __post_init__(self):
        labels, n = np.asarray(self.labels), len(self.pictures)
        several = labels.dtype == bool and labels.ndim == 2
        if len(labels) != n or not (several or (labels.ndim == 1 and labels.dtype.kind in "iu")):
            raise DataError(
                f"{self.name} {self.split}: labels are {labels.dtype}{list(labels.shape)}, not "
                f"int32[{n}], one a picture, or bool[{n}, K]"
            )
        if not several:
            labels = labels.astype(np.int32)
        object.__setattr__(self, "labels", labels)
        found = _classes_in(labels)
        for field in ("class_names", "descriptions"):
            given = len(getattr(self, field))
            if given and (given < found or (several and given != found)):
                raise DataError(
                    f"{self.name} {self.split}: labels are of {found} classes, but {field} has "
                    f"{given}"
                )
        if not several and n and labels.min() < 0:
            raise DataError(f"{self.name} {self.split}: label {labels.min()} is negative")
        groups = groups_room.checked(self.groups, n, f"{self.name} {self.split}")
        object.__setattr__(self, "groups", groups)

    @property
    def classes(self) -> int:
        """K; without class names, the highest label that occurs and one."""
        return len(self.class_names) or _classes_in(self.labels)

    @property
    def multilabel(self) -> bool:
        """Whether a picture may have several classes."""
        return self.labels.ndim == 2

    def take(self, rows: Sequence[int] | np.ndarray) -> "LabelledSet":
        """Some of the pictures, in the order of ``rows``."""
        rows = np.asarray(rows, np.int64)
        return dataclasses.replace(
            self,
            pictures=_Chosen(self.pictures, rows, self.describe),
            labels=self.labels[rows],
            groups=groups_room.taken(self.groups, rows.tolist()),
            fingerprint=digest(self.fingerprint, rows),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class CaptionedSet(PictureSet):
    """The pictures of one split, with any number of captions each.

    Attributes:
      name, split, pictures: as in ``LabelledSet``.
      captions: m texts.
      image_of_text: int32[m], the picture of each caption.
      fingerprint: sha256 over what identifies the data: names and sizes of the pictures, captions.

    Raises:
      DataError: the captions do not fit the pictures.
    """

    captions: Sequence[str]
    image_of_text: np.ndarray
    fingerprint: str

    def __post_init__(self):
        owner, n = np.asarray(self.image_of_text), len(self.pictures)
        if owner.shape != (len(self.captions),) or owner.dtype.kind not in "iu":
            raise DataError(
                f"{self.name} {self.split}: image_of_text is {owner.dtype}{list(owner.shape)}, not "
                f"int32[{len(self.captions)}], one a caption"
            )
        if len(owner) and not 0 <= owner.min() <= owner.max() < n:
            raise DataError(
                f"{self.name} {self.split}: image_of_text goes from {owner.min()} to "
                f"{owner.max()}, but there are {n} pictures"
            )
        object.__setattr__(self, "image_of_text", owner.astype(np.int32))


class _Chosen(Sequence):
    """Some pictures of another sequence."""

    def __init__(self, pictures: Sequence[Picture], rows: np.ndarray, name: Callable[[int], str]):
        self.pictures, self.rows, self.name = pictures, rows, name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Picture:
        return self.pictures[int(self.rows[index])]

    def describe(self, index: int) -> str:
        return self.name(int(self.rows[index]))


def _classes_in(labels: np.ndarray) -> int:
    if labels.ndim == 2:
        return labels.shape[1]
    return int(labels.max(initial=-1)) + 1


def digest(*parts: Any) -> str:
    """sha256 (hex) over JSON-like values, numpy arrays and bytes, each told from its neighbours."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            head = [part.dtype.str, part.shape]
            body = np.ascontiguousarray(part).tobytes()
        elif isinstance(part, bytes):
            head, body = ["bytes", len(part)], part
        else:
            text = json.dumps(part, sort_keys=True, default=str)
            body = text.encode("utf-8", "surrogatepass")
            head = ["json", len(body)]
        whole.update(json.dumps(head).encode() + b"\n" + body)
    return whole.hexdigest()


def from_arrays(
    name: str,
    split: str,
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    class_names: Names = (),
    templates: Sequence[str] = (),
) -> LabelledSet:
    """A set of pictures in memory.

    Args:
      name, split: what to call it.
      images: uint8[n, H, W, 3] (or [n, H, W], [n, H, W, 4]), or n arrays of any sizes.
      labels: int[n], or bool[n, K].
      class_names: K classes, each one name or several.
      templates: prompts with ``{}`` for the name.

    Raises:
      DataError: labels do not fit the pictures or the names.
    """
    labels, names = np.asarray(labels), _plain(class_names)
    return LabelledSet(
        name, split, images, labels, names, tuple(templates),
        fingerprint=digest("arrays", names, labels, *map(np.asarray, images)),
    )  # fmt: skip


def _plain(class_names: Names) -> tuple[str | tuple[str, ...], ...]:
    return tuple(c if isinstance(c, str) else tuple(c) for c in class_names)


@dataclasses.dataclass(frozen=True)
class Options:
    """What else decides how a set is read.

    Attributes:
      data_dir: where prepared TFDS data sets lie; empty: TFDS's own default.
      cache_dir: where indices are kept; empty: $CLIP_JAX_CACHE or ~/.cache/clip_jax.
      image_key, label_key, caption_key: column of a table, feature of a TFDS data set ("a/b" is
        feature b of the sequence a).
      group_keys: columns of a table with groups of the pictures, such as ("age", "gender").
      image_root: folder of the pictures that a ``selection`` names, if not beside the file.
      class_names: K classes in the order of the labels, or the path of a file with them
        (``prompt_files.read_class_names``); empty: the data's own.
      emoji_preset: a name in ``emoji.PRESETS``.
    """

    data_dir: str | os.PathLike = ""
    cache_dir: str | os.PathLike = ""
    image_key: str = "image"
    label_key: str = "label"
    caption_key: str = "caption"
    group_keys: tuple[str, ...] = ()
    image_root: str | os.PathLike = ""
    class_names: Names | str | os.PathLike = ()
    emoji_preset: str = "all"

    def cache(self) -> Path:
        """The folder that ``cache_dir`` means."""
        return registry.cache_dir(str(self.cache_dir))

    def names(self) -> tuple[str | tuple[str, ...], ...]:
        """The class names, read from their file if they are in one; () for the data's own."""
        if isinstance(self.class_names, str | os.PathLike) and self.class_names:
            from clip_jax.data.test_sets import prompt_files

            return prompt_files.read_class_names(self.class_names)
        return _plain(self.class_names)


Opened = PictureSet  # LabelledSet, CaptionedSet or selection.SelectionSet


def _tfds(name: str, split: str, options: Options) -> Opened:
    from clip_jax.data.test_sets import tfds  # TFDS takes half a second to import

    return tfds.open_tfds(name, split, options)


def _webdataset(path: str, split: str, options: Options) -> Opened:
    from clip_jax.data.test_sets import webdataset  # these build on this file

    return webdataset.open_webdataset(path, split, options)


def _folder(path: str, split: str, options: Options) -> Opened:
    from clip_jax.data.test_sets import files

    return files.open_folder(path, split, options)


def _table(path: str, split: str, options: Options) -> Opened:
    from clip_jax.data.test_sets import files

    return files.open_table(path, split, options)


def _selection(path: str, split: str, options: Options) -> Opened:
    from clip_jax.data.test_sets import selection

    return selection.open_selection(path, split, options)


def _emoji(name: str, split: str, options: Options) -> Opened:
    from clip_jax.data.test_sets import packages

    return packages.open_emoji(name, split, options)


def _digits(name: str, split: str, options: Options) -> Opened:
    from clip_jax.data.test_sets import packages

    return packages.open_digits(name, split, options)


READERS: dict[str, Callable[[str, str, Options], Opened]] = {
    "tfds": _tfds,
    "wds": _webdataset,
    "folder": _folder,
    "csv": _table,
    "selection": _selection,
    "emoji": _emoji,
    "digits": _digits,
}


def open_set(spec: str, split: str = "test", options: Options | None = None) -> Opened:
    """Opens one split of a data set. No picture is read yet.

    Args:
      spec: ``tfds:NAME``, ``wds:PATH``, ``folder:PATH``, ``csv:PATH``, ``selection:PATH``,
        ``emoji:NAME`` or ``digits``; a name in ``READERS`` and what it reads.
      split: "train", "val" or "test", or as the data calls it.
      options: see ``Options``.

    Raises:
      MissingData: the data set, or this split of it, is not here.
      DataError: no such kind of data set, or the data is not in order.
    """
    kind, _, rest = spec.partition(":")
    if kind not in READERS:
        raise DataError(
            f"data set {spec!r}: {kind!r} is not one of {sorted(READERS)}; write what it is in "
            "front of its name or path, such as folder:PATH"
        )
    return READERS[kind](rest, split, options or Options())
