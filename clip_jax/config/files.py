"""Config files and overrides of a command line."""

import ast
import difflib
import runpy
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from ml_collections import ConfigDict

from clip_jax.config.keys import KEYS, flatten
from clip_jax.config.stored import RENAMED
from clip_jax.config.validate import validate
from clip_jax.runtime.errors import ConfigError

# The folder in which a checkout has the package ``configs``: any config file may import a recipe.
_CHECKOUT = str(Path(__file__).resolve().parents[2])


def load(path: str, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """Runs a config file, applies overrides, validates and locks the result.

    Args:
      path: a Python file that defines ``get_config()``. It is code: run only files you trust.
      overrides: pairs such as ("optim.learning_rate", "1e-3"); values are Python literals, and
        anything that is not one is taken as a string.

    Raises:
      ConfigError: no such file, an error in it, an unknown key, or a value that is not legal.
    """
    if not Path(path).is_file():
        near = difflib.get_close_matches(Path(path).name, _siblings(path), 1)
        hint = f"; did you mean {Path(path).parent / near[0]}?" if near else ""
        raise ConfigError(f"--config={path}: no such file{hint}")
    config = _get_config(path)
    _check_keys(config, path)
    for key, text in overrides:
        _override(config, key, text)
    validate(config)
    return config.lock()


def overrides(arguments: Iterable[str]) -> list[tuple[str, str]]:
    """Key and value of every --config.key=value of a command line.

    Raises:
      ConfigError: an argument that is none.
    """
    pairs = []
    for argument in arguments:
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if not argument.startswith("--config.") or not equals:
            raise ConfigError(
                f"{argument!r}: overrides are written --config.key=value (see docs/config.md)"
            )
        pairs.append((key, value))
    return pairs


def _get_config(path: str) -> ConfigDict:
    """What the file's ``get_config`` returns; whatever goes wrong in it names file and line."""
    if _CHECKOUT not in sys.path:
        sys.path.append(_CHECKOUT)
    try:
        names = runpy.run_path(path)
        if "get_config" not in names:
            raise ConfigError(f"--config={path}: the file has no function get_config()")
        return names["get_config"]()
    except ConfigError:
        raise
    except Exception as error:  # it is the user's code
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        if isinstance(error, SyntaxError) and error.filename == path:
            lines.append(error.lineno)
        place = f"{path}:{lines[-1]}" if lines else path
        raise ConfigError(f"--config={place}: {type(error).__name__}: {error}") from error


def _siblings(path: str) -> list[str]:
    parent = Path(path).parent
    return [p.name for p in parent.glob("*.py")] if parent.is_dir() else []


def _unknown(key: str) -> ConfigError:
    if key in RENAMED:
        return ConfigError(f"config key {key!r} is called {RENAMED[key]!r} now")
    near = difflib.get_close_matches(key, KEYS, 1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown config key {key!r}{hint}")


def _check_keys(config: ConfigDict, path: str) -> None:
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"--config={path}: get_config() returns {type(config).__name__}; it must return the "
            "config that it made from defaults()"
        )
    given = flatten(config)
    for key in given:
        if key not in KEYS:
            raise ConfigError(f"--config={path}: {_unknown(key)}")
    missing = [key for key in KEYS if key not in given]
    if missing:
        raise ConfigError(
            f"--config={path}: no {missing[0]}; get_config() must start from defaults()"
        )


def _override(config: ConfigDict, key: str, text: str) -> None:
    if key not in KEYS:
        raise _unknown(key)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    default = None if KEYS[key].kind else KEYS[key].default
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(default, tuple) and isinstance(value, str):
        value = tuple(v for v in value.split(",") if v)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if isinstance(default, str) and not isinstance(value, str):
        value = text
    group = config
    *parents, last = key.split(".")
    for name in parents:
        group = group[name]
    try:
        with group.unlocked():
            group[last] = value
    except TypeError:
        kind = type(default).__name__ if default is not None else "None or the variant's type"
        raise ConfigError(f"--config.{key}={text}: expected {kind}") from None
