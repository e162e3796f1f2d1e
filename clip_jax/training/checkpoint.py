"""Saving and restoring the train state: the only module that knows Orbax.

Orbax restores damaged files without a word: a flipped bit comes back as a wrong weight. So every
save carries, inside its commit, an integer fingerprint of each leaf; a sha256 manifest of its
files follows once they are written. A restore checks both, and falls back to the newest step that
is whole. A step that is proven damaged is moved aside and named; whatever else goes wrong while
loading (another model, no memory, a lost process) leaves the files alone.
"""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from clip_jax.runtime import distributed
from clip_jax.runtime.integrity import Mismatch, check_tree, fingerprint
from clip_jax.runtime.mesh import PyTree
from clip_jax.training.verification import CheckpointError, Manifests

Metadata = dict[str, Any]  # what JSON can hold
Abstract = Callable[[Metadata], PyTree]  # of the state of a step with these metadata


def _report_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
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
        self.manifests = Manifests(self.folder)
        if distributed.is_lead():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.manifests.path.mkdir(exist_ok=True)
        distributed.barrier("checkpoint folders")
        training = ocp.training
        self._orbax = training.Checkpointer(
            self.folder,
            # One more than asked: a step that has not been verified must not push out the last
            # one that has.
            preservation_policy=training.preservation_policies.LatestN(keep + 1),
            cleanup_tmp_directories=True,
        )
        self._pending: tuple[int, ocp.AsyncResponse] | None = None
        self._failed = False  # whether the newest save has failed
        self._hashing: threading.Thread | None = None
        if sys.unraisablehook is sys.__unraisablehook__:
            sys.unraisablehook = _report_unraisable

    def save(self, step: int, state: PyTree, metadata: Metadata) -> None:
        """Starts a save in the background; the state may be donated as soon as this returns.

        A save that fails (disk full, say) is reported and the run goes on: the step before it is
        untouched and the next save tries again; ``finish`` and ``close`` return False.
        """
        self.finish()
        self._failed = False
        metadata = metadata | {"step": step, "fingerprint": fingerprint(state)}
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
            message = "checkpoint at step %d not written: %s: %s; the one before it is intact"
            logging.error(message, step, type(error).__name__, error)
            self._failed = True
            return
        if distributed.is_lead():
            arguments = step, self.steps()
            self._hashing = threading.Thread(target=self.manifests.write, args=arguments)
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

    def steps(self) -> list[int]:
        """The steps there are, newest first."""
        return sorted((c.step for c in self._orbax.checkpoints), reverse=True)

    def kept(self) -> str:
        """The end of a message that ends a run: which step there is to go on from, if any."""
        steps = [s for s in self.steps() if (self.folder / str(s)).is_dir()]  # written out
        return f". The checkpoint of step {steps[0]} is intact" if steps else ""

    def _agreed_steps(self, patience: float = 10.0) -> list[int]:
        """The steps there are, newest first; a network file system may take a while to show them.

        Raises:
          CheckpointError: processes see different ones. On all, so that none waits for the others.
        """
        deadline = time.monotonic() + patience
        while not distributed.identical_on_all_hosts(steps := self.steps()):
            if not distributed.all_hosts(time.monotonic() < deadline):
                raise CheckpointError(
                    f"processes see different checkpoints in {self.folder} (this one: {steps}); "
                    "--workdir must be one folder that all of them share"
                )
            time.sleep(1)
            self._orbax.reload()
        return steps

    def restore(self, abstract: Abstract) -> tuple[PyTree, Metadata] | None:
        """The newest step that is whole; None if there is no step.

        Args:
          abstract: shapes and shardings of the state of a step, by the metadata stored with it;
            raises Mismatch where there is no such state.

        Raises:
          CheckpointError: there are steps, or have been, and every one is damaged; or one that is
            not damaged cannot be loaded here.
          Mismatch: a step holds another model's state.
        """
        for step in self._agreed_steps():
            distributed.heartbeat(f"restoring step {step}")
            whole, problem = self.manifests.check(step)
            if distributed.all_hosts(problem is None):
                state, metadata, problem = self._load(step, abstract, whole)
                if distributed.all_hosts(problem is None):
                    return state, metadata
            self._set_aside(step, problem or "another process has damage")
        aside = sorted(p.name for p in self.folder.parent.glob("damaged-*"))
        if aside:
            raise CheckpointError(
                f"all checkpoints in {self.folder} are damaged, and have been moved to "
                f"{', '.join(aside)} beside it; nothing was begun or restored. To start over, give "
                "another --workdir, or delete these folders"
            )
        return None

    def _load(
        self, step: int, abstract: Abstract, whole: bool
    ) -> tuple[PyTree, Metadata, str | None]:
        """State, metadata and None; or nothing and the damage that loading has proven.

        Raises:
          CheckpointError, Mismatch: see ``restore``.
          Exception: what was raised while loading, where another process is to blame.
        """
        try:
            stored = self._orbax.checkpointables_metadata(step)
            metadata = dict(stored.custom_metadata or {})
            if "fingerprint" not in metadata:
                raise ValueError("no fingerprint in its metadata")
            abstract_state = abstract(metadata)
            check_tree(step, metadata["fingerprint"], stored.metadata["state"], abstract_state)
            state = self._orbax.load_checkpointables(step, {"state": abstract_state})["state"]
            now = fingerprint(state)
        except Mismatch:
            raise
        except Exception as error:
            several = jax.process_count() > 1
            if several and distributed.is_peer_loss(error):
                raise
            problem = self.manifests.damage(step, error, whole)
            if several:
                # The others wait inside the collective load: leave, and skip this step next time.
                logging.error("step %d: %s; restart to fall back", step, error)
                self.manifests.move_aside(step)
                distributed.shut_down(distributed.PEER_LOST)
            return None, {}, problem
        wrong = [p for p, f in metadata["fingerprint"].items() if now.get(p) != f]
        if wrong or now.keys() != metadata["fingerprint"].keys():
            return None, {}, f"fingerprint of {(wrong or ['the tree'])[0]} differs"
        return state, metadata, None

    def _set_aside(self, step: int, problem: str) -> None:
        if distributed.is_lead():
            target = self.manifests.move_aside(step)
            message = "checkpoint of step %d is damaged (%s); moved to %s"
            logging.error(message, step, problem, target)
        distributed.barrier(f"set aside {step}")
        self._orbax.reload()

    def close(self) -> bool:
        """Waits for what is under way and closes the folder; see ``finish``."""
        ok = self.finish()
        try:
            self._orbax.close()
        except Exception as error:  # the failure that finish has reported, raised once more
            if ok:
                raise
            logging.debug("closing after a failed save: %s", error)
        return ok


