"""Files that are there whole or not at all, also after a power cut."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a name to write to, beside ``path`` and with its ending, and renames it at the end.

    The file is flushed to the disk before, and the folder after it, without which the new name
    could be lost. After an exception what was at ``path`` stays as it is.

    Raises:
      OSError: the file cannot be written; nothing is left behind.
    """
    # Containers that share a disk may have the same process numbers.
    partial = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.{path.name}")
    try:
        yield partial
        with open(partial, "rb+") as file:
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


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file, replacing what is there; see ``whole_file``."""
    with whole_file(path) as partial:
        partial.write_bytes(data)
