"""Class names and prompt templates in files of the user's, in any language.

Text files (UTF-8) have one name or one template a line. JSON files have a list; or an object with
a list for each dataset, as CLIP_benchmark's have; or, for templates, an object with whole
prompts for each class, as CuPL's have. In templates ``{}`` or ``{c}`` stands for the class name.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from clip_jax.data.errors import DataError
from clip_jax.data.table_rows import decode_text
from clip_jax.runtime.digests import Json

ClassNames = tuple[str | tuple[str, ...], ...]  # of K classes, each one name or several
MARKS = ("{}", "{c}")  # of the class name in a template


def read_class_names(
    path: str | os.PathLike, dataset: Sequence[str] = (), *, gaps: bool = False
) -> ClassNames:
    """Reads class names, number = position, from a ``.json`` file or a text file with one a line.

    Args:
      path: the file. In JSON a class may have a list of names.
      dataset: which entry to take of a JSON object: the first of these names that it has.
      gaps: allow empty lines, which keep their number.

    Raises:
      DataError: no such file, or not such a file; the message names it and the location in it.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        return tuple(name for _, name in _lines(path, "class name", gaps))
    content, location = _entry(path, _json(path), dataset)
    if not isinstance(content, list) or not content:
        raise DataError(f"{location} is {_kind(content)}, not a list of class names")
    return tuple(_names(f"{location}[{i}]", entry) for i, entry in enumerate(content))


def read_names_of(path: str | os.PathLike, keys: Sequence[str]) -> ClassNames:
    """Reads the class names of these folders from a JSON object {folder: name or names}; from a
    list it takes all.

    Raises:
      DataError: as ``read_class_names``, or a folder has no name.
    """
    path = Path(path)
    content = _json(path)
    if not isinstance(content, Mapping):
        return read_class_names(path)
    missing = [key for key in keys if key not in content]
    if missing:
        raise DataError(f"{path}: no name for {len(missing)} folders, such as {missing[0]!r}")
    return tuple(_names(f"{path}: {key!r}", content[key]) for key in keys)


def read_templates(
    path: str | os.PathLike, dataset: Sequence[str] = ()
) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """Reads prompt templates from a ``.json`` file, or a text file with one a line.

    Args:
      path: the file.
      dataset: which entry to take of a JSON object that has it, the first of these names.

    Returns:
      Templates for all classes; or, where the file has an object, the prompts of each class by
      its name, which need no ``{}`` (see ``of_classes``).

    Raises:
      DataError: no such file, or not such a file; the message names it and the location in it.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        return tuple(_template(f"{path}:{line}", text) for line, text in _lines(path, "template"))
    content = _json(path)
    location = str(path)
    if isinstance(content, Mapping) and (name := next((n for n in dataset if n in content), "")):
        content, location = content[name], f"{path}: {name!r}"
    if isinstance(content, list) and content:
        return tuple(_template(f"{location}[{i}]", text) for i, text in enumerate(content))
    if isinstance(content, Mapping) and content:
        return {name: _prompts(f"{location}: {name!r}", texts) for name, texts in content.items()}
    raise DataError(f"{location} is {_kind(content)}, not a list of templates or an object of them")


def of_classes(
    prompts: Mapping[str, Sequence[str]],
    class_names: Sequence[str | Sequence[str]],
    location: str = "prompts",
) -> tuple[tuple[str, ...], ...]:
    """The prompts of every class, from prompts by class name.

    A class with several names takes the prompts of all that are there; ``{}`` in a prompt stands
    for the name. Prompts of other classes are not used.

    Raises:
      DataError: a class has none.
    """
    result, missing = [], []
    for entry in class_names:
        names = [entry] if isinstance(entry, str) else list(entry)
        texts = [text.replace("{}", n) for n in names for text in prompts.get(n, ())]
        result.append(tuple(texts))
        if not texts:
            missing.append(names[0])
    if missing:
        raise DataError(
            f"{location}: no prompts for {len(missing)} of {len(result)} classes: "
            f"{', '.join(map(repr, missing[:5]))}{'...' if missing[5:] else ''}; the keys must be "
            "the class names"
        )
    return tuple(result)


def _read(path: Path) -> str:
    try:
        return decode_text(path, path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _lines(path: Path, what: str, gaps: bool = False) -> list[tuple[int, str]]:
    """The lines of a text file without their ends, numbered from 1; none is empty but for gaps."""
    lines = [line.strip() for line in _read(path).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{path}: empty; it must have one {what} a line")
    for number, line in enumerate(lines, 1):
        if not line and not gaps:
            # Left out without a word, it would shift the numbers of all classes after it.
            raise DataError(f"{path}:{number}: empty line; every line must have a {what}")
    return list(enumerate(lines, 1))


def _json(path: Path) -> Json:
    try:
        return json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None


def _entry(path: Path, content: Json, dataset: Sequence[str]) -> tuple[Json, str]:
    if not isinstance(content, Mapping):
        return content, str(path)
    for name in dataset:
        if name in content:
            return content[name], f"{path}: {name!r}"
    raise DataError(
        f"{path}: no entry {' or '.join(map(repr, dataset)) or 'is asked for'}; it has "
        f"{sorted(content)[:10]}. Give a file with a list"
    )


def _kind(value: Json) -> str:
    if value in ([], {}, ""):
        return "empty"
    names = {dict: "an object", list: "a list", str: "text", type(None): "null"}
    return names.get(type(value), repr(value))


def _text(location: str, value: Json, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{location} is {_kind(value)}, not {what}")
    return value


def _names(location: str, entry: Json) -> str | tuple[str, ...]:
    if isinstance(entry, list) and entry:
        return tuple(
            _text(f"{location}[{i}]", name, "a class name") for i, name in enumerate(entry)
        )
    return _text(location, entry, "a class name or a list of them")


def _template(location: str, value: Json) -> str:
    text = _text(location, value, "a template")
    if not any(mark in text for mark in MARKS):
        raise DataError(f"{location}: {text!r} has no '{{}}' (or '{{c}}') for the class name")
    return text.replace("{c}", "{}")


def _prompts(location: str, texts: Json) -> tuple[str, ...]:
    if not isinstance(texts, list) or not texts:
        raise DataError(f"{location} is {_kind(texts)}, not a list of prompts")
    return tuple(
        _text(f"{location}[{i}]", text, "a prompt").replace("{c}", "{}")
        for i, text in enumerate(texts)
    )
