"""Random access to image-text pairs in tar shards, as img2dataset and webdataset write them.

An index of byte offsets is made once for each shard and kept beside it. It makes a shard random
access, which gives a global shuffle, exact epochs and exact resume, and it is where a damaged
shard is found: a stream reader takes a flipped bit in a header for the end of the archive and
loses the rest of the shard without a word.
"""

import bisect
import collections
import contextlib
import hashlib
import itertools
import os
import resource
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from clip_jax.data import tar_scan
from clip_jax.data.paths import INDEX, cached_arrays
from clip_jax.data.tar_scan import Lack, ShardError
from clip_jax.runtime import distributed

# Shards, of the files that a process may open (1,024 where nobody has changed it).
_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
MOST_OPEN = (min(_FILES, 4096) if _FILES > 0 else 4096) // 4
_NEAR = 1 << 16  # bytes: to read so many in vain takes less time than a second read
_ARRAYS = ("keys", "spans", "incomplete", "reason", "lacks", "reasons")  # of a ``TarIndex``


class TarIndex:
    """Offsets of the pairs of one shard.

    Attributes:
      path: the shard.
      keys: [n] names of the samples (the part of the file name before the first dot).
      spans: int64[n, 4]: image offset, image size, caption offset, caption size.
      incomplete: [m] names that are no pairs.
      reason: uint16[m], which of ``reasons`` is that of each.
      lacks, reasons: [r] of each reason the ``tar_scan.Lack``, and words.
    """

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray]):
        self.path, self.keys, self.spans = path, arrays["keys"], arrays["spans"]
        self.incomplete, self.reason = arrays["incomplete"], arrays["reason"]
        self.lacks, self.reasons = arrays["lacks"], arrays["reasons"]

    def left_out(self) -> dict[tuple[Lack, str], list[str]]:
        """The names that are no pairs, by the reason."""
        groups: dict[tuple[Lack, str], list[str]] = {}
        for name, number in zip(self.incomplete.tolist(), self.reason.tolist(), strict=True):
            reason = Lack(int(self.lacks[number])), str(self.reasons[number])
            groups.setdefault(reason, []).append(name)
        return groups

    def forget_left_out(self) -> None:
        """Drops their names, which workers would have a copy of."""
        self.incomplete, self.reason = self.incomplete[:0], self.reason[:0]

    def __len__(self) -> int:
        return len(self.keys)


