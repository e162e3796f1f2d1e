"""The input stream: the same rows at every step, whichever process reads them."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types

import jax
import numpy as np
import pytest

from clip_jax import config as config_lib
from clip_jax.data import batch
from clip_jax.data.batch import Batch
from clip_jax.data.errors import DataError
from clip_jax.data.pairs.synthetic import SyntheticSource
from clip_jax.data.stream import batches as stream
from clip_jax.data.stream.batches import Readers, host_batches
from clip_jax.data.stream.order import Order
from clip_jax.data.stream.prefetcher import Prefetcher
from clip_jax.data.stream.rows import RowReader


class Tokens:
    """A stand-in tokenizer: the record's number, the caption's length and its hash."""

    def __call__(self, texts, truncate=True):
        rows = [[int(t.split()[0]), len(t), sum(t.encode()) % 997, 0] for t in texts]
        return np.array(rows, np.int32)


def record(rows):
    """The numbers of the records that a batch (or a row) holds."""
    return rows.tokens[..., 0]


class Numbered(SyntheticSource):
    """Captions begin with the number of their record."""

    def caption(self, index, rng):
        return f"{index} {super().caption(index, rng)}"


class Broken:
    """A source in which some records cannot be read."""

    groups = weights = None
    fingerprint = "broken"
    reads_ahead = False

    def __init__(self, bad, size=100):
        self.bad, self.inner = set(bad), Numbered(size)

    def __len__(self):
        return len(self.inner)

    def read(self, index, rng):
        if index in self.bad:
            raise OSError(f"disk of record {index} on fire")
        return self.inner.read(index, rng)

    def describe(self, index):
        return f"record {index}"


def reader(source=None, seed=0, **changes):
    data = config_lib.defaults().data
    data.update(changes)
    source = Numbered(200) if source is None else source
    return RowReader(source, Tokens(), data, 8, seed)


def batches(r, rows=range(16), first_step=0, steps=6, **options):
    return list(
        host_batches(
            r,
            batch=16,
            rows=np.array(rows),
            first_step=first_step,
            steps=steps,
            readers=Readers(**options),
        )
    )


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for key, a_value, b_value in zip(Batch._fields, x, y, strict=True):
            np.testing.assert_array_equal(a_value, b_value, err_msg=key)


@pytest.fixture(scope="module")
def whole():
    return batches(reader())


def test_shapes_and_types(whole):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for got, want in zip(whole[0], batch.abstract(16, 8, 4, sharding), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)


def test_the_loader_asks_nobody_to_stop(whole):
    assert not any(b.preempted.any() for b in whole)


def test_a_run_can_start_at_any_step(whole):
    for first in (1, 3, 5):
        assert_same(batches(reader(), first_step=first), whole[first:])


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_do_not_matter(whole, threads):
    assert_same(batches(reader(), threads=threads), whole)


@pytest.mark.parametrize("prefetch", [1, 5])
def test_buffers_do_not_matter(whole, prefetch):
    assert_same(batches(reader(), prefetch=prefetch, threads=3), whole)


class Counted(Numbered):
    """Knows how many images have been read, and how many threads are reading at once."""

    def __init__(self, threads):
        super().__init__(1000)
        self.read_so_far, self.reading, self.most = 0, 0, 0
        self.lock = threading.Lock()
        self.threads, self.all_reading = threads, threading.Event()

    def read(self, index, rng):
        with self.lock:
            self.read_so_far += 1
            self.reading += 1
            self.most = max(self.most, self.reading)
            if self.reading == self.threads:
                self.all_reading.set()
            alone = self.read_so_far == 1  # the first image says how large a batch's memory is
        if not alone:
            self.all_reading.wait(timeout=30)  # a slow machine starts its threads one by one
        time.sleep(0.001)
        with self.lock:
            self.reading -= 1
        return super().read(index, rng)


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 2), (8, 1), (8, 2), (8, 4)])
def test_no_more_batches_than_asked_for_are_in_memory(threads, prefetch):
    source = Counted(threads)
    stream = host_batches(
        reader(source), batch=32, rows=np.arange(32), first_step=0, steps=50,
        readers=Readers(threads=threads, prefetch=prefetch),
    )  # fmt: skip
    for taken in range(1, 4):
        next(stream)
        for _ in range(3000):  # until as many are read as may be, on a slow machine too
            if source.read_so_far >= 32 * (taken + prefetch):
                break
            time.sleep(0.01)
        time.sleep(0.3)
        assert source.read_so_far == 32 * (taken + prefetch)
    assert source.most == threads  # within one batch


def test_a_thread_hands_over_its_error():
    with pytest.raises(DataError, match="9 records in a row"):
        batches(reader(Broken(range(100))), threads=4)


@pytest.mark.slow
def test_worker_processes_do_not_matter(whole):
    assert_same(batches(reader(), workers=2), whole)
    assert_same(batches(reader(), workers=3, first_step=2), whole[2:])


@pytest.mark.slow
def test_no_worker_hears_the_signals_that_stop_a_run():
    """A terminal and a scheduler send them to all; only the run's own process must act on them."""
    ready = Prefetcher(
        host_batches(reader(), batch=16, rows=np.arange(16), first_step=0, steps=1 << 20,
                     readers=Readers(workers=3)), lambda x: x, depth=1)  # fmt: skip
    next(ready)
    found = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/status"):
        fields = dict(
            line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line
        )
        command = (path.parent / "cmdline").read_text()
        if int(fields["PPid"]) == os.getpid() and "spawn_main" in command:
            blocked = int(fields["SigBlk"], 16)
            assert all(blocked >> (s - 1) & 1 for s in (signal.SIGINT, signal.SIGTERM))
            found += 1
    ready.close()
    assert found == 3


