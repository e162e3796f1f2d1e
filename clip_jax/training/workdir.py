"""The folder of a run, which decides what a launch does: its lock, config, tokenizer, result."""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from clip_jax import config as config_lib
from clip_jax import tokenizers
from clip_jax.data.pairs import registry
from clip_jax.data.pairs.base import Source
from clip_jax.data.preprocess import Preprocess
from clip_jax.runtime import distributed
from clip_jax.runtime.atomic import write_atomically
from clip_jax.runtime.integrity import Mismatch

CAPTIONS = 200_000  # the most that a run's tokenizer is trained on


class WorkdirInUse(RuntimeError):
    """Another launch is writing into the same workdir."""

    exit_code = distributed.IN_USE


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Makes the folder and holds its lock; the kernel drops it however the process ends.

    Raises:
      WorkdirInUse: another process holds it.
      OSError: the folder cannot be made or written.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkdirInUse(
                f"--workdir={workdir} is being used by another process; wait for it, or give "
                "another --workdir"
            ) from None
        yield


def check_shared(workdir: Path, patience: float = 10.0) -> None:
    """Makes sure that all processes see the same folder, by a file that the lead leaves in it.

    Args:
      workdir: the folder; the lead's exists.
      patience: seconds that a network file system may take to show the file.

    Raises:
      ValueError: they do not. On all processes, so that none waits for the others.
    """
    if jax.process_count() == 1:
        return
    token = workdir / f".shared-{distributed.broadcast_from_lead(int.from_bytes(os.urandom(4)))}"
    if distributed.is_lead():
        token.touch()
    distributed.barrier("workdir")
    deadline = time.monotonic() + patience
    while not (seen := token.is_file()) and time.monotonic() < deadline:
        time.sleep(0.2)
    shared = distributed.all_hosts(seen)
    if distributed.is_lead():
        token.unlink(missing_ok=True)
    if not shared:
        raise ValueError(
            f"--workdir={workdir} is not one folder for all {jax.process_count()} processes: "
            f"{'another process does' if seen else 'this process does'} not see what the first "
            "one wrote there; give a folder on a file system that all of them share"
        )


def check_config(workdir: Path, config: ConfigDict) -> None:
    """Compares the config with the one stored in the workdir.

    Raises:
      Mismatch: they differ in a key that changes the run; the message lists all of them.
    """
    path = workdir / "config.json"
    if not path.is_file():
        return
    different = config_lib.differences(json.loads(path.read_bytes()), config)
    if different:
        lines = "\n  ".join(different)
        raise Mismatch(
            f"--workdir={workdir} holds a run with another config:\n  {lines}\n"
            "Give another --workdir for a new run, or the old values to continue this one."
        )


def check_metadata(
    workdir: Path, stored: Mapping[str, object], present: Mapping[str, object]
) -> None:
    """Compares metadata in a checkpoint with those of this launch.

    Raises:
      Mismatch: the data, the tokenizer or the preprocessing is not what the run began with.
    """
    for key, value in present.items():
        if stored.get(key) != value:
            raise Mismatch(
                f"--workdir={workdir}: {key} was {stored.get(key)} when this run began and is "
                f"{value} now; restore it, or give another --workdir for a new run"
            )


def model_metadata(preprocess: Preprocess, tokenizer: tokenizers.Tokenizer) -> dict[str, str]:
    """What a model's inputs go through before it: stored with every checkpoint."""
    return {
        "preprocessing": json.dumps(preprocess.to_dict(), sort_keys=True),
        "tokenizer fingerprint": tokenizer.fingerprint,
    }


def build_tokenizer(config: ConfigDict, folder: Path, source: Source) -> tokenizers.Tokenizer:
    """The tokenizer, a SentencePiece model being trained on the captions where none is given."""
    c = config.tokenizer
    if c.name != "sentencepiece" or c.model:
        return tokenizers.build(c.name, c.context_length, c.model or None)
    if distributed.is_lead():
        train_tokenizer(folder, config, source)
    distributed.barrier("tokenizer")
    return tokenizers.build(c.name, c.context_length, folder / "tokenizer.model")


def train_tokenizer(workdir: Path, config: ConfigDict, source: Source) -> Path:
    """The SentencePiece model of a run, trained on its captions where that has not been done.

    It is stored in the workdir: the run depends on nothing that can change outside it. A file
    beside it says what it was trained on, so that a launch which fails leaves no tokenizer to a
    later one with other data or another vocabulary.

    Raises:
      Mismatch: the run has begun, with a tokenizer from other data.
      DataError: too many captions are unreadable.
      ValueError: the captions do not give a vocabulary of this size.
    """
    path, beside = workdir / "tokenizer.model", workdir / "tokenizer.json"
    metadata = {
        "data fingerprint": source.fingerprint,
        "tokenizer.vocab_size": config.tokenizer.vocab_size,
        "tokenizer.model_type": config.tokenizer.model_type,
        "seed": config.seed,
        "number of captions for the tokenizer": CAPTIONS,
    }
    if path.is_file():
        present = metadata | {"sha256 of tokenizer.model": _sha256(path)}
        stored = json.loads(beside.read_bytes()) if beside.is_file() else {}
        if (workdir / "config.json").is_file():
            # What a run did not note here is compared with its checkpoints.
            check_metadata(workdir, stored, {k: v for k, v in present.items() if k in stored})
            return path
        if stored == present:
            return path
    size, kind = config.tokenizer.vocab_size, config.tokenizer.model_type
    what = f"{'up to ' if kind == 'word' else ''}{size} {'words' if kind == 'word' else 'pieces'}"
    print(f"training a SentencePiece tokenizer of {what} on the captions", flush=True)
    texts = registry.captions(
        source, CAPTIONS, seed=config.seed, max_bad_fraction=config.data.max_bad_fraction
    )
    tokenizers.train_sentencepiece(texts, size, path, model_type=kind, seed=config.seed)
    write_json(beside, metadata | {"sha256 of tokenizer.model": _sha256(path)})
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Writes indented JSON, whole or not at all."""
    write_atomically(path, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")
