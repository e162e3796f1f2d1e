"""What is in a tar shard: its samples, and those that lack something, with the reason."""

import dataclasses
import tarfile
from pathlib import Path

import numpy as np

from clip_jax.data.errors import DataError

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
Span = tuple[int, int]  # offset and size


class ShardError(DataError):
    """A shard that is not a whole tar file; the message names it and the byte."""


@dataclasses.dataclass
class _Sample:
    """The files of one name.

    Attributes:
      spans: of image and caption, by column.
      others: endings of further files, and those of links.
      twice: whether it has two images or two captions.
    """

    spans: dict[int, Span] = dataclasses.field(default_factory=dict)
    found: dict[int, str] = dataclasses.field(default_factory=dict)
    others: list[str] = dataclasses.field(default_factory=list)
    twice: bool = False


def endings(key: str) -> list[str]:
    """The file endings of ``data.image_key`` or ``data.caption_key``, such as "jpg;png"."""
    return [e.strip().lstrip(".").lower() for e in key.split(";")]


def scan(shard: Path, image_key: str, caption_key: str) -> dict[str, np.ndarray]:
    """The arrays of a ``tar_index.TarIndex``.

    Files belong together by their name up to its first dot, as in webdataset. A sample that has two
    files of one kind is left out: nobody knows which of them belongs to the other.

    Raises:
      ShardError: the shard is truncated, damaged or compressed.
    """
    kinds = endings(image_key), endings(caption_key)
    column = {ending: c for c, kind in enumerate(kinds) for ending in kind}
    samples = _samples(shard, column)
    whole = sorted(k for k, s in samples.items() if len(s.spans) == 2 and not s.twice)
    spans = np.array([[*samples[k].spans[0], *samples[k].spans[1]] for k in whole], np.int64)
    lacking = sorted(samples.keys() - set(whole))
    return {
        "keys": np.array(whole, str),
        "spans": spans.reshape(-1, 4),
        "incomplete": np.array(lacking, str),
        "reasons": np.array([_reason(samples[k], kinds) for k in lacking], str),
    }


def _samples(shard: Path, column: dict[str, int]) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    end = 0
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                size = -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                end = member.offset_data + size
                if member.isdir():
                    continue
                folder, _, file = member.name.rpartition("/")
                stem, _, ending = file.partition(".")
                sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, _Sample())
                kind = column.get(ending.lower())
                if not member.isfile():
                    sample.others.append(f"{ending} (a link)")
                elif kind is None:
                    sample.others.append(ending)
                elif kind in sample.spans:
                    sample.twice = True
                else:
                    sample.spans[kind] = member.offset_data, member.size
                    sample.found[kind] = ending
    except tarfile.TarError as error:
        raise ShardError(f"{shard}: {_problem(shard, end, error)}") from error
    _check_end(shard, end)
    return samples


def _reason(sample: _Sample, kinds: tuple[list[str], list[str]]) -> str:
    if sample.twice:
        return "two images or two captions of one name"
    known = {ending for kind in kinds for ending in kind}
    if not sample.spans and any(e.lower().rpartition(".")[2] in known for e in sample.others):
        return "a dot within their names, which end at the first dot"
    lacks = " and ".join(
        "no ." + "/.".join(kind) for c, kind in enumerate(kinds) if c not in sample.spans
    )
    has = sorted({*sample.found.values(), *sample.others})
    return f"{lacks}, but {', '.join(f'.{e}' if e else 'a file without ending' for e in has)}"


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
