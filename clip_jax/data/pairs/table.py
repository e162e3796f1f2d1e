"""Pairs listed in tables: CSV, TSV and JSONL files."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clip_jax.data.pairs.registry import (
    DataError,
    Example,
    caption_group,
    clean_caption,
    matching_files,
)


class TableSource:
    """Pairs listed in CSV, TSV or JSONL files: an image path and a caption in each row.

    Relative image paths start at the table's folder. A JSONL caption may be a list of strings,
    one of which is drawn at each reading.
    """

    groups = weights = None

    def __init__(self, pattern: str, image_key: str, caption_key: str):
        self.rows: list[tuple[str, str | list[str]]] = []
        digest = hashlib.sha256(f"{image_key}\0{caption_key}".encode())
        for path in matching_files(pattern):
            data = path.read_bytes()
            digest.update(f"{path.suffix} {len(data)}\n".encode() + data)
            for line, row in rows(path, data):
                image, caption = _pair(f"{path}:{line}", row, image_key, caption_key)
                self.rows.append((str(path.parent / image), caption))
        if not self.rows:
            raise DataError(f"data.path={pattern!r}: the tables have no rows")
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int, rng: np.random.Generator) -> Example:
        caption = self.caption(index, rng)
        return Example(Path(self.rows[index][0]).read_bytes(), caption, caption_group(caption))

    def caption(self, index: int, rng: np.random.Generator) -> str:
        captions = self.rows[index][1]
        if not isinstance(captions, str):
            captions = captions[int(rng.integers(len(captions)))]
        return clean_caption(captions)

    def describe(self, index: int) -> str:
        return self.rows[index][0]


def rows(path: Path, data: bytes) -> Iterator[tuple[int, Any]]:
    """The rows of a table, each with the number of the line that it ends on.

    Args:
      path: a .csv, .tsv or .jsonl file; its name, for errors too.
      data: what is in it.

    Raises:
      DataError: another kind of file, or not such a file.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 ({error.reason}); save the file as UTF-8"
        ) from None
    if path.suffix == ".jsonl":
        # Not splitlines: JSON strings may hold what Unicode takes for the end of a line.
        for line, content in enumerate(text.split("\n"), 1):
            if content.strip():
                try:
                    yield line, json.loads(content)
                except ValueError as error:
                    raise DataError(f"{path}:{line}: not JSON: {error}") from None
    elif path.suffix in (".csv", ".tsv"):
        lines = io.StringIO(text, newline="")  # the ends of lines within quotes are the caption's
        table = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",")
        try:
            for row in table:
                yield table.line_num, row
        except csv.Error as error:
            after = f"after line {table.line_num}"
            raise DataError(f"{path}: {after}: {error}; is a quote not closed?") from None
    else:
        raise DataError(f"{path}: data.source='table' reads .csv, .tsv and .jsonl files")


def _pair(place: str, row: Any, image_key: str, caption_key: str) -> tuple[str, str | list[str]]:
    """The image path and the caption or captions of a table's row."""
    if not isinstance(row, dict):
        raise DataError(f"{place}: the row is a {type(row).__name__}, not an object with keys")
    if row.get(None):  # where csv puts what has no column
        raise DataError(
            f"{place}: {len(row[None])} more field(s) than columns; put captions in double quotes"
        )
    missing = [k for k in (image_key, caption_key) if row.get(k) in (None, "", [])]
    if missing:
        raise DataError(
            f"{place}: no {missing[0]!r} in this row (it has {sorted(filter(None, row))}); "
            "set data.image_key and data.caption_key to the table's column names"
        )
    image, caption = row[image_key], row[caption_key]
    texts = caption if isinstance(caption, list) else [caption]
    for key, kind, value in (
        (image_key, "a path", image),
        *((caption_key, "text", t) for t in texts),
    ):
        if not isinstance(value, str):
            raise DataError(f"{place}: {key!r} is {value!r}, not {kind}")
    return image, caption
