"""Saving and restoring the train state: the only room that knows Orbax.

Orbax restores damaged files without a word: a flipped bit comes back as a wrong weight. So every
save carries, inside its commit, an integer fingerprint of each leaf; a sha256 manifest of its
files follows once they are written. A restore checks both, and falls back to the newest step that
is whole. A step that is not is moved aside and named.
"""

import contextlib
import hashlib
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from clip_jax import distributed
from clip_jax.atomic import write_atomically


class CheckpointError(RuntimeError):
    """No checkpoint can be restored, or none can be written; the message says which and why."""


def _report_unraisable(unraisable: Any) -> None:
    """Leaves out what the writes of a failed save say when they end after their event loop.

    Orbax reports the first failure of a save and closes its loop under the other writes; each of
    them would print a traceback of its own over the one line that says what happened.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _mix(x: jax.Array, multiplier: int) -> jax.Array:
    """A bijection of 32-bit integers (the finaliser of MurmurHash3, with a varying factor)."""
    x = (x ^ (x >> 16)) * jnp.uint32(multiplier)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _leaf_fingerprint(x: jax.Array) -> jax.Array:
    """uint32[2]: changes whenever one element changes, whatever the sharding.

    Two sums over bijective mixes of (bits, position): integer addition does not depend on order,
    so that no device count and no layout changes the result.
    """
    if jnp.issubdtype(x.dtype, jnp.floating):
        width = {2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)
    else:
        bits = x.astype(jnp.uint32)
    position = jnp.zeros(x.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(x.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride)
        stride = stride * x.shape[axis] % 2**32
    keyed = bits ^ _mix(position, 0x9E3779B1)
    return jnp.stack([_mix(keyed, m).sum(dtype=jnp.uint32) for m in (0x85EBCA6B, 0x27D4EB2F)])


@jax.jit
def _fingerprints(tree: Any) -> list[jax.Array]:
    return [_leaf_fingerprint(x) for x in jax.tree.leaves(tree)]


def fingerprint(tree: Any) -> dict[str, str]:
    """Path of each leaf -> 16 hex digits that identify its contents on any mesh."""
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    sums = jax.device_get(_fingerprints(tree))
    return {p: f"{int(a):08x}{int(b):08x}" for p, (a, b) in zip(paths, sums, strict=True)}


def combined(fingerprints: dict[str, str]) -> str:
    """One hex string for a whole tree."""
    return hashlib.sha256(json.dumps(fingerprints, sort_keys=True).encode()).hexdigest()[:32]


def _file_digests(folder: Path, share: int = 0, of: int = 1) -> dict[str, str]:
    """Relative path -> sha256 of every ``of``-th file of a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files[share::of]
    }


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
        self._hashing: threading.Thread | None = None
        if sys.unraisablehook is sys.__unraisablehook__:
            sys.unraisablehook = _report_unraisable

    def save(self, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Starts a save in the background; the state may be donated as soon as this returns.

        A save that fails (disk full, say) is reported and the run goes on: the step before it is
        untouched and the next save tries again.
        """
        self.finish()
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

    def poll(self) -> bool:
        """Completes a save that has been written meanwhile; cheap, for every step.

        Returns False if the save failed. The step before it is intact then.
        """
        if self._pending is None or self._orbax.is_saving_in_progress():
            return True
        step, response = self._pending
        self._pending = None
        try:
            response.result()
        except Exception as error:
            logging.error(
                "checkpoint at step %d not written: %s: %s; the one before it is intact",
                step, type(error).__name__, error,
            )  # fmt: skip
            return False
        if distributed.is_lead():
            self._hashing = threading.Thread(target=self._write_manifest, args=(step,))
            self._hashing.start()
        return True

    def finish(self) -> bool:
        """Waits for a save under way and for its manifest. False if the save failed."""
        if self._pending is not None:
            with contextlib.suppress(Exception):  # poll reports it
                self._pending[1].result()
        ok = self.poll()
        if self._hashing is not None:
            self._hashing.join()
            self._hashing = None
        return ok

    def _write_manifest(self, step: int) -> None:
        try:
            digests = _file_digests(self.folder / str(step))
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

    def restore(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest step that is whole, laid out as ``abstract_state`` says; None if no step.

        Raises:
          CheckpointError: there are steps, and every one is damaged.
        """
        found = self.steps()
        for step in found:
            problem = self._damage(step)
            if not distributed.agree(problem is None):
                self._set_aside(step, problem or "another process found damage")
                continue
            state, facts, problem = self._load(step, abstract_state)
            if distributed.agree(problem is None):
                return state, facts
            self._set_aside(step, problem or "another process found damage")
        if found:
            raise CheckpointError(
                f"all checkpoints in {self.folder} are damaged (steps {found}, moved to "
                "damaged-*); nothing was restored. Start in another --workdir to begin anew"
            )
        return None

    def _damage(self, step: int) -> str | None:
        """What is wrong with the files of a step, judged by its manifest where there is one.

        Processes share the hashing; all see the same names and sizes.
        """
        path = self.manifests / f"{step}.json"
        if not path.is_file():
            return None  # killed between commit and manifest: the fingerprint must do
        try:
            expected = json.loads(path.read_bytes())
            present = _file_digests(
                self.folder / str(step), jax.process_index(), jax.process_count()
            )
        except (OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        names = sorted(str(p.relative_to(self.folder / str(step)))
                       for p in (self.folder / str(step)).rglob("*") if p.is_file())  # fmt: skip
        if names != sorted(expected):
            return f"files missing or added: {sorted(set(names) ^ set(expected))[:3]}"
        wrong = [n for n, d in present.items() if expected[n] != d]
        return f"sha256 of {wrong[0]} differs" if wrong else None

    def _load(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any], str | None]:
        try:
            facts = dict(self._orbax.checkpointables_metadata(step).custom_metadata or {})
            if "fingerprint" not in facts:
                return None, {}, "no fingerprint in its metadata"
            state = self._orbax.load_checkpointables(step, {"state": abstract_state})["state"]
            now = fingerprint(state)
        except Exception as error:
            if jax.process_count() > 1:
                # The others wait inside the collective load: leave, and skip this step next time.
                self._move_aside(step)
                logging.error("step %d: %s; restart to fall back", step, error)
                distributed.shut_down(distributed.PEER_LOST)
            return None, {}, f"{type(error).__name__}: {error}"
        wrong = [p for p, f in facts["fingerprint"].items() if now.get(p) != f]
        if wrong or now.keys() != facts["fingerprint"].keys():
            return None, {}, f"fingerprint of {(wrong or ['the tree'])[0]} differs"
        return state, facts, None

    def _set_aside(self, step: int, problem: str) -> None:
        if distributed.is_lead():
            target = self._move_aside(step)
            logging.error("checkpoint of step %d is damaged (%s); moved to %s",
                          step, problem, target)  # fmt: skip
        distributed.barrier(f"set aside {step}")
        self._orbax.reload()

    def _move_aside(self, step: int) -> Path:
        target = self.folder.parent / f"damaged-{step}-{time.strftime('%Y%m%d-%H%M%S')}"
        os.replace(self.folder / str(step), target)
        (self.manifests / f"{step}.json").unlink(missing_ok=True)
        return target

    def close(self) -> bool:
        """Waits for what is under way and lets go of the folder. False if a save failed."""
        ok = self.finish()
        try:
            self._orbax.close()
        except Exception as error:  # the failure that finish has reported, raised once more
            if ok:
                raise
            logging.debug("closing after a failed save: %s", error)
        return ok
