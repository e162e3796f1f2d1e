"""Test sets in folders of tar files, as CLIP_benchmark writes and reads them.

``<root>/<split>/nshards.txt`` has the number n of shards, ``0.tar`` to ``n-1.tar``. Every sample is
an image (webp, png or jpg) and a label: ``.cls`` (a number), ``.npy`` (a 0 or 1 for each class,
where ``dataset_type.txt`` says ``multilabel``) or ``.txt`` (captions, one a line, ``retrieval``).
In the root lie ``classnames.txt`` and ``zeroshot_classification_templates.txt``.
"""

import io
from pathlib import Path

import numpy as np

from clip_jax.data.digests import digest
from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.tar_index import TarIndex, TarShards, load_index
from clip_jax.data.tar_scan import Lack, ShardError
from clip_jax.data.test_sets import prompt_files
from clip_jax.data.test_sets.prompt_files import ClassNames
from clip_jax.data.test_sets.types import ClassificationDataset, Options, RetrievalDataset

IMAGES = "webp;png;jpg;jpeg"
LABELS = {"classification": "cls", "multilabel": "npy", "retrieval": "txt"}


def open_webdataset(
    path: str, split: str, options: Options
) -> ClassificationDataset | RetrievalDataset:
    """Opens a folder of CLIP_benchmark's. Its shards are indexed when they are seen first.

    Raises:
      MissingData: the folder, the split or a shard is not there.
      DataError: a shard is damaged, a sample incomplete, a label no class; the message names it.
    """
    root = Path(path).expanduser()
    shard_paths = _shards(root, split)
    kind = _kind(root)
    shards = [_index(path, LABELS[kind], options) for path in shard_paths]
    images = TarShards(shards)
    name = root.name.removeprefix("wds_").removesuffix("_test")
    sizes = [[s.path.name, s.path.stat().st_size, len(s)] for s in shards]
    identity = ["webdataset", kind, sizes, *(s.spans for s in shards)]
    if kind == "retrieval":
        captions, owners = _captions(images)
        fingerprint = digest(*identity, captions, owners)
        return RetrievalDataset(name, split, images, captions, owners, fingerprint)
    names, templates = _prompts(root, options)
    labels = (_classes if kind == "classification" else _several)(images, len(names))
    return ClassificationDataset(
        name, split, images, labels, names, templates, fingerprint=digest(*identity, names, labels)
    )


def _shards(root: Path, split: str) -> list[Path]:
    folder, count = root / split, root / split / "nshards.txt"
    if not root.is_dir():
        raise MissingData(
            f"{root}: no such folder; it should have {split}/nshards.txt and {split}/0.tar, as "
            "CLIP_benchmark's webdatasets have"
        )
    if not count.is_file():
        splits = sorted(p.parent.name for p in root.glob("*/nshards.txt"))
        tar_files = len(list(folder.glob("*.tar"))) if folder.is_dir() else 0
        hint = f"there are {tar_files} .tar files: write their number into it" if tar_files else (
            f"the folder has the splits {splits}" if splits else "is it a webdataset at all?"
        )  # fmt: skip
        raise MissingData(f"{count} is missing; {hint}")
    text = count.read_text(encoding="utf-8", errors="replace").strip()
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise DataError(f"{count}: {text[:40]!r} is not a number of shards, 1 or more")
    paths = [folder / f"{i}.tar" for i in range(int(text))]
    missing = [p for p in paths if not p.is_file()]
    if missing:
        raise MissingData(
            f"{missing[0]} is missing, and so are {len(missing) - 1} more of the {text} shards "
            f"that {count.name} counts; download the folder again"
        )
    return paths


def _kind(root: Path) -> str:
    file = root / "dataset_type.txt"
    if not file.is_file():
        return "classification"
    kind = file.read_text(encoding="utf-8", errors="replace").strip().lower()
    if kind not in LABELS:
        raise DataError(f"{file}: {kind[:40]!r} is not one of {sorted(LABELS)}")
    return kind


def _index(path: Path, label: str, options: Options) -> TarIndex:
    try:
        index = load_index(path, IMAGES, label, options.cache())
    except ShardError as error:
        raise DataError(f"{error}; download the shard again") from error
    if not len(index) and not index.lacks.tolist().count(Lack.TWICE):
        raise DataError(
            f"{path}: no sample has an image (.{IMAGES.replace(';', ', .')}) and a .{label} "
            "file; dataset_type.txt decides what the labels are: retrieval .txt, multilabel .npy, "
            "else .cls"
        )
    # What is no part of any sample, such as a list of files, does no harm.
    words = {
        Lack.HALF: f"an image without a .{label} file or the other way round",
        Lack.TWICE: f"two images or two .{label} files",
    }
    for (lack, _), names in index.left_out().items():
        if lack in words:
            raise DataError(
                f"{path}: {len(names)} samples have {words[lack]}, the first is {names[0]}"
            )
    return index


def _prompts(root: Path, options: Options) -> tuple[ClassNames, tuple[str, ...]]:
    """Class names and templates in the root's files; () where there is no file."""
    names, templates = options.names(), ()
    file = root / "classnames.txt"
    if not names and file.is_file():
        # CLEVR's distances have a class without a name.
        names = prompt_files.read_class_names(file, gaps=True)
    file = root / "zeroshot_classification_templates.txt"
    if file.is_file():
        templates = prompt_files.read_templates(file)
    return names, templates


def _classes(images: TarShards, classes: int) -> np.ndarray:
    labels = np.empty(len(images), np.int32)
    for i, (location, data) in enumerate(images.texts()):
        text = data.decode("ascii", "replace").strip()
        if not text.isdigit() or len(text) > 9:
            raise DataError(f"{location}: .cls is {text[:40]!r}, not a class number")
        labels[i] = int(text)
        if classes and labels[i] >= classes:
            raise DataError(f"{location}: class {text}, but there are {classes} class names")
    return labels


def _several(images: TarShards, classes: int) -> np.ndarray:
    rows = [_flags(location, data) for location, data in images.texts()]
    classes = classes or len(rows[0])
    for row, (location, _) in zip(rows, images.texts(), strict=True):
        if len(row) != classes:
            raise DataError(
                f"{location}: .npy has {len(row)} numbers, but there are {classes} classes"
            )
    return np.stack(rows)


def _flags(location: str, data: bytes) -> np.ndarray:
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{location}: .npy cannot be read: {error}") from None
    if values.ndim != 1 or not np.isin(values, (0, 1)).all():
        raise DataError(f"{location}: .npy is not a row of 0 and 1, one a class")
    return values.astype(bool)


def _captions(images: TarShards) -> tuple[list[str], np.ndarray]:
    captions: list[str] = []
    owners: list[int] = []
    for i, (location, data) in enumerate(images.texts()):
        try:
            lines = [line.strip() for line in data.decode("utf-8").split("\n")]
        except UnicodeDecodeError as error:
            raise DataError(f"{location}: .txt is not UTF-8: {error.reason}") from None
        kept = [line for line in lines if line]
        captions += kept
        owners += [i] * len(kept)
    if not captions:
        raise DataError(f"{images.indices[0].path.parent}: no image has a caption")
    return captions, np.array(owners, np.int32)
