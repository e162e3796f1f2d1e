"""Test sets of TensorFlow Datasets, read without TensorFlow from files prepared in ArrayRecord."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.data import tfds_split
from clip_jax.data.digests import digest
from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.paths import cached_arrays
from clip_jax.data.test_sets.types import ClassificationDataset, Options, RetrievalDataset
from clip_jax.runtime import distributed
from clip_jax.runtime.digests import Json

if TYPE_CHECKING:  # it takes half a second
    from tensorflow_datasets.core import DatasetBuilder
    from tensorflow_datasets.core.features import FeatureConnector

CHUNK = 256


class RecordImages(Sequence):
    """One feature of a TFDS split: encoded images. Threads may read at the same time."""

    def __init__(self, data: Sequence[tfds_split.Record], key: str, name: str):
        self.data, self.key, self.name = data, key, name

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> bytes:
        return self.data[range(len(self))[index]][self.key]

    def describe(self, index: int) -> str:
        return f"{self.name}: record {index}"


def open_tfds(name: str, split: str, options: Options) -> ClassificationDataset | RetrievalDataset:
    """Opens a split of a prepared TFDS dataset, by name or by the folder of a prepared version.

    Labels and captions are read through once and kept in the cache folder, since they lie in the
    same records as the images. Class names are those of the builder's label feature.

    Raises:
      MissingData: TFDS does not know it, or it is not prepared in a format that can be read here.
      DataError: it has no such features.
    """
    builder, data, split_there = _opened(name, split, options)
    features = dict(builder.info.features)
    image, label = options.image_key, options.label_key
    caption = options.caption_key.split("/")
    if image not in features or not (label in features or caption[0] in features):
        raise DataError(
            f"TFDS {name}: no features {image!r} and {label!r} or {caption[0]!r}; it has "
            f"{sorted(features)}. Set image_key, label_key or caption_key"
        )
    images = RecordImages(data, image, f"TFDS {builder.info.full_name} {split_there}")
    identity = tfds_split.identity(builder, split_there, data)
    title = builder.info.name
    if label not in features:
        kept = _kept(options, [*identity, caption], lambda: _read_captions(images, caption))
        captions, owners = kept["captions"].tobytes().decode().split("\n"), kept["owners"]
        fingerprint = digest(*identity, captions, owners)
        return RetrievalDataset(title, split, images, captions, owners, fingerprint)
    names = options.names() or _names(features[label])
    several, size = hasattr(features[label], "feature"), len(names)
    labels = _kept(
        options, [*identity, label, size],
        lambda: {"labels": _read_labels(images, label, several, size)},
    )["labels"]  # fmt: skip
    fingerprint = digest(*identity, label, names, labels)
    return ClassificationDataset(title, split, images, labels, names, fingerprint=fingerprint)


def _opened(
    name: str, split: str, options: Options
) -> tuple["DatasetBuilder", Sequence[tfds_split.Record], str]:
    """Builder, records, and the split as TFDS calls it."""
    home = str(options.data_dir)
    spellings = [split] + (["validation"] if split == "val" else [])
    error: Exception | None = None
    for spelling in spellings:
        try:
            return *tfds_split.open_split(name, spelling, options.image_key, home), spelling
        except DataError:
            raise
        except Exception as problem:  # it raises a dozen kinds
            error = error or problem
    why = (str(error).strip() or repr(error)).splitlines()[0][:300]
    raise MissingData(
        f"TFDS cannot open {name!r}, split {split!r}, in {home or 'its default folder'}: "
        f"{why}. Prepare it by `{tfds_split.preparation(name, home)}` (for which some builders "
        "need TensorFlow, unlike for reading), or give the folder of a prepared version as name"
    ) from error


def _names(feature: "FeatureConnector") -> tuple[str, ...]:
    inner = getattr(feature, "feature", feature)  # of a Sequence
    return tuple(getattr(inner, "names", None) or ())


def _records(images: RecordImages) -> Iterator[tuple[int, tfds_split.Record]]:
    """All records in order, few of them in memory at a time."""
    for start in range(0, len(images), CHUNK):
        distributed.heartbeat(f"{images.name}: reading labels from record {start}")
        numbers = range(start, min(start + CHUNK, len(images)))
        yield from zip(numbers, images.data.__getitems__(numbers), strict=True)


def _kept(
    options: Options, identity: list[Json], make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What ``make`` gives, from the cache folder where it was made before."""
    return cached_arrays(options.cache() / "labels" / f"{digest(*identity)[:32]}.npz", make)


def _read_labels(images: RecordImages, key: str, several: bool, classes: int) -> np.ndarray:
    values = []
    for i, record in _records(images):
        value = np.asarray(record[key])
        if not value.size:  # no label: numpy takes an empty list for floats
            value = value.astype(np.int64)
        # Where the labels of a test split are secret they are -1.
        wrong = value.dtype.kind not in "iu" or value.ndim != several or (value < 0).any()
        if wrong or (classes and (value >= classes).any()):
            raise DataError(
                f"{images.describe(i)}: {key!r} is {value.tolist()!r}, not of {classes} classes"
            )
        values.append(value)
    if not several:
        return np.array(values, np.int32)
    labels = np.zeros((len(values), classes or 1 + max(v.max(initial=-1) for v in values)), bool)
    for i, value in enumerate(values):
        labels[i, value] = True
    return labels


def _read_captions(images: RecordImages, path: list[str]) -> dict[str, np.ndarray]:
    """Captions as one text with line ends between, in UTF-8, and their images."""
    captions: list[str] = []
    owners: list[int] = []
    for i, record in _records(images):
        value = record
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                inside = sorted(value) if isinstance(value, Mapping) else type(value).__name__
                raise DataError(
                    f"{images.describe(i)}: no {'/'.join(path)!r} (there is {inside}); set "
                    "caption_key to the feature with the captions"
                )
            value = value[key]
        for text in value if isinstance(value, list | np.ndarray) else [value]:
            text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
            captions.append(" ".join(text.split()))
            owners.append(i)
    text = np.frombuffer("\n".join(captions).encode(), np.uint8)
    return {"captions": text, "owners": np.array(owners, np.int32)}