def test_a_worker_without_shared_memory_is_explained():
    class Chunks:
        def __iter__(self):
            return self

        def __next__(self):
            raise RuntimeError("Worker process was terminated unexpectedly with exit code -7")

        def close(self):
            self.closed = True

    chunks = Chunks()
    with pytest.raises(RuntimeError, match=r"no room in /dev/shm.*--shm-size.*data.workers=0"):
        list(stream._joined(chunks, 1, 1))
    assert chunks.closed


@pytest.mark.parametrize("size", [1, 3, 5, 16])
def test_chunks_of_any_size_make_up_the_same_batches(whole, size):
    positions = stream._Positions(16, np.arange(16), size, steps=6)
    chunks = stream._Chunks(reader(), positions, threads=2, stride=2)
    parts = (chunks[i] for i in range(2 * positions.chunks, len(positions)))
    assert_same(list(stream._joined(parts, positions.chunks, 16)), whole[2:])


def test_batches_of_another_size_go_on_where_the_stream_was(whole):
    """16 rows a step for two steps, then 8: the same rows in the same order."""
    later = host_batches(
        reader(), batch=8, rows=np.arange(8), first_step=1, steps=4, first_position=32
    )
    joined = [np.concatenate([b.images for b in part]) for part in (whole[2:4], list(later))]
    np.testing.assert_array_equal(joined[0][8:], joined[1])


