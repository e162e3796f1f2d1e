"""Test sets in plain files: a folder for each class, or tables of pictures and labels."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.data.pairs.registry import DataError
from clip_jax.data.pairs.table import rows
from clip_jax.data.test_sets import groups, prompt_files
from clip_jax.data.test_sets.registry import CaptionedSet, LabelledSet, MissingData, Options, digest

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
UNCOMPRESSED = {".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
TABLES = {".csv", ".tsv", ".jsonl"}
# What others call the three splits.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}


def _spellings(split: str) -> tuple[str, ...]:
    """What a split may be called, the way it is called here first."""
    others = next((names for names in SPLITS.values() if split in names), ())
    return (split, *(name for name in others if name != split))


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of splits in ``root``. (A class may be called "train": its has no folders.)"""
    known = {name for names in SPLITS.values() for name in names}
    found = (p for p in sorted(root.iterdir()) if p.name in known and p.is_dir())
    return {p.name: p for p in found if any(_class_folders(p))}


def open_folder(path: str, split: str, options: Options) -> LabelledSet:
    """Opens ``<path>/<split>/<class>/**/picture``, or ``<path>/<class>/...`` without splits.

    Classes are the folders' names in the order of their characters (or, if all are numbers, of
    these), over all splits, so that their
    numbers are the same in each (torchvision's ImageFolder counts within one). Class names are the
    folders' unless ``options.class_names``, ``classnames.txt`` or ``classnames.json`` in ``path``
    (a list in that order, or an object {folder: name or names}) says otherwise. A class without
    pictures keeps its number.

    Raises:
      MissingData: the folder or the split is not there.
      DataError: there are no classes or pictures, or the names do not fit.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise MissingData(f"{root}: no such folder; it should have a folder for each class")
    splits = _split_folders(root)
    homes = [splits[s] for s in _spellings(split) if s in splits]
    if splits and not homes:
        raise MissingData(f"{root}: no split {split!r}; it has {sorted(splits)}")
    home = homes[0] if homes else root
    folders = {p.name for s in (home, *splits.values()) for p in _class_folders(s)}
    # Folders that are numbers are the classes' numbers (ImageNet-V2 has 0 to 999).
    classes = sorted(folders, key=int if all(map(str.isdecimal, folders)) else str)
    files = [(k, f) for k, name in enumerate(classes) for f in _pictures_in(home / name)]
    if not files:
        raise DataError(f"{home}: no pictures; it should have a folder for each class")
    if not splits and len(classes) > 1 and len({k for k, _ in files}) == 1:
        raise DataError(
            f"{home}: of its folders {classes[0]} to {classes[-1]} only {classes[files[0][0]]} has "
            "pictures; give a folder that has one for each class"
        )
    names = _folder_names(root, classes, options)
    labels = np.array([k for k, _ in files], np.int32)
    facts = [[str(f.relative_to(home)), *_content(f)] for _, f in files]
    return LabelledSet(
        root.name, split, FilePictures([f for _, f in files]), labels, names, _templates(root),
        fingerprint=digest("folder", facts, classes, names),
    )  # fmt: skip


def _class_folders(folder: Path) -> Iterator[Path]:
    return (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _pictures_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    return sorted(p for p in found if not p.name.startswith("."))


class FilePictures(Sequence):
    """Pictures in files of their own: ``pictures[i]`` is a path."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Path:
        return self.paths[index]

    def describe(self, index: int) -> str:
        return str(self.paths[index])


