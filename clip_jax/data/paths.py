"""Where data lies: the cache folder and arrays in it, and the files that a pattern names."""

import glob
import io
import os
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


def matching_files(pattern: str) -> list[Path]:
    """The files of a list of paths and glob patterns with commas between, sorted.

    Raises:
      DataError: there is none.
    """
    paths: set[str] = set()
    for part in pattern.split(","):
        paths.update(glob.glob(os.path.expanduser(part.strip())))
    if not paths:
        raise DataError(f"data.path={pattern!r}: no such file; give a path or a glob pattern")
    return [Path(p) for p in sorted(paths)]


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
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    arrays, content = make(), io.BytesIO()
    np.savez(content, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
    return arrays
