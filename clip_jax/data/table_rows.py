"""The rows of CSV, TSV and JSONL files, with errors that name file and line."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from clip_jax.data.errors import DataError
from clip_jax.runtime.digests import Json

Row = dict[str, Json]
DELIMITERS = {".csv": ",", ".tsv": "\t"}
_OTHER_KINDS = {
    b"\x1f\x8b": "compressed by gzip",
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive",
}


def read_rows(path: Path, data: bytes | None = None) -> Iterator[tuple[str, Row]]:
    """The rows of a .csv, .tsv or .jsonl file, each with its location, "FILE:LINE".

    The line is that on which the row ends. ``data`` is the content, where that is read already.

    Raises:
      DataError: another kind of file, not such a file, or a row that does not fit the columns.
    """
    ending = path.suffix.lower()
    data = path.read_bytes() if data is None else data
    for magic, kind in _OTHER_KINDS.items():
        if data.startswith(magic):
            raise DataError(f"{path}: {kind}; make it a .csv, .tsv or .jsonl file")
    text = decode_text(path, data)
    if ending == ".jsonl":
        lines = _jsonl(path, text)
    elif ending in DELIMITERS:
        lines = _csv(path, text, DELIMITERS[ending])
    else:
        raise DataError(f"{path}: tables are .csv, .tsv and .jsonl files")
    for line, row in lines:
        location = f"{path}:{line}"
        if not isinstance(row, dict):
            raise DataError(f"{location}: the row is a {type(row).__name__}, not an object")
        if row.get(None):  # where csv puts what has no column
            raise DataError(
                f"{location}: {len(row[None])} more field(s) than columns; put texts with commas "
                "in double quotes"
            )
        yield location, row


def decode_text(path: Path, data: bytes) -> str:
    """UTF-8 text without a byte order mark.

    Raises:
      DataError: it is not UTF-8; the message names the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 ({error.reason}); save the file as UTF-8"
        ) from None


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, Json]]:
    # Not splitlines: JSON strings may hold what Unicode takes for the end of a line.
    for line, content in enumerate(text.split("\n"), 1):
        if content.strip():
            try:
                yield line, json.loads(content)
            except ValueError as error:
                raise DataError(f"{path}:{line}: not JSON: {error}") from None


def _csv(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    # newline="": line ends within quotes belong to the caption.
    # Strict: a stray quote would else make the rows up to the next one part of a caption.
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        (header, *more) = table.fieldnames or [""]
        if others := [d for d in (";", "\t", ",", "|") if d in header and not more]:
            raise DataError(
                f"{path}:1: one column, {header!r}: its separator seems to be {others[0]!r}, and "
                f"that of a {path.suffix} file is {delimiter!r}"
            )
        for row in table:
            yield table.line_num, row
    except csv.Error as error:
        after = f"after line {table.line_num}"
        if "expected after" in str(error):
            advice = 'of a text with quotes write them twice, between two more: "a ""red"" cat"'
        else:
            advice = "is a quote not closed?"
        raise DataError(f"{path}: {after}: {error}; {advice}") from None
