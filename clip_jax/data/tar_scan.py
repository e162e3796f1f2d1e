"""What is in a tar shard: its samples, and those that lack something, with the reason."""

import collections
import dataclasses
import enum
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from clip_jax.data.errors import DataError

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_ENDINGS = 5  # shown of a sample's files
Span = tuple[int, int]  # offset and size


class Lack(enum.IntEnum):
    """Why a name in a shard is no pair."""

    HALF = 0  # one of image and caption is not there
    TWICE = 1  # there are two of one kind
    DOTS = 2  # a file with one of the endings, but with a dot before it
    NEITHER = 3  # no image and no caption: no sample, perhaps


class ShardError(DataError):
    """A shard that is not a whole tar file; the message names it and the byte."""


@dataclasses.dataclass
class _Sample:
    """The files of one name: spans of image and caption, by column, and the endings of all."""

    spans: dict[int, Span] = dataclasses.field(default_factory=dict)
    found: set[str] = dataclasses.field(default_factory=set)
    twice: bool = False


@dataclasses.dataclass
class _Files:
    """What a shard holds.

    Attributes:
      samples: by name.
      dotted: name up to the last dot -> name up to the first one, and the columns of such files.
    """

    samples: dict[str, _Sample]
    dotted: dict[str, tuple[str, set[int]]]


def endings(key: str) -> list[str]:
    """The file endings of ``data.image_key`` or ``data.caption_key``, such as "jpg;png"."""
    return [e.strip().lstrip(".").lower() for e in key.split(";")]


def scan(shard: Path, image_key: str, caption_key: str) -> dict[str, np.ndarray]:
    """The arrays of a ``tar_index.TarIndex``.

    Files belong together by their name up to its first dot, as in webdataset, wherever they lie in
    the shard. A name with two files of one kind is left out: nobody knows which of them belongs to
    the other.

    Raises:
      ShardError: the shard is truncated, damaged or compressed.
    """
    kinds = endings(image_key), endings(caption_key)
    column = {ending: c for c, kind in enumerate(kinds) for ending in kind}
    files = _files(shard, column)
    whole = sorted(k for k, s in files.samples.items() if len(s.spans) == 2 and not s.twice)
    spans = [[*files.samples[k].spans[0], *files.samples[k].spans[1]] for k in whole]
    pairs = set(whole)
    lacking = {k: _reason(s, kinds) for k, s in files.samples.items() if k not in pairs}
    words = "a dot within their names, which end at the first dot"
    for name, (short, columns) in files.dotted.items():
        # One file beside a pair is something else, such as a mask: NAME.mask.png.
        if len(columns) == 2 or short not in pairs:
            lacking[name] = Lack.DOTS, words
            if short in lacking and lacking[short][0] is Lack.NEITHER:
                del lacking[short]
    table = sorted(set(lacking.values()))
    number = {reason: i for i, reason in enumerate(table)}
    names = sorted(lacking)
    return {
        "keys": np.array(whole, str),
        "spans": np.array(spans, np.int64).reshape(-1, 4),
        "incomplete": np.array(names, str),
        "reason": np.array([number[lacking[k]] for k in names], np.uint16),
        "lacks": np.array([lack for lack, _ in table], np.uint8),
        "reasons": np.array([words for _, words in table], str),
    }


def _files(shard: Path, column: dict[str, int]) -> _Files:
    samples: dict[str, _Sample] = collections.defaultdict(_Sample)
    dotted: dict[str, tuple[str, set[int]]] = {}
    end = 0
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                size = -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                end = member.offset_data + size
                folder, _, file = member.name.rpartition("/")
                if member.isdir() or file.startswith("._"):  # the latter are of macOS
                    continue
                stem, _, ending = file.partition(".")
                name = f"{folder}/{stem}" if folder else stem
                sample, kind = samples[name], column.get(ending.lower())
                last = ending.rpartition(".")[2].lower()
                if not member.isfile():
                    sample.found.add(f"{last} (a link)")
                elif kind is None:
                    sample.found.add(last)
                    if last in column:
                        long = member.name.rpartition(".")[0]
                        dotted.setdefault(long, (name, set()))[1].add(column[last])
                elif kind in sample.spans:
                    sample.twice = True
                else:
                    sample.spans[kind] = member.offset_data, member.size
                    sample.found.add(last)
    except tarfile.TarError as error:
        raise ShardError(f"{shard}: {_problem(shard, end, error)}") from error
    _check_end(shard, end)
    return _Files(samples, dotted)


def _reason(sample: _Sample, kinds: tuple[list[str], list[str]]) -> tuple[Lack, str]:
    if sample.twice:
        return Lack.TWICE, "two images or two captions of one name"
    lacks = " and ".join(
        "no ." + "/.".join(kind) for c, kind in enumerate(kinds) if c not in sample.spans
    )
    lack = Lack.HALF if sample.spans else Lack.NEITHER
    return lack, f"{lacks}, but {_listed(sample.found)}"


def _listed(found: Iterable[str]) -> str:
    names = [f".{e}" if e else "a file without ending" for e in sorted(found)]
    names = [printable(name) for name in names]
    return ", ".join(names[:_ENDINGS] + ["..."] * (len(names) > _ENDINGS))


def printable(name: str) -> str:
    """A name in an archive that need not be UTF-8, for messages."""
    return name.encode("utf-8", "backslashreplace").decode()


def _problem(shard: Path, end: int, error: tarfile.TarError) -> str:
    with open(shard, "rb") as file:
        begin = file.read(8)
    for magic, name in _MAGIC.items():
        if begin.startswith(magic):
            return f"compressed by {name}; random access needs a plain tar: decompress it"
    return f"damaged near byte {end}: {error}"


def _check_end(shard: Path, end: int) -> None:
    """What follows the last member must be zeros: at least one block of them."""
    with open(shard, "rb") as file:
        file.seek(end)
        rest = file.read(tarfile.BLOCKSIZE)
        if len(rest) < tarfile.BLOCKSIZE:
            raise ShardError(f"{shard}: truncated: ends at byte {end + len(rest)} without a mark")
        if any(rest):
            raise ShardError(f"{shard}: damaged header at byte {end}; the rest cannot be indexed")
