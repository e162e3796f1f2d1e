"""Files that are there whole or not at all, also after a power cut."""

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file in the place of what is there; on failure that stays as it is.

    The file is written under a name of this process beside ``path``, flushed to the disk, and
    renamed; then the folder is flushed, without which the new name could be lost.

    Raises:
      OSError: the file cannot be written; nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some network file systems cannot, and need not
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
