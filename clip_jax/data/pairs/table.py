"""Pairs listed in tables: CSV, TSV and JSONL files."""

import hashlib
from pathlib import Path
from typing import Self

import numpy as np

from clip_jax.config import ConfigDict
from clip_jax.data.errors import DataError
from clip_jax.data.pairs.base import Example, LeftOut, Source, caption_group, clean_caption
from clip_jax.data.paths import matching_files
from clip_jax.data.table_rows import Row, read_rows

_ADVICE = "set data.image_key and data.caption_key to the table's column names"


class TableSource(Source):
    """Pairs listed in CSV, TSV or JSONL files: an image path and a caption in each row.

    Relative image paths start at the table's folder. A JSONL caption may be a list of strings,
    one of which is drawn at each reading.
    """

    needs_path = True

    def __init__(self, pattern: str, image_key: str, caption_key: str):
        self.rows: list[tuple[str, str | list[str]]] = []
        empty: dict[str, list[str]] = {}  # key -> places of the rows that have nothing there
        example: Row = {}
        digest = hashlib.sha256(f"{image_key}\0{caption_key}".encode())
        for path in matching_files(pattern):
            data = path.read_bytes()
            digest.update(f"{path.suffix} {len(data)}\n".encode() + data)
            for location, row in read_rows(path, data):
                lacks = [k for k in (image_key, caption_key) if row.get(k) in (None, "", [])]
                if lacks:
                    empty.setdefault(lacks[0], []).append(location)
                    example = example or row
                    continue
                image, caption = _pair(location, row, image_key, caption_key)
                self.rows.append((str(path.parent / image), caption))
        if not self.rows and empty:
            key, (location, *_) = next(iter(empty.items()))
            raise DataError(
                f"{location}: no {key!r} in this row (it has {sorted(filter(None, example))}), and "
                f"no row has both; {_ADVICE}"
            )
        if not self.rows:
            raise DataError(f"data.path={pattern!r}: the tables have no rows")
        groups = [LeftOut(f"no {k!r}", len(at), at[0], _ADVICE) for k, at in empty.items()]
        self.left_out = sorted(groups, key=lambda group: -group.count)
        self.fingerprint = digest.hexdigest()

    @classmethod
    def from_config(cls, data: ConfigDict) -> Self:
        return cls(data.path, data.image_key, data.caption_key)

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


def _pair(location: str, row: Row, image_key: str, caption_key: str) -> tuple[str, str | list[str]]:
    """The image path and the caption or captions of a table's row."""
    image, caption = row[image_key], row[caption_key]
    texts = caption if isinstance(caption, list) else [caption]
    for key, kind, value in (
        (image_key, "a path", image),
        *((caption_key, "text", t) for t in texts),
    ):
        if not isinstance(value, str):
            raise DataError(f"{location}: {key!r} is {value!r}, not {kind}")
    return image, caption
