"""Test sets in folders: one for each class."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clip_jax.data.digests import digest
from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.test_sets import prompt_files
from clip_jax.data.test_sets.files import ENDINGS, SPLITS, content, spellings
from clip_jax.data.test_sets.prompt_files import ClassNames
from clip_jax.data.test_sets.types import ClassificationDataset, Options


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of splits in ``root``. (A class may be called "train": its has no folders.)"""
    known = {name for names in SPLITS.values() for name in names}
    folders = (p for p in sorted(root.iterdir()) if p.name in known and p.is_dir())
    return {p.name: p for p in folders if any(_class_folders(p))}


def open_folder(path: str, split: str, options: Options) -> ClassificationDataset:
    """Opens ``<path>/<split>/<class>/**/image``, or ``<path>/<class>/...`` without splits.

    Classes are the folders' names in the order of their characters (or of the numbers, where all
    names are numbers), over all splits, so that their numbers are the same in each (torchvision's
    ImageFolder counts within one). A class without images keeps its number. Class names are the
    folders' unless ``options.class_names``, ``classnames.txt`` or ``classnames.json`` in ``path``
    (a list in that order, or an object {folder: name or names}) says otherwise.

    Raises:
      MissingData: the folder or the split is not there.
      DataError: there are no classes or images, or the names do not fit.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise MissingData(f"{root}: no such folder; it should have a folder for each class")
    splits = _split_folders(root)
    homes = [splits[s] for s in spellings(split) if s in splits]
    if splits and not homes:
        raise MissingData(f"{root}: no split {split!r}; it has {sorted(splits)}")
    home = homes[0] if homes else root
    folders = {p.name for s in (home, *splits.values()) for p in _class_folders(s)}
    # Folders that are numbers are the classes' numbers (ImageNet-V2 has 0 to 999).
    classes = sorted(folders, key=int if all(map(str.isdecimal, folders)) else str)
    files = [(k, f) for k, name in enumerate(classes) for f in _images_in(home / name)]
    if not files:
        raise DataError(f"{home}: no images; it should have a folder for each class")
    if not splits and len(classes) > 1 and len({k for k, _ in files}) == 1:
        raise DataError(
            f"{home}: of its folders {classes[0]} to {classes[-1]} only {classes[files[0][0]]} has "
            "images; give a folder that has one for each class"
        )
    names = _folder_names(root, classes, options)
    labels = np.array([k for k, _ in files], np.int32)
    identity = [[str(f.relative_to(home)), *content(f)] for _, f in files]
    return ClassificationDataset(
        root.name, split, [f for _, f in files], labels, names, _templates(root),
        fingerprint=digest("folder", identity, classes, names),
    )  # fmt: skip


def _class_folders(folder: Path) -> Iterator[Path]:
    return (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    return sorted(p for p in files if not p.name.startswith("."))


def _folder_names(root: Path, classes: list[str], options: Options) -> ClassNames:
    names, location = options.names(), "class_names"
    for file in (root / "classnames.txt", root / "classnames.json"):
        if not names and file.is_file():
            names, location = _names_file(file, classes), str(file)
    if names and len(names) != len(classes):
        raise DataError(
            f"{location}: {len(names)} class names, but {root} has {len(classes)} class folders, "
            f"{classes[0]} to {classes[-1]}"
        )
    # A list in another order than the folders' would exchange classes.
    if names and set(names) == set(classes):
        return tuple(classes)
    for i, entry in enumerate(names):
        if entry in classes and classes.index(entry) != i:
            raise DataError(
                f"{location}: name {i} is {entry!r}, which is the folder of class "
                f"{classes.index(entry)}; names must be in the order {classes[:3]}..."
            )
    return names or tuple(classes)


def _names_file(file: Path, classes: list[str]) -> ClassNames:
    if file.suffix == ".json":
        return prompt_files.read_names_of(file, classes)
    return prompt_files.read_class_names(file)


def _templates(root: Path) -> tuple[str, ...]:
    file = root / "zeroshot_classification_templates.txt"
    return prompt_files.read_templates(file) if file.is_file() else ()
