"""Where data lies: the cache folder, and the files that a pattern names."""

import glob
import os
from pathlib import Path

from clip_jax.data.errors import DataError


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