def read(
    folder: Path, wanted: Callable[[Metadata], Mapping[str, PyTree]], step: int | None = None
) -> tuple[dict[str, PyTree], Metadata]:
    """Parts of the newest step of a run that is whole; nothing in its folder is touched.

    Args:
      folder: where the run keeps its checkpoints; it may be writing there.
      wanted: fields of the state of a step and their shapes, by the metadata stored with it; what
        is empty is left out.
      step: this one and no other.

    Returns:
      The same fields, and the metadata saved with them.

    Raises:
      CheckpointError: there is no step, or none is whole; says what is wrong with each.
    """
    present = sorted((int(p.name) for p in folder.glob("*") if p.name.isdigit()), reverse=True)
    problems = [] if present else ["there is none yet"]
    for number in present if step is None else [step]:
        try:
            parts = _read_step(folder.absolute() / str(number), wanted)
        except Exception as error:  # Orbax documents none, and may recite the whole tree
            problems.append(f"step {number}: {type(error).__name__}: {str(error)[:300]}")
            continue
        for problem in problems:
            logging.warning("%s: %s; step %d is used", folder, problem, number)
        return parts
    raise CheckpointError(f"no whole checkpoint in {folder}: " + "; ".join(problems))


def _read_step(
    path: Path, wanted: Callable[[Metadata], Mapping[str, PyTree]]
) -> tuple[dict[str, PyTree], Metadata]:
    metadata = dict(ocp.checkpointables_metadata(path).custom_metadata or {})
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        state = ocp.load_checkpointables(path, {"state": _filled(wanted(metadata))})["state"]
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not isinstance(leaf, jax.Array):
            name = jax.tree_util.keystr(key_path, simple=True, separator="/")
            raise ValueError(f"{name} is absent: another model, or written by another version")
    # A field of the state is an attribute there, and a key here.
    now = {
        f".{field}{key_path}": digest
        for field, part in state.items()
        for key_path, digest in fingerprint(part).items()
    }
    known = metadata.get("fingerprint", {})
    if wrong := [p for p, digest in now.items() if known.get(p) != digest]:
        raise ValueError(f"the fingerprint of {wrong[0]} differs")
    return state, metadata


def _filled(tree: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """A tree without its empty branches, which not every step has."""
    parts = {k: _filled(v) if isinstance(v, Mapping) else v for k, v in tree.items()}
    return {k: v for k, v in parts.items() if v is not None and v != {}}
