"""JSON that others wrote: every surprise in it is one LayoutError, which names file and key."""

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from clip_jax.interop.mapping import LayoutError
from clip_jax.runtime.digests import Json

_DEEPEST = 50  # groups in groups; deeper ones could not even be printed
_LARGEST = 2**31 - 1  # integers; larger ones overflow where they meet floats and arrays
_NO_DEFAULT = object()


def json_file(path: Path) -> dict[str, Json]:
    """The object in a JSON file.

    Raises:
      LayoutError: it holds none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also numbers of too many digits
        raise LayoutError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise LayoutError(f"{path} holds {short_repr(value)}, not an object")
    level: list[Json] = [value]
    for _ in range(_DEEPEST):
        level = [x for v in level for x in (v.values() if isinstance(v, dict) else v)
                 if isinstance(x, dict | list)]  # fmt: skip
    if level:
        raise LayoutError(f"{path} is nested more than {_DEEPEST} deep")
    return value


def short_repr(value: object) -> str:
    """A value's ``repr``, cut to 80 characters."""
    if isinstance(value, Mapping):
        return "an object"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


@contextlib.contextmanager
def error_context(source: str) -> Iterator[None]:
    """Makes a ValueError from within a LayoutError that begins with the file's name."""
    try:
        yield
    except LayoutError:
        raise
    except ValueError as error:
        raise LayoutError(f"{source}: {error}") from None


class JsonObject:
    """An object in a JSON file, whose values are read by key and type.

    All methods raise LayoutError, with the file and the key, for a value of another kind (a null is
    one), and for a missing one that has no default.

    Attributes:
      values: what it holds, as it is.
      source: the file, for messages.
    """

    def __init__(self, values: object, source: str, path: str = ""):
        """Takes what ``source`` has at the key ``path``; "" for the whole file."""
        self.source, self._path = source, path
        if not isinstance(values, Mapping):
            what = f" {path}" if path else ""
            raise LayoutError(f"{source}:{what} is {short_repr(values)}, not an object")
        self.values = values

    def key(self, name: str) -> str:
        """A key with those of the groups around it."""
        return f"{self._path}.{name}" if self._path else name

    def _get(self, name: str, default: object) -> object:
        value = self.values.get(name, default)
        if value is _NO_DEFAULT:
            raise LayoutError(f"{self.source} has no {self.key(name)}")
        return value

    def _refuse(self, name: str, value: object, wanted: str) -> LayoutError:
        return LayoutError(f"{self.source}: {self.key(name)} is {short_repr(value)}, not {wanted}")

    def integer(self, name: str, default: object = _NO_DEFAULT, least: int = 1) -> int:
        """An integer of at least ``least``."""
        value = self._get(name, default)
        if type(value) is not int or not least <= value <= _LARGEST:
            raise self._refuse(name, value, f"an integer of {least} to {_LARGEST}")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of positive integers."""
        value = self._get(name, _NO_DEFAULT)
        good = isinstance(value, list | tuple) and value
        if not good or not all(type(v) is int and 0 < v <= _LARGEST for v in value):
            raise self._refuse(name, value, "a list of positive integers")
        return tuple(value)

    def number(self, name: str, default: object = _NO_DEFAULT) -> float:
        """A positive, finite number."""
        value = self._get(name, default)
        if type(value) not in (int, float) or not 0 < value <= _LARGEST or math.isnan(value):
            raise self._refuse(name, value, "a positive number")
        return float(value)

    def choice(self, name: str, legal: Iterable[str], default: object = _NO_DEFAULT) -> str:
        """One of the strings in ``legal``."""
        value = self._get(name, default)
        if not isinstance(value, str) or value not in legal:
            raise self._refuse(name, value, f"one of {', '.join(legal)}")
        return value

    def child(self, name: str, default: object = _NO_DEFAULT) -> "JsonObject":
        """An object in this one."""
        return JsonObject(self._get(name, default), self.source, self.key(name))
