"""Saving and restoring the train state: the only room that knows Orbax.

Orbax restores damaged files without a word: a flipped bit comes back as a wrong weight. So every
save carries, inside its commit, an integer fingerprint of each leaf; a sha256 manifest of its
files follows once they are written. A restore checks both, and falls back to the newest step that
is whole. A step that is proven damaged is moved aside and named; whatever else goes wrong while
loading (another model, no memory, a lost process) leaves the files alone.
"""

import contextlib
import errno
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from clip_jax.runtime import distributed
from clip_jax.runtime.atomic import write_atomically
from clip_jax.runtime.integrity import Mismatch, check_tree, file_digests, fingerprint


class CheckpointError(RuntimeError):
    """No checkpoint can be restored, or none can be written; the message says which and why."""

    exit_code = distributed.BAD_DATA


def _report_unraisable(unraisable: Any) -> None:
    """Leaves out what the writes of a failed save say when they end after their event loop.

    Orbax reports the first failure of a save and closes its loop under the other writes; each of
    them would print a traceback of its own over the one line that says what happened.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


class Checkpoints:
    """The checkpoints of one run, in ``folder``; asynchronous saves, verified restores."""

    def __init__(self, folder: Path, keep: int):
        self.folder = folder.absolute()
        self.manifests = self.folder.with_name(self.folder.name + "_sha256")
        if distributed.is_lead():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.manifests.mkdir(exist_ok=True)
        distributed.barrier("checkpoint folders")
        training = ocp.training
        self._orbax = training.Checkpointer(
            self.folder,
            # One more than asked: a step that has not been verified must not push out the last
            # one that has.
            preservation_policy=training.preservation_policies.LatestN(keep + 1),
            cleanup_tmp_directories=True,
        )
        self._pending: tuple[int, Any] | None = None
        self._failed = False  # whether the newest save has failed
        self._hashing: threading.Thread | None = None
        if sys.unraisablehook is sys.__unraisablehook__:
            sys.unraisablehook = _report_unraisable

    def save(self, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Starts a save in the background; the state may be donated as soon as this returns.

        A save that fails (disk full, say) is reported and the run goes on: the step before it is
        untouched and the next save tries again; ``finish`` and ``close`` tell.
        """
        self.finish()
        self._failed = False
        metadata = facts | {"step": step, "fingerprint": fingerprint(state)}
        for attempt in range(2):
            try:
                response = self._orbax.save_checkpointables_async(
                    step, {"state": state}, custom_metadata=metadata, force=True
                )
                self._pending = (step, response)
                return
            # After a failed save, Orbax raises that failure once more from the next call.
            except Exception as error:
                failure = error
                logging.warning("checkpoint at step %d: attempt %d: %s", step, attempt + 1, error)
        logging.error("checkpoint at step %d not written: %s", step, failure)
        self._failed = True

    def poll(self) -> None:
        """Completes a save that has been written meanwhile; cheap, for every step.

        A save that failed is reported. The step before it is intact then.
        """
        if self._pending is None or self._orbax.is_saving_in_progress():
            return
        step, response = self._pending
        self._pending = None
        try:
            response.result()
        except Exception as error:
            logging.error(
                "checkpoint at step %d not written: %s: %s; the one before it is intact",
                step, type(error).__name__, error,
            )  # fmt: skip
            self._failed = True
            return
        if distributed.is_lead():
            self._hashing = threading.Thread(target=self._write_manifest, args=(step,))
            self._hashing.start()

    def finish(self) -> bool:
        """Waits for a save under way and its manifest. False if the newest save has failed."""
        if self._pending is not None:
            with contextlib.suppress(Exception):  # poll reports it
                self._pending[1].result()
        self.poll()
        if self._hashing is not None:
            self._hashing.join()
            self._hashing = None
        return not self._failed

    def _write_manifest(self, step: int) -> None:
        try:
            digests = file_digests(self.folder / str(step))
            write_atomically(self.manifests / f"{step}.json", json.dumps(digests).encode())
            kept = {c.step for c in self._orbax.checkpoints}
            for path in self.manifests.glob("*.json"):
                if path.stem.isdigit() and int(path.stem) not in kept | {step}:
                    path.unlink(missing_ok=True)
        except OSError as error:  # the step is still covered by its fingerprint
            logging.warning("no sha256 manifest for step %d: %s", step, error)

    def steps(self) -> list[int]:
        """The steps there are, newest first."""
        return sorted((c.step for c in self._orbax.checkpoints), reverse=True)

    def _agreed_steps(self, patience: float = 10.0) -> list[int]:
        """The steps there are, newest first; a network file system may take a while to show them.

        Raises:
          CheckpointError: processes see different ones. On all, so that none waits for the others.
        """
        deadline = time.monotonic() + patience
        while not distributed.identical_on_all_hosts(found := self.steps()):
            if not distributed.all_hosts(time.monotonic() < deadline):
                raise CheckpointError(
                    f"processes see different checkpoints in {self.folder} (this one: {found}); "
                    "--workdir must be one folder that all of them share"
                )
            time.sleep(1)
            self._orbax.reload()
        return found

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest step that is whole, laid out as ``abstract_state`` says; None if no step.

        Raises:
          CheckpointError: there are steps, or have been, and every one is damaged; or one that is
            not damaged cannot be loaded here.
          Mismatch: a step holds another model's state.
        """
        for step in self._agreed_steps():
            distributed.heartbeat(f"restoring step {step}")
            whole, problem = self._check_files(step)
            if distributed.all_hosts(problem is None):
                state, facts, problem = self._load(step, abstract_state, whole)
                if distributed.all_hosts(problem is None):
                    return state, facts
            self._set_aside(step, problem or "another process found damage")
        aside = sorted(p.name for p in self.folder.parent.glob("damaged-*"))
        if aside:
            raise CheckpointError(
                f"all checkpoints in {self.folder} are damaged, and have been moved to "
                f"{', '.join(aside)} beside it; nothing was begun or restored. To begin anew, give "
                "another --workdir, or delete these folders"
            )
        return None

    def _check_files(self, step: int) -> tuple[bool, str | None]:
        """Whether a manifest proves that a step is whole, and what is wrong if it proves damage.

        A process hashes its share of the files; all see the same names.

        Raises:
          CheckpointError: the files are there and cannot be read, which says nothing about them.
        """
        folder = self.folder / str(step)
        try:
            expected = json.loads((self.manifests / f"{step}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return False, None  # killed between commit and manifest: the fingerprint must do
        names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        if names != set(expected):
            return False, f"files missing or added: {sorted(names ^ set(expected))[:3]}"
        try:
            present = file_digests(folder, jax.process_index(), jax.process_count())
        except OSError as error:
            if error.errno in (errno.EIO, errno.ENOENT):
                return False, str(error)
            raise self._left_alone(step, error) from error
        wrong = [n for n, d in present.items() if expected[n] != d]
        return not wrong, f"sha256 of {wrong[0]} differs" if wrong else None

    def _load(
        self, step: int, abstract_state: Any, whole: bool
    ) -> tuple[Any, dict[str, Any], str | None]:
        """State, facts and None; or nothing and the damage that loading has proven.

        Raises:
          CheckpointError, Mismatch: see ``restore``.
        """
        try:
            stored = self._orbax.checkpointables_metadata(step)
            facts = dict(stored.custom_metadata or {})
            if "fingerprint" not in facts:
                raise ValueError("no fingerprint in its metadata")
            check_tree(step, facts["fingerprint"], stored.metadata["state"], abstract_state)
            state = self._orbax.load_checkpointables(step, {"state": abstract_state})["state"]
            now = fingerprint(state)
        except Mismatch:
            raise
        except Exception as error:
            return None, {}, self._damage(step, error, whole)
        wrong = [p for p, f in facts["fingerprint"].items() if now.get(p) != f]
        if wrong or now.keys() != facts["fingerprint"].keys():
            return None, {}, f"fingerprint of {(wrong or ['the tree'])[0]} differs"
        return state, facts, None

    def _damage(self, step: int, error: Exception, whole: bool) -> str:
        """The damage that an error while loading is proof of: what the system can read and Orbax
        cannot, in a step that no manifest vouches for.

        Raises:
          CheckpointError: the error proves nothing about the step.
          Exception: ``error`` itself, where another process is to blame.
        """
        several = jax.process_count() > 1
        if several and distributed.is_peer_loss(error):
            raise error
        if whole or _is_out_of_memory(error):
            raise self._left_alone(step, error) from error
        try:
            file_digests(self.folder / str(step))
        except OSError as unreadable:
            if unreadable.errno not in (errno.EIO, errno.ENOENT):
                raise self._left_alone(step, unreadable) from error
        if several:
            # The others wait inside the collective load: leave, and skip this step next time.
            logging.error("step %d: %s; restart to fall back", step, error)
            self._move_aside(step)
            distributed.shut_down(distributed.PEER_LOST)
        return f"{type(error).__name__}: {error}"

    def _left_alone(self, step: int, error: Exception) -> CheckpointError:
        if _is_out_of_memory(error):
            advice = "use more devices, or shard the state with mesh.fsdp"
        else:
            advice = "nothing says that it is damaged: start again once this is put right"
        return CheckpointError(
            f"the checkpoint of step {step} in {self.folder} cannot be loaded and is left as it "
            f"is; {advice} ({type(error).__name__}: {error})"
        )

    def _set_aside(self, step: int, problem: str) -> None:
        if distributed.is_lead():
            target = self._move_aside(step)
            logging.error("checkpoint of step %d is damaged (%s); moved to %s",
                          step, problem, target)  # fmt: skip
        distributed.barrier(f"set aside {step}")
        self._orbax.reload()

    def _move_aside(self, step: int) -> Path:
        target = self.folder.parent / f"damaged-{step}-{time.strftime('%Y%m%d-%H%M%S')}"
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.replace(self.folder / str(step), target)
        (self.manifests / f"{step}.json").unlink(missing_ok=True)
        return target

    def close(self) -> bool:
        """Waits for what is under way and lets go of the folder; see ``finish``."""
        ok = self.finish()
        try:
            self._orbax.close()
        except Exception as error:  # the failure that finish has reported, raised once more
            if ok:
                raise
            logging.debug("closing after a failed save: %s", error)
        return ok


def _is_out_of_memory(error: BaseException) -> bool:
    return any(
        isinstance(e, MemoryError) or "RESOURCE_EXHAUSTED" in str(e)
        for e in distributed.causes(error)
    )


def read(
    folder: Path, wanted: Mapping[str, Any], step: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts of the newest step of a run that is whole; nothing in its folder is touched.

    Args:
      folder: where the run keeps its checkpoints; it may be writing there.
      wanted: fields of the run's state and their shapes; what is empty is left out.
      step: this one and no other.

    Returns:
      The same fields, and the facts saved with them.

    Raises:
      CheckpointError: there is no step, or none is whole; says what is wrong with each.
    """
    there = sorted((int(p.name) for p in folder.glob("*") if p.name.isdigit()), reverse=True)
    problems = [] if there else ["there is none yet"]
    for number in there if step is None else [step]:
        try:
            found = _read_step(folder.absolute() / str(number), wanted)
        except Exception as error:  # Orbax documents none, and may recite the whole tree
            problems.append(f"step {number}: {type(error).__name__}: {str(error)[:300]}")
            continue
        for problem in problems:
            logging.warning("%s: %s; step %d is used", folder, problem, number)
        return found
    raise CheckpointError(f"no whole checkpoint in {folder}: " + "; ".join(problems))


def _read_step(path: Path, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    facts = dict(ocp.checkpointables_metadata(path).custom_metadata or {})
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        found = ocp.load_checkpointables(path, {"state": _filled(wanted)})["state"]
    for place, leaf in jax.tree_util.tree_leaves_with_path(found):
        if not isinstance(leaf, jax.Array):
            name = jax.tree_util.keystr(place, simple=True, separator="/")
            raise ValueError(f"{name} is absent: another model, or written by another version")
    # A field of the state is an attribute there, and a key here.
    now = {
        f".{field}{place}": digest
        for field, part in found.items()
        for place, digest in fingerprint(part).items()
    }
    known = facts.get("fingerprint", {})
    if wrong := [p for p, digest in now.items() if known.get(p) != digest]:
        raise ValueError(f"the fingerprint of {wrong[0]} differs")
    return found, facts


def _filled(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree without its empty branches, which not every step has."""
    parts = {k: _filled(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
    return {k: v for k, v in parts.items() if v is not None and v != {}}
