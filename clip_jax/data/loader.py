"""The input stream: the batch of step s is a pure function of (data, seed, s).

Nothing is carried from batch to batch. A position in the stream (row of a batch, batch of the run)
names its record through a random-access shuffle, and seeds the randomness of its own decoding, so
that a run can start at any step, on any number of processes, with any number of workers, and sees
the same rows in the same order.
"""

import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Generic, TypeVar

import grain
import numpy as np
from PIL import Image

from clip_jax.config import ConfigDict
from clip_jax.data.batch import Batch
from clip_jax.data.errors import DataError
from clip_jax.data.pairs.base import Source
from clip_jax.data.transforms import augmentation, decode

PROBES = 8  # other records tried in place of an unreadable one
SAMPLINGS = ("uniform", "grouped")  # values of ``data.sampling``, see ``Order``
_SHUFFLE, _MEMBER, _PROBE = 1, 2, 3  # separate streams of randomness


class Order:
    """Stream position -> record number.

    uniform: each pass over the data is a fresh permutation of all records.
    grouped: each pass is a fresh permutation of the groups, with one record drawn from each:
    groups count alike however many records they have, and do not meet themselves in a batch.
    """

    def __init__(self, source: Source, sampling: str, seed: int):
        self.seed = seed
        self.members: list[np.ndarray] | None = None
        count = len(source)
        if count == 0:
            raise DataError("the data source has no records")
        if sampling == "grouped":
            if source.groups is None:
                raise DataError(
                    "data.sampling='grouped' needs a source whose groups are known beforehand "
                    "(emoji, synthetic); set data.sampling='uniform'"
                )
            by_group = np.argsort(source.groups, kind="stable")
            cuts = np.flatnonzero(np.diff(source.groups[by_group])) + 1
            self.members = np.split(by_group, cuts)
            weights = np.ones(count) if source.weights is None else source.weights
            self.shares = [np.cumsum(weights[m]) / weights[m].sum() for m in self.members]
            count = len(self.members)
        self.count = count
        self._permutation = grain.MapDataset.range(count).seed(seed).shuffle().repeat()

    def __call__(self, position: int) -> int:
        pick = int(self._permutation[position])
        if self.members is None:
            return pick
        draw = _rng(self.seed, _MEMBER, position).random()
        return int(self.members[pick][np.searchsorted(self.shares[pick], draw, "right")])


def _rng(seed: int, stream: int, position: int) -> np.random.Generator:
    return np.random.default_rng((seed, stream, position))


class RowReader:
    """Stream position -> one row of a batch. Called by Grain, in threads or in processes."""

    def __init__(
        self,
        source: Source,
        tokenizer: Callable[..., np.ndarray],
        data: ConfigDict,
        image_size: int,
        seed: int,
    ):
        self.source, self.tokenizer, self.image_size, self.seed = (
            source, tokenizer, image_size, seed,
        )  # fmt: skip
        self.order = Order(source, data.sampling, seed)
        self.augment = augmentation(data.augmentation, data.resize)
        self.cache: dict[int, Image.Image] | None = {} if data.cache_decoded else None
        self.warnings = 5  # per process: the counters tell the rest

    def __call__(self, position: int) -> Batch:
        """Reads a row; an unreadable record is replaced by a record that the position decides.

        The replacement keeps shapes, order and every other row as they are.
        ``unreadable`` counts the records that failed.

        Raises:
          DataError: ``PROBES`` replacements failed too.
        """
        index = self.order(position)
        for attempt in range(PROBES + 1):
            try:
                return self._read(index, position, attempt)
            except Exception as error:  # whatever the data did, the run goes on
                self._warn(index, error)
                last = error
            index = int(_rng(self.seed, _PROBE + attempt, position).integers(len(self.source)))
        raise DataError(
            f"{PROBES + 1} records in a row cannot be read, the last being "
            f"{self.source.describe(index)}: {last}"
        )

    def _read(self, index: int, position: int, unreadable: int) -> Batch:
        rng = _rng(self.seed, 0, position)
        example = self.source.read(index, rng)
        image = self._decode(index, example.image)
        return Batch(
            images=self.augment(image, self.image_size, rng),
            tokens=self.tokenizer([example.caption])[0],
            groups=np.int32(example.group),
            unreadable=np.int32(unreadable),
            preempted=np.int32(0),
        )

    def _decode(self, index: int, image: bytes | np.ndarray) -> Image.Image:
        if self.cache is not None and index in self.cache:
            return self.cache[index]
        decoded = decode(image)
        if self.cache is not None:
            self.cache[index] = decoded
        return decoded

    def _warn(self, index: int, error: Exception) -> None:
        if self.warnings > 0:
            self.warnings -= 1
            logging.warning("unreadable record %s: %s", self.source.describe(index), error)


