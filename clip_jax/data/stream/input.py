"""A run's input: who reads its rows, with which decoder, and what that decoder changes."""

import dataclasses
import importlib.metadata
import os
import socket
from collections.abc import Callable

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
COMPARED = 32  # images, when a decoder is compared with Pillow
_COMPARISON = 4  # a stream of randomness, beside those of ``data.stream.order``


def cores() -> int:
    """Cores of this machine that this process may use, shared with the run's other ones here."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if jax.process_count() == 1:
        return mine
    name = np.frombuffer(socket.gethostname().encode().ljust(64)[:64], np.uint8)
    names = multihost_utils.process_allgather(name)
    return max(1, mine // int((np.asarray(names) == name).all(axis=-1).sum()))


def choose_readers(data: ConfigDict) -> tuple[Readers, str]:
    """Who reads the rows, and why. All processes must call it.

    ``data.workers="auto"``: as many processes as there are cores, but one, where an accelerator
    waits for the images; threads on few cores, for images that are kept in memory, and where the
    cores themselves train.
    """
    have = cores()
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
            workers, reason = have - 1, f"{have} cores"
    readers = Readers(threads=data.threads, workers=workers, prefetch=data.prefetch)
    who = f"{data.threads} thread(s)"
    if workers:
        who = f"{workers} worker process(es) of {who}"
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
        self, first_step: int, steps: int, make: Callable[[Batch], Batch]
    ) -> Prefetcher[Batch]:
        """The batches of steps first_step .. steps - 1, each given to ``make`` before its step."""
        host_batches = batches.host_batches(
            self.reader,
            batch=self.config.train.batch_size,
            rows=self.rows,
            first_step=first_step,
            steps=steps,
            readers=self.readers,
        )
        return Prefetcher(host_batches, make, self.readers.prefetch)
