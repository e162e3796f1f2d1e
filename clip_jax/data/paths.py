"""Where data lies: the cache folder and arrays in it, and the files that a pattern names."""

import functools
import glob
import io
import logging
import os
import re
import tokenize
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clip_jax.data.errors import DataError
from clip_jax.runtime.atomic import write_atomically


def cache_dir(configured: str = "") -> Path:
    """The folder of prepared data: ``data.cache_dir``, $CLIP_JAX_CACHE, or ~/.cache/clip_jax."""
    return Path(
        configured or os.environ.get("CLIP_JAX_CACHE") or Path.home() / ".cache" / "clip_jax"
    ).expanduser()


_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
INDEX = ".index.npz"  # how the names of index files end, which lie beside the data


def matching_files(pattern: str) -> list[Path]:
    """The files of a list of paths and patterns with commas between, sorted.

    A path that exists is taken as it is. Patterns are those of ``glob``, and ranges of numbers,
    ``{00000..00099}``. Index files match none of them.

    Raises:
      DataError: a part of the list matches nothing, or is a folder; names it.
    """
    if os.path.isfile(os.path.expanduser(pattern)):
        return [Path(pattern).expanduser()]
    found: set[str] = set()
    for part in filter(None, map(str.strip, pattern.split(","))):
        for one in _expanded(os.path.expanduser(part)):
            matched = [one] if os.path.exists(one) else glob.glob(one)
            files = [p for p in matched if not p.endswith(INDEX) and not os.path.isdir(p)]
            if not files:
                folder = next(filter(os.path.isdir, matched), None)
                advice = "no such file; give paths or glob patterns, with commas between"
                if folder:
                    advice = f"is a folder; give the files in it, such as '{folder}/*'"
                within = "" if one == pattern else f" ({one})"
                raise DataError(f"data.path={pattern!r}{within}: {advice}")
            found.update(files)
    if not found:
        raise DataError(f"data.path={pattern!r}: no such file; give a path or a glob pattern")
    return [Path(p) for p in sorted(found)]


def _expanded(pattern: str) -> list[str]:
    """A pattern for each number of its ranges."""
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match[1], match[2]
    if int(first) > int(last):
        raise DataError(f"data.path={pattern!r}: the range {match[0]} is empty: no such file")
    numbers = range(int(first), int(last) + 1)
    before, after = pattern[: match.start()], _expanded(pattern[match.end() :])
    return [f"{before}{n:0{len(first)}d}{rest}" for n in numbers for rest in after]


def cached_arrays(
    path: Path,
    make: Callable[[], dict[str, np.ndarray]],
    valid: Callable[[dict[str, np.ndarray]], bool] = lambda arrays: True,
) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file, which is made where it is absent, unreadable or not valid."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = dict(saved)
        if valid(arrays):
            return arrays
    # NumPy reads the head of an array as Python, and says of a damaged one what Python does.
    except (
        OSError, ValueError, KeyError, EOFError, SyntaxError, RuntimeError, tokenize.TokenError,
        zipfile.BadZipFile,
    ):  # fmt: skip
        pass
    arrays, content = make(), io.BytesIO()
    np.savez(content, **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())
    except OSError as error:  # a full disk, say: next time they are made again
        _warn(path.parent, str(error))
    return arrays


@functools.cache
def _warn(folder: Path, problem: str) -> None:
    """Once for a folder and a problem: there may be thousands of files."""
    logging.warning("files in %s cannot be kept: %s", folder, problem)
