"""What XLA has compiled is kept on disk, so that a run that starts again does not compile again."""

import hashlib
import logging
import os
import platform
from pathlib import Path

from clip_jax.runtime import distributed

MAX_BYTES = 4 * 2**30  # the least recently used programs go first


def cpu_name() -> str:
    """Names this kind of CPU: a program that was compiled for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    told = ("flags", "Features", "CPU implementer", "CPU part", "model name")
    features = "".join(sorted({line for line in lines if line.startswith(told)}))
    features = features or platform.processor()
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:12]


def enable(folder: Path) -> None:
    """Keeps compiled programs in ``folder``, unless JAX has been told where to (or not to).

    A folder that cannot be written costs the next start its time, not this one its run.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is not None:
        return
    path = folder / f"xla-{cpu_name()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logging.warning("compiled programs are not kept: %s", error)
        return
    if not os.access(path, os.W_OK):
        logging.warning("compiled programs are not kept: %s cannot be written", path)
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    if distributed.is_lead():  # the one that writes; the bound costs every access a lock
        jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
