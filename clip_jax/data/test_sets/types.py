"""What a test set is: images with classes, with captions, or in instances to choose from."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from clip_jax.data import paths
from clip_jax.data.digests import digest
from clip_jax.data.errors import DataError
from clip_jax.data.image_file import BadImage
from clip_jax.data.preprocess import ImageInput, Preprocess
from clip_jax.data.test_sets import groups as grouping
from clip_jax.data.test_sets import prompt_files
from clip_jax.data.test_sets.prompt_files import ClassNames

Names = Sequence[str | Sequence[str]]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
    """What sets of images have in common.

    Attributes:
      name: as in the catalog, or the user's own.
      split: "train", "val" or "test".
      images: ``images[i]`` is what ``Preprocess`` takes; it is read then, not before.
    """

    name: str
    split: str
    images: Sequence[ImageInput]

    def __len__(self) -> int:
        return len(self.images)

    def describe(self, index: int) -> str:
        """Where image ``index`` lies, for messages."""
        if describe := getattr(self.images, "describe", None):
            return describe(index)
        image = self.images[index]
        return str(image) if isinstance(image, Path) else f"{self._location}: image {index}"

    @property
    def _location(self) -> str:
        """The set, for messages."""
        return f"{self.name} {self.split}"

    def _check_integers(self, field: str, size: int, unit: str) -> None:
        """Makes a field an int32 array; refuses other types, and another number of entries."""
        given = np.asarray(getattr(self, field))
        if given.shape != (size,) or given.dtype.kind not in "iu":
            raise DataError(
                f"{self._location}: {field} is {given.dtype}{list(given.shape)}, not "
                f"int32[{size}], one per {unit}"
            )
        object.__setattr__(self, field, given.astype(np.int32))

    def load(self, index: int, preprocess: Preprocess) -> np.ndarray:
        """Reads image ``index`` and prepares it: uint8[n, n, 3]. Any thread may.

        Raises:
          BadImage: it cannot be read; the message says where it lies.
        """
        try:
            return preprocess(self.images[index])
        except Exception as error:  # whatever the data did
            location, message = self.describe(index), str(error)
            why = message if isinstance(error, BadImage) else f"{type(error).__name__}: {message}"
            raise BadImage(why if location in why else f"{location}: {why}") from error


@dataclasses.dataclass(frozen=True, eq=False)
class ClassificationDataset(ImageDataset):
    """The images of one split, with their classes.

    Attributes:
      labels: int32[n], 0 to K - 1; or bool[n, K], where an image may have several classes.
      class_names: K classes, each one name or several; () where the data has no names.
      templates: the data's own prompts, with ``{}`` for the name, if it has any.
      descriptions: whole texts of each class, to be used instead of its name in the templates.
      fingerprint: sha256 over what identifies the data: names, sizes and labels of the images.
      baselines: metric -> value of a simple method, for reports.
      groups: attribute ("age") -> the group of each image, where the data names any.

    Raises:
      DataError: the labels or the groups do not fit the images or the names.
    """

    labels: np.ndarray
    class_names: Names = ()
    templates: Sequence[str] = ()
    descriptions: Sequence[Sequence[str]] = ()
    fingerprint: str = dataclasses.field(kw_only=True)
    groups: grouping.Groups = dataclasses.field(default_factory=dict, kw_only=True)
    baselines: Mapping[str, float] = dataclasses.field(default_factory=dict, kw_only=True)

    def __post_init__(self):
        labels, n = np.asarray(self.labels), len(self.images)
        several = labels.dtype == bool and labels.ndim == 2
        if len(labels) != n or not (several or (labels.ndim == 1 and labels.dtype.kind in "iu")):
            raise DataError(
                f"{self._location}: labels are {labels.dtype}{list(labels.shape)}, not "
                f"int32[{n}], one per image, or bool[{n}, K]"
            )
        if not several:
            labels = labels.astype(np.int32)
        object.__setattr__(self, "labels", labels)
        occurring = _classes_in(labels)
        for field in ("class_names", "descriptions"):
            given = len(getattr(self, field))
            if given and (given < occurring or (several and given != occurring)):
                raise DataError(
                    f"{self._location}: labels are of {occurring} classes, but {field} has {given}"
                )
        if not several and n and labels.min() < 0:
            raise DataError(f"{self._location}: label {labels.min()} is negative")
        groups = grouping.checked(self.groups, n, self._location)
        object.__setattr__(self, "groups", groups)

    @property
    def classes(self) -> int:
        """K; without class names, the highest label that occurs and one."""
        return len(self.class_names) or _classes_in(self.labels)

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several classes."""
        return self.labels.ndim == 2

    def take(self, rows: Sequence[int] | np.ndarray) -> "ClassificationDataset":
        """Some of the images, in the order of ``rows``."""
        rows = np.asarray(rows, np.int64)
        return dataclasses.replace(
            self,
            images=_Chosen(self.images, rows, self.describe),
            labels=self.labels[rows],
            groups=grouping.taken(self.groups, rows.tolist()),
            fingerprint=digest(self.fingerprint, rows),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class RetrievalDataset(ImageDataset):
    """The images of one split, with any number of captions each.

    Attributes:
      captions: m texts.
      image_of_text: int32[m], the image of each caption.
      fingerprint: sha256 over what identifies the data: names and sizes of the images, captions.

    Raises:
      DataError: the captions do not fit the images.
    """

    captions: Sequence[str]
    image_of_text: np.ndarray
    fingerprint: str

    def __post_init__(self):
        self._check_integers("image_of_text", len(self.captions), "caption")
        owner, n = self.image_of_text, len(self.images)
        if len(owner) and not 0 <= owner.min() <= owner.max() < n:
            raise DataError(
                f"{self._location}: image_of_text goes from {owner.min()} to "
                f"{owner.max()}, but there are {n} images"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class CompositionalityDataset(ImageDataset):
    """Images and captions in instances: the i-th image of one belongs to its i-th caption.

    What is left over on the longer side only misleads: SugarCrepe's wrong captions.

    Attributes:
      captions: m texts.
      instance_of_image, instance_of_text: int32[n] and int32[m].
      fingerprint: sha256 over what identifies the data: names and sizes of the images, captions.

    Raises:
      DataError: the instances do not fit the images and captions, or there is nothing to choose.
    """

    captions: Sequence[str]
    instance_of_image: np.ndarray
    instance_of_text: np.ndarray
    fingerprint: str

    def __post_init__(self):
        self._check_integers("instance_of_image", len(self.images), "image")
        self._check_integers("instance_of_text", len(self.captions), "caption")
        if not len(self.images) and not len(self.captions):
            raise DataError(f"{self._location}: there are no instances")
        images, texts = map(set, (self.instance_of_image.tolist(), self.instance_of_text.tolist()))
        for instance in sorted(images ^ texts):
            side = "caption" if instance in images else "image"
            raise DataError(f"{self._location}: instance {instance} has no {side}")
        alone = (self.images_each == 1) & (self.captions_each == 1)
        if alone.any():
            first = self.instances[np.argmax(alone)]
            raise DataError(
                f"{self._location}: instance {first} has one image and one caption, nothing to "
                "choose from"
            )

    @property
    def instances(self) -> np.ndarray:
        """The instances in rising order: int32[k]."""
        return np.unique(self.instance_of_image)

    @property
    def images_each(self) -> np.ndarray:
        """How many images each instance has: int[k]."""
        return np.unique(self.instance_of_image, return_counts=True)[1]

    @property
    def captions_each(self) -> np.ndarray:
        """How many captions each instance has: int[k]."""
        return np.unique(self.instance_of_text, return_counts=True)[1]


class _Chosen(Sequence):
    """Some images of another sequence."""

    def __init__(self, images: Sequence[ImageInput], rows: np.ndarray, name: Callable[[int], str]):
        self.images, self.rows, self.name = images, rows, name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ImageInput:
        return self.images[int(self.rows[index])]

    def describe(self, index: int) -> str:
        return self.name(int(self.rows[index]))


def _classes_in(labels: np.ndarray) -> int:
    if labels.ndim == 2:
        return labels.shape[1]
    return int(labels.max(initial=-1)) + 1


def from_arrays(
    name: str,
    split: str,
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    class_names: Names = (),
    templates: Sequence[str] = (),
) -> ClassificationDataset:
    """A set of images in memory.

    Args:
      name, split: what to call it.
      images: uint8[n, H, W, 3] (or [n, H, W], [n, H, W, 4]), or n arrays of any sizes.
      labels, class_names, templates: as in ``ClassificationDataset``.

    Raises:
      DataError: labels do not fit the images or the names.
    """
    labels, names = np.asarray(labels), _plain(class_names)
    return ClassificationDataset(
        name, split, images, labels, names, tuple(templates),
        fingerprint=digest("arrays", names, labels, *map(np.asarray, images)),
    )  # fmt: skip


def _plain(class_names: Names) -> ClassNames:
    return tuple(c if isinstance(c, str) else tuple(c) for c in class_names)


@dataclasses.dataclass(frozen=True)
class Options:
    """What else decides how a set is read.

    Attributes:
      data_dir: where prepared TFDS datasets lie; empty: TFDS's own default.
      cache_dir: where indices are kept; empty: $CLIP_JAX_CACHE or ~/.cache/clip_jax.
      image_key, label_key, caption_key: column of a table, feature of a TFDS dataset ("a/b" is
        feature b of the sequence a).
      group_keys: columns of a table with groups of the images, such as ("age", "gender").
      image_root: folder of the images that a ``selection`` names, if not beside the file.
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
        return paths.cache_dir(str(self.cache_dir))

    def names(self) -> ClassNames:
        """The class names, read from their file if they are in one; () for the data's own."""
        if isinstance(self.class_names, str | os.PathLike) and self.class_names:
            return prompt_files.read_class_names(self.class_names)
        return _plain(self.class_names)
