"""How fast records of tar shards are read in random order, beside a stream of webdataset's."""

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from clip_jax import cli
from clip_jax.benchmarks import paired
from clip_jax.benchmarks.rates import Method, compare
from clip_jax.config import ConfigError
from clip_jax.data import paths
from clip_jax.data.errors import DataError
from clip_jax.data.pairs.tar import TarSource

OURS, THEIRS = "clip_jax, random order", "webdataset, in order"
AHEAD = 128  # records of a chunk, of which the source is told beforehand
SHARDS = 4


def command(arguments: Sequence[str]) -> None:
    """The command ``benchmark read``."""
    parser = cli.Parser("benchmark read", __doc__)
    parser.add_argument("--path", help="your shards, with jpg and txt; default: made up")
    parser.add_argument("--bytes", type=int, default=50_000, help="of a made-up image (50000)")
    parser.add_argument("--records", type=int, default=8000, help="of a round (8000)")
    parser.add_argument("--cold", action="store_true", help="drop the shards from the page cache")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="file to write the results to")
    flags = parser.parse_args(arguments)
    if min(flags.bytes, flags.records, flags.rounds) < 1:
        raise ConfigError("--bytes, --records and --rounds must be 1 or more")
    paired.require_folder(flags.json)
    if flags.path:
        try:
            paths.matching_files(flags.path)
        except DataError:
            raise ConfigError(
                f"--path={flags.path}: no such file; give a path or a pattern"
            ) from None
    with tempfile.TemporaryDirectory() as folder:
        path = flags.path or _write(Path(folder), flags.records, flags.bytes)
        methods = _methods(path, Path(folder), flags.records, flags.cold)
        results = compare(methods, flags.rounds, "records", "ratio_by_cpu")
    paired.write_record(flags.json, "read", arguments, results)


def _write(folder: Path, records: int, size: int) -> str:
    """Writes shards of random bytes and short captions; returns their pattern."""
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for number in range(shard, records, SHARDS):
                for ending, data in (("jpg", rng.bytes(size)), ("txt", b"a caption " * 6)):
                    info = tarfile.TarInfo(f"{number:07d}.{ending}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    os.sync()  # what has not been written to the disk cannot be dropped from the page cache
    return f"{folder}/*.tar"


def _methods(path: str, cache: Path, records: int, cold: bool) -> list[Method]:
    shards = paths.matching_files(path)
    source = TarSource(path, "jpg", "txt", cache)
    count = min(records, len(source))
    orders = _orders(len(source))

    def prepare() -> None:
        if cold:
            for shard in shards:
                with open(shard, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def ours() -> int:
        order = next(orders)[:count].tolist()
        source.will_read(order[:AHEAD])
        for start in range(0, count, AHEAD):
            source.will_read(order[start + AHEAD : start + 2 * AHEAD])
            for index in order[start : start + AHEAD]:
                source.read(index, None)
        return count

    def theirs() -> int:
        stream = iter(webdataset.WebDataset(list(map(str, shards)), shardshuffle=False))
        for _ in range(count):
            sample = next(stream)
            sample["jpg"], sample["txt"].decode()
        return count

    try:
        import webdataset
    except ImportError:
        print("without webdataset (pip install '.[benchmark]') it is read alone")
        return [Method(OURS, ours, OURS, prepare)]
    return [Method(OURS, ours, THEIRS, prepare), Method(THEIRS, theirs, THEIRS, prepare)]


def _orders(count: int) -> Iterator[np.ndarray]:
    """Permutations, another one each time."""
    rng = np.random.default_rng(0)
    while True:
        yield rng.permutation(count)
