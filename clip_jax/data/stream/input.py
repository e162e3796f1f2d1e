"""A run's input: who reads its rows, with which decoder, and what that decoder changes."""

import dataclasses
import importlib.metadata
import math
import os
import socket
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from clip_jax.data import decoders
from clip_jax.data.batch import Batch
from clip_jax.data.decoders import Difference
from clip_jax.data.pairs.base import Source
from clip_jax.data.stream import batches
from clip_jax.data.stream.batches import Readers
from clip_jax.data.stream.order import generator
from clip_jax.data.stream.prefetcher import Prefetcher
from clip_jax.data.stream.rows import RowReader
from clip_jax.tokenizers import Tokenizer

LEAST_CORES = 4  # of a process, from which on workers are worth what they cost
MOST_WORKERS = 32  # unless data.workers says more: each has a copy of the list of records
COMPARED = 32  # images, when a decoder is compared with Pillow
_COMPARISON = 4  # a stream of randomness, beside those of ``data.stream.order``


def usable_cores() -> set[int]:
    """The cores of this machine that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quota() -> float:
    """Cores' worth of time that a container may use; infinite where nothing limits it."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return float(quota) / float(period)
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf


def _machine() -> str:
    """What identifies this machine; containers on it have names of their own."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return socket.gethostname()


def cores() -> tuple[int, int]:
    """Cores for this process, and processes of the run on this machine. All must call it.

    Processes that may use the same cores share them; a scheduler may have given each its own.
    """
    mine = usable_cores()
    keys = [_machine(), f"{_machine()} {sorted(mine)}"]
    digests = np.array([zlib.crc32(key.encode()) for key in keys], np.uint32)
    everyone = digests[None]
    if jax.process_count() > 1:
        everyone = np.asarray(multihost_utils.process_allgather(digests))
    here, sharing = (everyone == digests).sum(0).tolist()
    return max(1, int(min(len(mine), _quota()) // sharing)), here


def choose_readers(data: ConfigDict) -> tuple[Readers, str]:
    """Who reads the rows, and why. All processes must call it.

    ``data.workers="auto"``: as many processes as there are cores, but one, where an accelerator
    waits for the images; threads on few cores, for images that are kept in memory, and where the
    cores themselves train.
    """
    have, processes = cores()
    workers, reason = data.workers, "as data.workers says"
    if workers == "auto":
        workers = 0
        if jax.default_backend() == "cpu":
            reason = "the cores themselves train"
        elif data.cache_decoded:
            reason = "decoded images are kept in memory"
        elif have < LEAST_CORES:
            reason = f"{have} core(s)"
        else:
            workers, reason = min(have - 1, MOST_WORKERS), f"{have} cores"
    readers = Readers(data.threads, workers, data.prefetch, processes)
    who = f"{workers} worker(s)" if workers else f"{data.threads} thread(s)"
    return readers, f"{who} a process ({reason}), decoder {data.decoder}"


def measure_decoder(
    data: ConfigDict, source: Source, image_size: int, seed: int
) -> Difference | None:
    """Compares ``data.decoder`` with Pillow on some of a source's images; None for Pillow itself,
    and where none of them can be read.
    """
    if data.decoder == "pillow":
        return None
    rng = generator(seed, _COMPARISON, 0)
    images = []
    for index in rng.choice(len(source), min(COMPARED, len(source)), replace=False).tolist():
        try:
            images.append(source.read(index, rng).image)
        except Exception:  # counted where it is trained on
            continue
    return decoders.difference(data.decoder, images, image_size, data.resize)


class Input:
    """The batches of a run, on this process.

    Attributes:
      readers: who reads the rows.
      difference: what ``data.decoder`` changes on this data, if it is not Pillow.
    """

    def __init__(
        self,
        config: ConfigDict,
        source: Source,
        tokenizer: Tokenizer,
        image_size: int,
        rows: np.ndarray,
    ):
        """``rows`` are the rows of the global batch that this process holds."""
        self.config, self.rows = config, rows
        self.reader = RowReader(source, tokenizer, config.data, image_size, config.seed)
        self.readers, self._chosen = choose_readers(config.data)
        self.difference = measure_decoder(config.data, source, image_size, config.seed)

    def describe(self) -> str:
        """What the run's start says of it: one or two lines."""
        lines = [f"input: {self._chosen}"]
        if self.difference is not None:
            lines.append(f"decoder {self.difference}")
        return "\n".join(lines)

    def metadata(self) -> dict[str, object]:
        """What a checkpoint says of the decoder that its images came through."""
        if self.difference is None:
            return {}
        packages = ["pillow"]
        if self.difference.decoder == "fast":
            packages += ["simplejpeg", "kornia-rs"]
        versions = {name: importlib.metadata.version(name) for name in packages}
        return {"decoder": dataclasses.asdict(self.difference) | {"versions": versions}}

    def start(
        self, first_step: int, steps: int, make: Callable[[Batch], Batch], first_position: int = 0
    ) -> Prefetcher[Batch]:
        """The batches of steps first_step .. steps - 1, each given to ``make`` before its step;
        ``first_position`` is where step 0 begins in the stream of the data.
        """
        host_batches = batches.host_batches(
            self.reader,
            batch=self.config.train.batch_size,
            rows=self.rows,
            first_step=first_step,
            steps=steps,
            first_position=first_position,
            readers=self.readers,
        )
        return Prefetcher(host_batches, make, self.readers.prefetch)
