"""This process's rows of every batch, read by threads or by worker processes.

What a worker process makes at a time is a chunk of rows, not a batch: chunks travel through shared
memory, which is limited (to 64 MB in a container, by default), and a batch of 4,096 images of
224 px has 617 MB.
"""

import dataclasses
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent import futures
from multiprocessing import resource_tracker

import grain
import numpy as np

from clip_jax.data.batch import Batch
from clip_jax.data.stream.rows import RowReader

SHARED_MEMORY = "/dev/shm"
MAX_SHARED_BYTES = 1 << 30  # of shared memory, for the chunks of all workers on a machine
CHUNKS_OF_A_WORKER = 4  # in shared memory: waiting, in the queue, in Grain's buffer, in its hand


@dataclasses.dataclass(frozen=True)
class Readers:
    """Who reads the rows.

    Attributes:
      threads: reading threads, where there are no workers: those have one each.
      workers: reading processes; 0: this process's threads.
      prefetch: batches being made or ready.
      processes: of the run on this machine, which share its memory.
    """

    threads: int = 2
    workers: int = 0
    prefetch: int = 2
    processes: int = 1


class _Chunks:
    """Number of a chunk -> its rows, as a random-access source for Grain.

    Threads read the rows of one chunk side by side: if they each made a chunk of their own, as many
    batches as threads would be in memory, of 4.9 GB each at the paper's 32,768 images.
    """

    def __init__(self, reader: RowReader, positions: "_Positions", threads: int, stride: int):
        self.reader, self.positions, self.threads, self.stride = reader, positions, threads, stride
        self._announced = -1
        self._pool: futures.ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def __reduce__(self):
        """Workers make threads of their own."""
        return type(self), (self.reader, self.positions, self.threads, self.stride)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, chunk: int) -> Batch:
        positions = self.positions[int(chunk)]
        self._announce(int(chunk))
        run = map if self.threads == 1 else self._threads().map
        (first,) = run(self.reader, positions[:1])
        batch = Batch(*(np.empty((len(positions), *v.shape), v.dtype) for v in first))
        # Small enough that the threads end together, large enough that handing out costs nothing.
        share = -(-len(positions) // (4 * self.threads))

        def fill(start: int) -> None:
            for i in range(start, min(start + share, len(positions))):
                row = self.reader(positions[i]) if i else first
                for array, value in zip(batch, row, strict=True):
                    array[i] = value

        for _ in run(fill, range(0, len(positions), share)):
            pass  # raises what a thread has raised
        return batch

    def _announce(self, chunk: int) -> None:
        """Tells the source of this chunk, if it has not been told, and of the reader's next."""
        with self._lock:
            for number in (chunk, chunk + self.stride):
                if self._announced < number < len(self):
                    self.reader.will_read(self.positions[number])
                    self._announced = number

    def _threads(self) -> futures.ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = futures.ThreadPoolExecutor(self.threads, "read")
            return self._pool


@dataclasses.dataclass(frozen=True)
class _Positions:
    """Number of a chunk -> the stream positions of its rows.

    A position is a row's place in the global batch, whichever process holds it: not only the set
    but the order of a batch's rows is the same for every number of processes.

    Attributes:
      batch: global batch size.
      rows: int[b], the rows of the global batch that this process holds.
      size: rows of a chunk; the last one of a batch may have fewer.
      steps: number of batches.
      first: stream position of the first batch's first row.
    """

    batch: int
    rows: np.ndarray
    size: int
    steps: int
    first: int = 0

    @property
    def chunks(self) -> int:
        """Chunks of a batch."""
        return -(-len(self.rows) // self.size)

    def __len__(self) -> int:
        return self.steps * self.chunks

    def __getitem__(self, chunk: int) -> list[int]:
        step, part = divmod(chunk, self.chunks)
        rows = self.rows[part * self.size : (part + 1) * self.size]
        return (self.first + step * self.batch + rows).tolist()


def host_batches(
    reader: RowReader,
    *,
    batch: int,
    rows: np.ndarray,
    first_step: int,
    steps: int,
    first_position: int = 0,
    readers: Readers = Readers(),
) -> Iterator[Batch]:
    """This process's rows of the batches of steps first_step .. steps - 1, as NumPy arrays.

    Args:
      reader: makes a row of a position.
      batch: global batch size.
      rows: int[b], the rows of the global batch that this process holds.
      first_step, steps: where to start, and how many steps there are.
      first_position: in the stream, of step 0.
      readers: threads, processes and buffers.
    """
    if readers.workers:
        image = 3 * reader.image_size**2
        size = chunk_rows(len(rows), image, readers)
        positions = _Positions(batch, rows, size, steps, first_position)
        return _from_workers(reader, positions, first_step, readers)
    positions = _Positions(batch, rows, len(rows), steps, first_position)
    batches = _Chunks(reader, positions, readers.threads, stride=1)
    # Grain's buffer counts batches, begun or ready. Two of its threads, which only wait for ours,
    # so that the rows of the next batch follow without a gap.
    waiting = 1 if readers.threads == 1 else min(2, readers.prefetch)
    return iter(
        grain.MapDataset.source(batches)[first_step:].to_iter_dataset(
            grain.ReadOptions(num_threads=waiting, prefetch_buffer_size=readers.prefetch)
        )
    )


def _from_workers(
    reader: RowReader, positions: _Positions, first_step: int, readers: Readers
) -> Iterator[Batch]:
    """``host_batches`` in worker processes."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags
    # Started by the thread that starts the workers, it would let them hear the signals that are
    # blocked there.
    resource_tracker.ensure_running()
    source = _Chunks(reader, positions, threads=1, stride=readers.workers)
    chunks = (
        grain.MapDataset.source(source)[first_step * positions.chunks :]
        .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        .mp_prefetch(
            grain.MultiprocessingOptions(num_workers=readers.workers),
            worker_init_fn=_begin_worker,
        )
    )
    # The images alone through shared memory: for less, a block of it costs more than it saves.
    options = grain.experimental.DatasetOptions(min_shm_size=1 << 16)
    chunks = grain.experimental.WithOptionsIterDataset(chunks, options)
    return _joined(iter(chunks), positions.chunks, len(positions.rows))


def chunk_rows(rows: int, row_bytes: int, readers: Readers) -> int:
    """Rows that a worker makes at a time: those of all workers make up the batches to prefetch,
    as far as shared memory has room.

    Args:
      rows: of a batch, on this process.
      row_bytes: of an image.
      readers: the number of workers, and of batches to prefetch.
    """
    try:
        room = min(MAX_SHARED_BYTES, shutil.disk_usage(SHARED_MEMORY).free // 2)
    except OSError:  # no such folder: shared memory is not a file system here
        room = MAX_SHARED_BYTES
    room //= readers.processes
    chunks = CHUNKS_OF_A_WORKER * readers.workers + 1  # the last one is being copied
    wanted = min(readers.prefetch * rows // chunks, room // (chunks * row_bytes), rows)
    # Chunks of one size: a batch's last one would else be a small one that costs as much.
    return -(-rows // -(-rows // max(1, wanted)))


def _joined(chunks: grain.DatasetIterator, count: int, rows: int) -> Iterator[Batch]:
    """Batches from ``count`` chunks each, copied out of shared memory."""
    try:
        for chunk in chunks:
            batch = Batch(*(np.empty((rows, *v.shape[1:]), v.dtype) for v in chunk))
            start = 0
            for part in range(count):
                if part:
                    chunk = next(chunks)
                stop = start + len(chunk.groups)
                for array, value in zip(batch, chunk, strict=True):
                    array[start:stop] = value
                start = stop
            yield batch
    except RuntimeError as error:
        if "exit code -7" in str(error):  # SIGBUS
            raise RuntimeError(
                f"a reading process found no room in {SHARED_MEMORY}, which something else fills: "
                "give the machine or container more (docker: --shm-size), or set data.workers=0"
            ) from error
        raise
    finally:
        chunks.close()  # ends the workers


def _begin_worker(worker: int, workers: int) -> None:
    """Makes a worker end when its parent has, however that ended: no signal ends it any more."""
    del worker, workers
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    # kornia-rs would start a thread a core in every worker.
    os.environ.setdefault("RAYON_NUM_THREADS", "1")

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