class _Batches:
    """Step -> this process's rows of its batch, as a random-access source for Grain.

    Threads read the rows of one batch side by side: if they each made a batch, as many batches as
    threads would be in memory, of 4.9 GB each at the paper's 32,768 images.
    """

    def __init__(self, reader: RowReader, batch: int, rows: np.ndarray, steps: int, threads: int):
        self.reader, self.batch, self.rows, self.steps = reader, batch, rows, steps
        self.threads = threads
        # Small enough that the threads end together, large enough that handing out costs nothing.
        self._chunk = -(-len(rows) // (4 * threads))
        self._pool: futures.ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def __reduce__(self):
        """Workers make threads of their own."""
        return type(self), (self.reader, self.batch, self.rows, self.steps, self.threads)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        # A position is the row's place in the global batch, whichever process holds it: not only
        # the set but the order of a batch's rows is the same for every number of processes.
        positions = (int(step) * self.batch + self.rows).tolist()
        run = map if self.threads == 1 else self._threads().map
        (first,) = run(self.reader, positions[:1])
        batch = Batch(*(np.empty((len(positions), *v.shape), v.dtype) for v in first))

        def fill(start: int) -> None:
            for i in range(start, min(start + self._chunk, len(positions))):
                row = self.reader(positions[i]) if i else first
                for array, value in zip(batch, row, strict=True):
                    array[i] = value

        for _ in run(fill, range(0, len(positions), self._chunk)):
            pass  # raises what a thread has raised
        return batch

    def _threads(self) -> futures.ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = futures.ThreadPoolExecutor(self.threads, "read")
            return self._pool


def host_batches(
    reader: RowReader,
    *,
    batch: int,
    rows: np.ndarray,
    first_step: int,
    steps: int,
    threads: int = 2,
    workers: int = 0,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """This process's rows of the batches of steps first_step .. steps - 1, as NumPy arrays.

    Args:
      reader: makes a row of a position.
      batch: global batch size.
      rows: int[b], the rows of the global batch that this process holds.
      first_step, steps: where to start, and the run's length.
      threads: reading threads.
      workers: reading processes (spawned, each with ``threads`` threads); 0: none.
      prefetch: batches being made or ready; each worker has one of each and one on its way.
    """
    batches = _Batches(reader, batch, rows, steps, threads)
    # Grain's buffer counts batches, begun or ready. Two of its threads, which only wait for ours,
    # so that the rows of the next batch follow without a gap.
    ahead = 1 if workers else prefetch
    stream = grain.MapDataset.source(batches)[first_step:].to_iter_dataset(
        grain.ReadOptions(
            num_threads=1 if threads == 1 else min(2, ahead), prefetch_buffer_size=ahead
        )
    )
    if workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags
        stream = stream.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_end_with_parent
        )
    return iter(stream)


def _end_with_parent(worker: int, workers: int) -> None:
    """Makes a worker end when its parent has, however that ended: no signal ends it any more."""
    del worker, workers

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


Item = TypeVar("Item")
Made = TypeVar("Made")


class Prefetcher(Generic[Made]):
    """Runs ``make(batch)`` for upcoming items in a thread and hands the results out in order.

    Attributes:
      waited: seconds the consumer has spent waiting, in all.
    """

    _END = object()

    def __init__(self, items: Iterator[Item], make: Callable[[Item], Made], depth: int):
        self.waited = 0.0
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(items, make), name="prefetch", daemon=True
        )
        self._thread.start()

    def _run(self, items: Iterator[Item], make: Callable[[Item], Made]) -> None:
        # Grain starts its workers from here, and they inherit what this thread blocks. A terminal
        # sends Ctrl-C, and a scheduler its stop, to them too, but the run needs them until it has
        # taken its last step and saved. Signals to this process go to its main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            for item in items:
                if not self._put(make(item)):
                    return
            self._put(self._END)
        except BaseException as error:  # handed over to the consumer, whatever it is
            self._put(error)

    def _put(self, item: object) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> "Prefetcher[Made]":
        return self

    def __next__(self) -> Made:
        start = time.perf_counter()
        item = self._queue.get()
        self.waited += time.perf_counter() - start
        if item is self._END:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stops the thread; what it had prepared is dropped."""
        self._closed.set()
        self._thread.join(timeout=10)