def _content(file: Path) -> list[Any]:
    """Tells versions of a picture apart without reading it whole: by the size, and where that is
    the same for all pictures of so many pixels, by some of them.
    """
    size = file.stat().st_size
    if file.suffix.lower() not in UNCOMPRESSED:
        return [size]
    with open(file, "rb") as opened:
        opened.seek(size // 2)
        return [size, hashlib.sha256(opened.read(4096)).hexdigest()]


def _folder_names(root: Path, classes: list[str], options: Options) -> tuple[Any, ...]:
    found, place = options.names(), "class_names"
    for file in (root / "classnames.txt", root / "classnames.json"):
        if not found and file.is_file():
            found, place = _names_file(file, classes), str(file)
    if found and len(found) != len(classes):
        raise DataError(
            f"{place}: {len(found)} class names, but {root} has {len(classes)} class folders, "
            f"{classes[0]} to {classes[-1]}"
        )
    # A list in another order than the folders' would exchange classes.
    if found and set(found) == set(classes):
        return tuple(classes)
    for i, entry in enumerate(found):
        if entry in classes and classes.index(entry) != i:
            raise DataError(
                f"{place}: name {i} is {entry!r}, which is the folder of class "
                f"{classes.index(entry)}; names must be in the order {classes[:3]}..."
            )
    return found or tuple(classes)


def _names_file(file: Path, classes: list[str]) -> tuple[Any, ...]:
    if file.suffix == ".json":
        return prompt_files.read_names_of(file, classes)
    return prompt_files.read_class_names(file)


def _templates(root: Path) -> tuple[str, ...]:
    file = root / "zeroshot_classification_templates.txt"
    return prompt_files.read_templates(file) if file.is_file() else ()


def open_table(path: str, split: str, options: Options) -> LabelledSet | CaptionedSet:
    """Opens a CSV, TSV or JSONL file of pictures (paths, from the table's folder) with labels or
    captions.

    ``{split}`` in ``path`` stands for the split; else a column ``split`` chooses the rows, and
    without it all are taken. A label is a class name or a number; in JSONL it may be a list, which
    makes the set multi-label. Classes are numbered as in ``options.class_names``, or else as the
    sorted names of all splits. Rows with captions of the same picture become one picture. Of a
    table with labels and captions the labels are read (the captions with ``label_key=""``). The
    columns ``options.group_keys`` are the groups of the labelled pictures.

    Raises:
      MissingData: the file or the split is not there.
      DataError: a row is not in order; the message names file and line.
    """
    files = _table_files(path, split)
    wanted = files.pop(0)
    content = [(wanted, _rows_of(wanted)), *((file, _rows_of(file)) for file in files)]
    chosen = _of_split(content[0][1], split, wanted)
    key = _label_or_caption(chosen, wanted, options)
    pictures = [_picture(place, row, wanted, options.image_key) for place, row in chosen]
    data = hashlib.sha256(wanted.read_bytes()).hexdigest()
    facts = ["table", data, split, options.image_key, key, [_content(p) for p in pictures]]
    if key == options.caption_key:
        return _captioned(wanted, split, chosen, pictures, options, facts)
    every = [entry for _, found in content for entry in found]
    labels, names = _labels(chosen, every, key, options.names())
    found = groups.of_rows(chosen, options.group_keys)
    return LabelledSet(
        wanted.stem, split, FilePictures(pictures), labels, names, groups=found,
        fingerprint=digest(*facts, names, labels, *([found] if found else [])),
    )  # fmt: skip


Rows = list[tuple[str, Mapping[str, Any]]]


def _table_files(path: str, split: str) -> list[Path]:
    """The table of a split, and those of the other splits that are there."""
    if "{split}" not in path:
        spellings = {split: [Path(path).expanduser()]}
    else:
        spellings = {
            s: [Path(path.replace("{split}", name)).expanduser() for name in _spellings(s)]
            for s in (split, *(s for s in SPLITS if split not in SPLITS[s]))
        }
    found = {s: [p for p in paths if p.is_file()][:1] for s, paths in spellings.items()}
    if not found[split]:
        raise MissingData(f"{spellings[split][0]}: no such file")
    return [p for paths in found.values() for p in paths]


def _rows_of(file: Path) -> Rows:
    if file.suffix.lower() not in TABLES:
        raise DataError(f"{file}: tables are {', '.join(sorted(TABLES))} files")
    found = []
    for line, row in rows(file.with_suffix(file.suffix.lower()), file.read_bytes()):
        if not isinstance(row, dict):
            raise DataError(f"{file}:{line}: the row is a {type(row).__name__}, not an object")
        if row.get(None):  # where csv puts what has no column
            raise DataError(
                f"{file}:{line}: {len(row[None])} more field(s) than columns; put texts with "
                "commas in double quotes"
            )
        found.append((f"{file}:{line}", row))
    if not found:
        raise DataError(f"{file}: the table has no rows")
    return found


def _of_split(found: Rows, split: str, file: Path) -> Rows:
    given = {row.get("split") for _, row in found}
    if not any(given):
        return found
    chosen = [(place, row) for place, row in found if row.get("split") in _spellings(split)]
    if not chosen:
        raise MissingData(
            f"{file}: no row of split {split!r}; its column split has {sorted(map(str, given))}"
        )
    return chosen


def _label_or_caption(chosen: Rows, file: Path, options: Options) -> str:
    columns = {key for _, row in chosen for key in row if key is not None}
    for key in (options.label_key, options.caption_key):
        if key in columns:
            return key
    raise DataError(
        f"{file}: no column {options.label_key!r} or {options.caption_key!r}, it has "
        f"{sorted(columns)}; set label_key or caption_key to the one that is meant"
    )


def _picture(place: str, row: Mapping[str, Any], file: Path, key: str) -> Path:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(
            f"{place}: {key!r} is {value!r}, not a path; the row has {sorted(filter(None, row))}. "
            "Set image_key to the column with the pictures' paths"
        )
    picture = file.parent / value
    if not picture.is_file():
        raise DataError(f"{place}: no picture {picture}")
    return picture


def _labels(
    chosen: Rows, every: Rows, key: str, names: tuple[Any, ...]
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Labels of the chosen rows, and the class names: () where labels are numbers without names."""
    several = any(isinstance(row.get(key), list) for _, row in every)
    # Of other splits rows without a label are no concern of this one.
    asked = {place for place, _ in chosen}
    known = [(p, row) for p, row in every if p in asked or row.get(key) not in (None, "")]
    values = [v for place, row in known for v in _as_list(place, row.get(key), key, several)]
    if not names and not all(map(_is_number, values)):
        names = tuple(sorted({str(v) for v in values}))  # among names, "1" is a name
    classes = len(names) or max(map(int, values), default=-1) + 1
    number = {n: k for k, entry in enumerate(names) for n in _all_names(entry)}
    own = [
        [_class(place, v, number, classes, key) for v in _as_list(place, row[key], key, several)]
        for place, row in chosen
    ]
    if not several:
        return np.array([numbers[0] for numbers in own], np.int32), names
    labels = np.zeros((len(own), classes), bool)
    for i, numbers in enumerate(own):
        labels[i, numbers] = True
    return labels, names


def _all_names(entry: str | Sequence[str]) -> Sequence[str]:
    return (entry,) if isinstance(entry, str) else entry


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or (value.isascii() and value.isdigit())


def _as_list(place: str, value: Any, key: str, several: bool) -> list[str | int]:
    values = value if isinstance(value, list) else [value]
    if several and not isinstance(value, list):
        raise DataError(f"{place}: {key!r} is {value!r}, but other rows have lists; make all lists")
    for v in values:
        if isinstance(v, bool) or not isinstance(v, str | int) or v == "":
            raise DataError(f"{place}: {key!r} is {v!r}, not a class name or number")
    return values


def _class(place: str, value: Any, number: Mapping[str, int], classes: int, key: str) -> int:
    if str(value) in number:
        return number[str(value)]
    if _is_number(value) and 0 <= int(value) < classes:
        return int(value)
    raise DataError(
        f"{place}: {key!r} is {value!r}, which is none of the {classes} class names nor a number "
        f"from 0 to {classes - 1}"
    )


def _captioned(
    file: Path, split: str, chosen: Rows, pictures: list[Path], options: Options, facts: list[Any]
) -> CaptionedSet:
    number: dict[Path, int] = {}
    captions: list[str] = []
    owners: list[int] = []
    for (place, row), picture in zip(chosen, pictures, strict=True):
        owner = number.setdefault(picture, len(number))
        value = row.get(options.caption_key)
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{place}: {options.caption_key!r} is {text!r}, not a caption")
            captions.append(text.strip())
            owners.append(owner)
    return CaptionedSet(
        file.stem, split, FilePictures(list(number)), captions, np.array(owners, np.int32),
        digest(*facts, captions, owners),
    )  # fmt: skip
