"""Test sets in tables: CSV, TSV or JSONL files of images with labels or captions."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from clip_jax.data.digests import digest
from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.table_rows import read_rows
from clip_jax.data.test_sets import groups
from clip_jax.data.test_sets.files import SPLITS, content, spellings
from clip_jax.data.test_sets.prompt_files import ClassNames
from clip_jax.data.test_sets.types import ClassificationDataset, Options, RetrievalDataset
from clip_jax.runtime.digests import Json

Rows = list[tuple[str, Mapping[str, Json]]]


def open_table(path: str, split: str, options: Options) -> ClassificationDataset | RetrievalDataset:
    """Opens a CSV, TSV or JSONL file of images (paths, from the table's folder) with labels or
    captions.

    ``{split}`` in ``path`` stands for the split; else a column ``split`` chooses the rows, and
    without it all are taken. A label is a class name or a number; in JSONL it may be a list, which
    makes the set multi-label. Classes are numbered as in ``options.class_names``, or else as the
    sorted names of all splits. Rows with captions of the same image become one image. Of a
    table with labels and captions the labels are read (the captions with ``label_key=""``). The
    columns ``options.group_keys`` are the groups of the labelled images.

    Raises:
      MissingData: the file or the split is not there.
      DataError: a row is not in order; the message names file and line.
    """
    files = _table_files(path, split)
    wanted = files.pop(0)
    rows = [_rows_of(file) for file in (wanted, *files)]
    chosen = _of_split(rows[0], split, wanted)
    key = _label_or_caption(chosen, wanted, options)
    images = [_image(location, row, wanted, options.image_key) for location, row in chosen]
    data = hashlib.sha256(wanted.read_bytes()).hexdigest()
    identity = ["table", data, split, options.image_key, key, [content(p) for p in images]]
    if key == options.caption_key:
        return _captioned(wanted, split, chosen, images, options, identity)
    every = [row for of_file in rows for row in of_file]
    labels, names = _labels(chosen, every, key, options.names())
    of_image = groups.of_rows(chosen, options.group_keys)
    return ClassificationDataset(
        wanted.stem, split, images, labels, names, groups=of_image,
        fingerprint=digest(*identity, names, labels, *([of_image] if of_image else [])),
    )  # fmt: skip


def _table_files(path: str, split: str) -> list[Path]:
    """The table of a split, and those of the other splits that are there."""
    if "{split}" not in path:
        candidates = {split: [Path(path).expanduser()]}
    else:
        candidates = {
            s: [Path(path.replace("{split}", name)).expanduser() for name in spellings(s)]
            for s in (split, *(s for s in SPLITS if split not in SPLITS[s]))
        }
    existing = {s: [p for p in paths if p.is_file()][:1] for s, paths in candidates.items()}
    if not existing[split]:
        raise MissingData(f"{candidates[split][0]}: no such file")
    return [p for paths in existing.values() for p in paths]


def _rows_of(file: Path) -> Rows:
    rows = list(read_rows(file))
    if not rows:
        raise DataError(f"{file}: the table has no rows")
    return rows


def _of_split(rows: Rows, split: str, file: Path) -> Rows:
    given = {row.get("split") for _, row in rows}
    if not any(given):
        return rows
    chosen = [(location, row) for location, row in rows if row.get("split") in spellings(split)]
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


def _image(location: str, row: Mapping[str, Json], file: Path, key: str) -> Path:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(
            f"{location}: {key!r} is {value!r}, not a path; the row has "
            f"{sorted(filter(None, row))}. Set image_key to the column with the images' paths"
        )
    image = file.parent / value
    if not image.is_file():
        raise DataError(f"{location}: no image {image}")
    return image


def _labels(
    chosen: Rows, every: Rows, key: str, names: ClassNames
) -> tuple[np.ndarray, ClassNames]:
    """Labels of the chosen rows, and the class names: () where labels are numbers without names."""
    several = any(isinstance(row.get(key), list) for _, row in every)
    # Of other splits rows without a label are no concern of this one.
    asked = {location for location, _ in chosen}
    known = [(p, row) for p, row in every if p in asked or row.get(key) not in (None, "")]
    values = [v for location, row in known for v in _as_list(location, row.get(key), key, several)]
    if not names and not all(map(_is_number, values)):
        names = tuple(sorted({str(v) for v in values}))  # among names, "1" is a name
    classes = len(names) or max(map(int, values), default=-1) + 1
    number = {n: k for k, entry in enumerate(names) for n in _all_names(entry)}
    own = [
        [
            _class(location, v, number, classes, key)
            for v in _as_list(location, row[key], key, several)
        ]
        for location, row in chosen
    ]
    if not several:
        return np.array([numbers[0] for numbers in own], np.int32), names
    labels = np.zeros((len(own), classes), bool)
    for i, numbers in enumerate(own):
        labels[i, numbers] = True
    return labels, names


def _all_names(entry: str | Sequence[str]) -> Sequence[str]:
    return (entry,) if isinstance(entry, str) else entry


def _is_number(value: Json) -> bool:
    return isinstance(value, int) or (value.isascii() and value.isdigit())


def _as_list(location: str, value: Json, key: str, several: bool) -> list[str | int]:
    values = value if isinstance(value, list) else [value]
    if several and not isinstance(value, list):
        raise DataError(
            f"{location}: {key!r} is {value!r}, but other rows have lists; make all lists"
        )
    for v in values:
        if isinstance(v, bool) or not isinstance(v, str | int) or v == "":
            raise DataError(f"{location}: {key!r} is {v!r}, not a class name or number")
    return values


def _class(location: str, value: Json, number: Mapping[str, int], classes: int, key: str) -> int:
    if str(value) in number:
        return number[str(value)]
    if _is_number(value) and 0 <= int(value) < classes:
        return int(value)
    raise DataError(
        f"{location}: {key!r} is {value!r}, which is none of the {classes} class names nor a "
        f"number from 0 to {classes - 1}"
    )


def _captioned(
    file: Path, split: str, chosen: Rows, images: list[Path], options: Options, identity: list[Json]
) -> RetrievalDataset:
    number: dict[Path, int] = {}
    captions: list[str] = []
    owners: list[int] = []
    for (location, row), image in zip(chosen, images, strict=True):
        owner = number.setdefault(image, len(number))
        value = row.get(options.caption_key)
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{location}: {options.caption_key!r} is {text!r}, not a caption")
            captions.append(text.strip())
            owners.append(owner)
    return RetrievalDataset(
        file.stem, split, list(number), captions, np.array(owners, np.int32),
        digest(*identity, captions, owners),
    )  # fmt: skip
