"""Whether a stored step is whole: the sha256 manifests, and what an error while loading proves."""

import contextlib
import errno
import json
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

import jax

from clip_jax.runtime import distributed
from clip_jax.runtime.atomic import write_atomically
from clip_jax.runtime.integrity import file_digests

_DAMAGE = (errno.EIO, errno.ENOENT)  # what the system says of damaged files


class CheckpointError(RuntimeError):
    """No checkpoint can be restored, or none can be written; the message says which and why."""

    exit_code = distributed.BAD_DATA


class Manifests:
    """The sha256 of every file of each step, in a folder beside that of the checkpoints."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder.with_name(folder.name + "_sha256")

    def write(self, step: int, steps: Iterable[int]) -> None:
        """Writes the manifest of ``step``, and deletes those of steps that are not in ``steps``."""
        try:
            digests = file_digests(self.folder / str(step))
            write_atomically(self.path / f"{step}.json", json.dumps(digests).encode())
            for path in self.path.glob("*.json"):
                if path.stem.isdigit() and int(path.stem) not in {step, *steps}:
                    path.unlink(missing_ok=True)
        except OSError as error:  # the step is still covered by its fingerprint
            logging.warning("no sha256 manifest for step %d: %s", step, error)

    def check(self, step: int) -> tuple[bool, str | None]:
        """Whether a manifest proves that a step is whole, and what is wrong if it proves damage.

        A process hashes its share of the files; all see the same names.

        Raises:
          CheckpointError: the files are there and cannot be read, which says nothing about them.
        """
        folder = self.folder / str(step)
        try:
            expected = json.loads((self.path / f"{step}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return False, None  # killed between commit and manifest: the fingerprint must do
        names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        if names != set(expected):
            return False, f"files missing or added: {sorted(names ^ set(expected))[:3]}"
        try:
            present = file_digests(folder, jax.process_index(), jax.process_count())
        except OSError as error:
            if error.errno in _DAMAGE:
                return False, str(error)
            raise self._not_damaged(step, error) from error
        wrong = [n for n, d in present.items() if expected[n] != d]
        return not wrong, f"sha256 of {wrong[0]} differs" if wrong else None

    def damage(self, step: int, error: Exception, whole: bool) -> str:
        """The damage that an error while loading is proof of: what the system can read and Orbax
        cannot, in a step that no manifest vouches for.

        Raises:
          CheckpointError: the error proves nothing about the step.
        """
        if whole or _is_out_of_memory(error):
            raise self._not_damaged(step, error) from error
        try:
            file_digests(self.folder / str(step))
        except OSError as unreadable:
            if unreadable.errno not in _DAMAGE:
                raise self._not_damaged(step, unreadable) from error
        return f"{type(error).__name__}: {error}"

    def move_aside(self, step: int) -> Path:
        """Renames a damaged step and drops its manifest; returns the new path."""
        target = self.folder.parent / f"damaged-{step}-{time.strftime('%Y%m%d-%H%M%S')}"
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.replace(self.folder / str(step), target)
        (self.path / f"{step}.json").unlink(missing_ok=True)
        return target

    def _not_damaged(self, step: int, error: Exception) -> CheckpointError:
        if _is_out_of_memory(error):
            advice = "use more devices, or shard the state with mesh.fsdp"
        else:
            advice = "nothing says that it is damaged: start again once this is put right"
        return CheckpointError(
            f"the checkpoint of step {step} in {self.folder} cannot be loaded and is left as it "
            f"is; {advice} ({type(error).__name__}: {error})"
        )


def _is_out_of_memory(error: BaseException) -> bool:
    return any(
        isinstance(e, MemoryError) or "RESOURCE_EXHAUSTED" in str(e)
        for e in distributed.causes(error)
    )
