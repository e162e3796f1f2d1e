"""What the values of a config may be: their types, and the error of one that will not do."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from clip_jax.runtime.errors import ConfigError


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested config to {"a.b": value}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def is_int(value: Any) -> bool:
    """Whether a value is a whole number, which True is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return is_int(value) or (isinstance(value, float) and math.isfinite(value))


# type of a default -> (what a value must satisfy, in words)
_KINDS: dict[type, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda v: isinstance(v, bool), "True or False"),
    int: (is_int, "a whole number"),
    float: (is_number, "a finite number"),
    str: (lambda v: isinstance(v, str), "text"),
    tuple: (lambda v: isinstance(v, list), "a list with commas between"),  # flatten made it one
}


def _kinds(config: ConfigDict, prefix: str = "") -> dict[str, type]:
    """Key -> type of its default. (A config's own types follow what has been assigned to it.)"""
    kinds = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            kinds |= _kinds(value, f"{prefix}{key}.")
        else:
            kinds[prefix + key] = config.get_type(key)
    return kinds


def check_types(flat: Mapping[str, Any], legal: ConfigDict) -> None:
    """Checks the types of a flattened config by those of the defaults.

    Raises:
      ConfigError: names the key, its value and what is allowed.
    """
    optional = {key for key, value in flatten(legal).items() if value is None}
    for key, kind in _kinds(legal).items():
        ok, words = _KINDS.get(kind, (lambda v: True, "anything"))
        if not (flat[key] is None and key in optional) and not ok(flat[key]):
            raise ConfigError(f"{key}={flat[key]!r}: must be {words}")