@pytest.mark.parametrize("rows, size, workers, prefetch", [
    (4096, 224, 16, 2), (4096, 224, 1, 2), (32768, 336, 16, 4), (256, 224, 15, 2), (7, 8, 3, 2),
    (1, 8, 16, 1),
])  # fmt: skip
def test_chunks_fit_into_shared_memory(rows, size, workers, prefetch, monkeypatch):
    for free in (64 << 20, 1 << 40):  # a container's, and no limit
        usage = types.SimpleNamespace(free=free)
        monkeypatch.setattr(stream.shutil, "disk_usage", lambda path, usage=usage: usage)
        readers = Readers(2, workers, prefetch)
        chunk = stream.chunk_rows(rows, 3 * size**2, readers)
        assert 1 <= chunk <= rows
        held = chunk * 3 * size**2 * (4 * workers + 1)
        assert held <= min(1 << 30, free // 2) or chunk == 1
        shared = stream.chunk_rows(rows, 3 * size**2, Readers(2, workers, prefetch, processes=8))
        assert (
            8 * shared * 3 * size**2 * (4 * workers + 1) <= min(1 << 30, free // 2) or shared == 1
        )
        # Chunks of one size: the last one of a batch is no small remainder.
        assert -(-rows // chunk) * chunk - rows < -(-rows // chunk)


def test_the_source_hears_of_the_rows_that_come_next():
    source = Counted(1)
    source.reads_ahead, told = True, []
    source.will_read = told.append
    r = reader(source)
    chunks = stream._Chunks(r, stream._Positions(16, np.arange(16), 8, 3), threads=1, stride=2)
    for i in (1, 3, 5):
        chunks[i]
    # This chunk, and then that reader's next; nothing twice, nothing behind the end.
    assert told == [[r.order(8 * i + k) for k in range(8)] for i in (1, 3, 5)]


@pytest.mark.parametrize(
    "split",
    [
        [range(0, 8), range(8, 16)],
        [range(0, 16, 2), range(1, 16, 2)],
        [[0, 1, 6, 15], [2, 3, 4, 5], [7, 8, 9, 10], [11, 12, 13, 14]],
    ],
    ids=["adjacent", "interleaved", "pod"],
)
def test_processes_read_their_rows_of_the_same_batch(whole, split):
    parts = [batches(reader(), rows=rows) for rows in split]
    for step, want in enumerate(whole):
        for rows, part in zip(split, parts, strict=True):
            assert_same([part[step]], [Batch(*(v[list(rows)] for v in want))])


def test_every_pass_sees_every_record_once_in_a_new_order():
    r = reader(Numbered(64))
    indices = [int(record(r(i))) for i in range(128)]
    assert sorted(indices[:64]) == sorted(indices[64:]) == list(range(64))
    assert indices[:64] != indices[64:]


def test_the_seed_decides_order_and_augmentation(whole):
    other = batches(reader(seed=1))
    assert not np.array_equal(record(other[0]), record(whole[0]))


def test_grouped_sampling_draws_every_group_once_a_pass():
    source = Numbered(200)  # 56 groups
    r = reader(source, sampling="grouped")
    rows = [r(i) for i in range(112)]
    groups = [int(x.groups) for x in rows]
    assert sorted(groups[:56]) == sorted(groups[56:]) == list(range(56))
    assert len({int(record(x)) for x in rows}) > 80  # other members in the second pass
    assert all(source.groups[int(record(x))] == int(x.groups) for x in rows)


def test_weights_decide_how_often_a_member_is_drawn():
    source = SyntheticSource(112)  # 56 groups of two
    source.weights = np.where(np.arange(112) < 56, 3.0, 1.0)
    r = Order(source, "grouped", 0)
    first = sum(r(i) < 56 for i in range(56 * 40))
    assert first / (56 * 40) == pytest.approx(0.75, abs=0.03)


def test_grouped_sampling_needs_groups():
    with pytest.raises(DataError, match="data.sampling='grouped' needs a source"):
        reader(Broken([]), sampling="grouped")


def test_unreadable_records_are_replaced_and_counted_and_shift_nothing(caplog):
    clean, broken = batches(reader(Broken([]))), batches(reader(Broken({3, 50, 51})))
    replaced = 0
    for a, b in zip(clean, broken, strict=True):
        bad = np.isin(record(a), [3, 50, 51])
        np.testing.assert_array_equal(b.unreadable > 0, bad)
        np.testing.assert_array_equal(record(a)[~bad], record(b)[~bad])
        np.testing.assert_array_equal(a.images[~bad], b.images[~bad])
        replaced += bad.sum()
    assert replaced > 0
    assert_same(batches(reader(Broken({3, 50, 51}))), broken)
    assert "record" in caplog.text
    assert "disk of record" in caplog.text


def test_nothing_readable_is_an_error_that_names_the_record_that_failed_last():
    with pytest.raises(DataError, match=r"9 records in a row.*record (\d+): disk of record \1 on"):
        reader(Broken(range(100)))(0)


def test_an_empty_source_is_an_error():
    with pytest.raises(DataError, match="no records"):
        reader(Broken([], size=0))


def test_cached_images_are_the_same(whole):
    r = reader(cache_decoded=True)
    assert_same(batches(r), whole)
    assert len(r.cache) > 50
    assert_same(batches(r), whole)


def test_prefetching_keeps_order_and_hands_over_errors():
    def numbers():
        yield from range(5)
        raise OSError("cable")

    items = Prefetcher(numbers(), lambda x: x * 10, depth=2)
    got = []
    with pytest.raises(OSError, match="cable"):
        for item in items:
            got.append(item)
    assert got == [0, 10, 20, 30, 40]


def test_prefetching_counts_waiting_and_closes():
    def slow():
        while True:
            time.sleep(0.05)
            yield 1

    items = Prefetcher(slow(), lambda x: x, depth=1)
    for _ in range(4):
        next(items)
    assert items.waited > 0.05
    items.close()
    assert not items._thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_the_prefetching_starts_does_not_hear_stop_signals(number):
    code = "import time; print('up', flush=True); time.sleep(0.5)"

    def child():
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        process.stdout.readline()
        process.send_signal(number)
        yield process.wait()

    items = Prefetcher(child(), lambda x: x, depth=1)
    assert next(items) == 0
    items.close()
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # of this thread