class _File:
    """An open file, closed once no thread reads from it any more."""

    def __init__(self, path: Path):
        self.path, self.descriptor = path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, size: int, offset: int) -> bytes:
        """So many bytes from an offset on.

        Raises:
          ShardError: the file ends before.
        """
        data = os.pread(self.descriptor, size, offset)
        while len(data) < size:  # some file systems give less than there is
            more = os.pread(self.descriptor, size - len(data), offset + len(data))
            if not more:
                raise ShardError(
                    f"{self.path}: cut since it was indexed: ends at byte {offset + len(data)}"
                )
            data += more
        return data

    def __del__(self):
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class TarShards(Sequence):
    """The samples of indexed shards by number: ``shards[i]`` is the encoded image of sample i.

    Shards stay open between reads, the last ``MOST_OPEN`` of them. Can be pickled.
    """

    def __init__(self, indices: Sequence[TarIndex]):
        self.indices = indices
        self.starts = [0, *itertools.accumulate(len(index) for index in indices)]
        self._open: collections.OrderedDict[Path, _File] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self):
        return type(self), (self.indices,)

    def __len__(self) -> int:
        return self.starts[-1]

    def _find(self, sample: int) -> tuple[TarIndex, int]:
        """The shard of a sample, and its row there."""
        count = self.starts[-1]
        if not -count <= sample < count:
            raise IndexError(sample)
        sample %= count
        shard = bisect.bisect_right(self.starts, sample) - 1
        return self.indices[shard], sample - self.starts[shard]

    def _file(self, path: Path, keep: bool = True) -> _File:
        with self._lock:
            if file := self._open.get(path):
                self._open.move_to_end(path)
                return file
        file = _File(path)  # which may take long
        if keep:
            with self._lock:
                self._open[path] = file
                if len(self._open) > MOST_OPEN:
                    self._open.popitem(last=False)
        return file

    def _read(self, sample: int, column: int) -> bytes:
        index, row = self._find(sample)
        offset, size = index.spans[row, column : column + 2].tolist()
        return self._file(index.path).read(size, offset)

    def __getitem__(self, sample: int) -> bytes:
        return self._read(sample, 0)

    def text(self, sample: int) -> bytes:
        """The caption or label file of a sample."""
        return self._read(sample, 2)

    def sample(self, sample: int) -> tuple[bytes, bytes]:
        """The encoded image and the text of a sample, in one read where they are neighbours."""
        index, row = self._find(sample)
        span = index.spans[row].tolist()
        file = self._file(index.path)
        start, stop = _extent(span)
        if stop - start > span[1] + span[3] + _NEAR:
            return file.read(span[1], span[0]), file.read(span[3], span[2])
        data = file.read(stop - start, start)
        image, text = span[0] - start, span[2] - start
        return data[image : image + span[1]], data[text : text + span[3]]

    def will_read(self, samples: Sequence[int]) -> None:
        """Asks the system to fetch samples into its page cache, in the order they lie on disk."""
        if not hasattr(os, "posix_fadvise"):  # macOS
            return
        for sample in sorted(samples):  # samples are numbered by shard and key, as they are packed
            index, row = self._find(sample)
            start, stop = _extent(index.spans[row].tolist())
            with contextlib.suppress(OSError):  # what cannot be read is found out when it is read
                file = self._file(index.path, keep=False)
                os.posix_fadvise(file.descriptor, start, stop - start, os.POSIX_FADV_WILLNEED)

    def texts(self) -> Iterator[tuple[str, bytes]]:
        """The location and the caption or label file of every sample."""
        for index in self.indices:
            file = self._file(index.path)
            for key, (at, size) in zip(index.keys, index.spans[:, 2:].tolist(), strict=True):
                yield f"{index.path}: {key}", file.read(size, at)

    def describe(self, sample: int) -> str:
        """Where a sample lies, for messages."""
        index, row = self._find(sample)
        return f"{index.path}: {index.keys[row]}"


def _extent(span: list[int]) -> tuple[int, int]:
    """The first byte of a sample's two files, and the byte after the last."""
    image, image_size, text, text_size = span
    return min(image, text), max(image + image_size, text + text_size)


def index_path(shard: Path, image_key: str, caption_key: str, cache_dir: Path) -> Path:
    """Where a shard's index is kept: beside it if that folder is writable, else in the cache."""
    kinds = "-".join("+".join(tar_scan.endings(key)) for key in (image_key, caption_key))
    name = f"{shard.name}.{kinds}{INDEX}"
    if os.access(shard.parent, os.W_OK):
        return shard.parent / name
    folder = hashlib.sha256(str(shard.parent.resolve()).encode()).hexdigest()[:16]
    return cache_dir / "tar_index" / folder / name


def load_index(shard: Path, image_key: str, caption_key: str, cache_dir: Path) -> TarIndex:
    """Reads a shard's index, or makes it where it is absent or the shard has changed since.

    Args:
      shard: a tar file.
      image_key, caption_key: endings of the two files of a sample; "jpg;png" is either.
      cache_dir: where the index goes if the shard's folder cannot be written.

    Raises:
      ShardError: the shard is truncated, damaged or compressed.
    """
    distributed.heartbeat(f"indexing {shard}")
    path = index_path(shard, image_key, caption_key, cache_dir)
    stat = shard.stat()
    stamp = np.array([stat.st_size, stat.st_mtime_ns])
    arrays = cached_arrays(
        path,
        lambda: {"stamp": stamp, **tar_scan.scan(shard, image_key, caption_key)},
        lambda saved: np.array_equal(saved["stamp"], stamp) and {*_ARRAYS} <= saved.keys(),
    )
    return TarIndex(shard, arrays)
