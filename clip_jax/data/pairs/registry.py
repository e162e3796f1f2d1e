"""Random-access sources of image-text pairs, all behind one small protocol."""

import glob
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from clip_jax.config import ConfigError
from clip_jax.data import tfds_split
from clip_jax.data.tar_index import ShardError, load_index
from clip_jax.runtime import distributed

MAX_CAPTION_BYTES = 4096


class DataError(ValueError):
    """Data that is missing or cannot be used; the message names the file or key and the fix."""


class Example(NamedTuple):
    """One pair: an encoded picture (or uint8[H, W, 3 or 4] pixels), a caption, its group."""

    image: bytes | np.ndarray
    caption: str
    group: int


class Source(Protocol):
    """Pairs by number. Must be picklable, so that decoding processes can have a copy.

    Attributes:
      fingerprint: sha256 over what decides the pairs and their order.
      groups: int32[n], or None where they are not known before reading. Pairs of one group show
        the same thing and are not negatives of each other under ``loss.mask_groups``.
      weights: float[n], how often a pair is drawn in comparison with others of its group under
        ``data.sampling="grouped"``; None: equally often.
    """

    fingerprint: str
    groups: np.ndarray | None
    weights: np.ndarray | None

    def __len__(self) -> int: ...

    def read(self, index: int, rng: np.random.Generator) -> Example:
        """Pair ``index``; ``rng`` picks among several captions. Raises where it is unreadable."""

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """The caption that ``read`` gives with an ``rng`` like this, without the picture."""

    def describe(self, index: int) -> str:
        """Where pair ``index`` lies, for messages."""


def caption_group(caption: str) -> int:
    """A group number for sources without groups: equal captions share it."""
    return zlib.crc32(caption.encode("utf-8", "replace")) & 0x7FFFFFFF


def clean_caption(text: str | bytes) -> str:
    """UTF-8 text without control characters, at most 4 KiB.

    Raises:
      DataError: nothing is left.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    text = "".join(c if c.isprintable() else " " for c in text[:MAX_CAPTION_BYTES]).strip()
    if not text:
        raise DataError("empty caption")
    return text


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def matching_files(pattern: str) -> list[Path]:
    """The files of a list of paths and glob patterns with commas between, sorted.

    Raises:
      DataError: there is none.
    """
    found: list[str] = []
    for part in pattern.split(","):
        found += glob.glob(os.path.expanduser(part.strip()))
    if not found:
        raise DataError(f"data.path={pattern!r}: no such file; give a path or a glob pattern")
    return [Path(p) for p in sorted(set(found))]


class TarSource:
    """Pairs in tar shards; see ``clip_jax.data.tar_index``."""

    groups = weights = None

    def __init__(self, pattern: str, image_key: str, caption_key: str, cache_dir: Path):
        self.shards = []
        for path in matching_files(pattern):
            distributed.beat(f"indexing {path}")
            self.shards.append(load_index(path, image_key, caption_key, cache_dir))
        self.starts = np.cumsum([0] + [len(s) for s in self.shards])
        digest = hashlib.sha256(f"{image_key}\0{caption_key}".encode())
        for shard in self.shards:
            keys = "\0".join(shard.keys.tolist()).encode("utf-8", "surrogateescape")
            facts = [shard.path.name, shard.path.stat().st_size, len(shard), len(keys)]
            digest.update(json.dumps(facts).encode() + keys)
            digest.update(np.ascontiguousarray(shard.spans, "<i8").tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _find(self, index: int) -> tuple[Any, int]:
        shard = int(np.searchsorted(self.starts, index, "right")) - 1
        return self.shards[shard], index - int(self.starts[shard])

    def read(self, index: int, rng: np.random.Generator) -> Example:
        del rng
        image, text = self._members(index, 0, 2)
        caption = clean_caption(text)
        return Example(image, caption, caption_group(caption))

    def caption(self, index: int, rng: np.random.Generator) -> str:
        del rng
        return clean_caption(*self._members(index, 2))

    def _members(self, index: int, *columns: int) -> list[bytes]:
        """The bytes of the spans that begin at these columns of the shard's index."""
        shard, row = self._find(index)
        with open(shard.path, "rb") as file:
            spans = [shard.spans[row, c : c + 2].tolist() for c in columns]
            return [os.pread(file.fileno(), size, at) for at, size in spans]

    def describe(self, index: int) -> str:
        shard, row = self._find(index)
        return f"{shard.path}: {shard.keys[row]}"


class TfdsSource:
    """A TFDS data set in ArrayRecord (or another random-access) format, already prepared."""

    groups = weights = None

    def __init__(self, name: str, split: str, image_key: str, caption_key: str, data_dir: str):
        try:
            builder, self.data = tfds_split.open_split(name, split, image_key, data_dir)
        except Exception as error:  # it raises a dozen kinds
            raise DataError(
                f"data.path={name!r}, data.split={split!r}: TFDS cannot open it: {error}"
            ) from error
        self.name, self.image_key, self.caption_key = name, image_key, caption_key
        facts = tfds_split.facts(builder, split, self.data)
        self.fingerprint = _digest(*facts, image_key, caption_key)

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int, rng: np.random.Generator) -> Example:
        record = self.data[index]
        caption = self._caption(record, rng)
        return Example(record[self.image_key], caption, caption_group(caption))

    def caption(self, index: int, rng: np.random.Generator) -> str:
        return self._caption(self.data[index], rng)

    def _caption(self, record: Mapping[str, Any], rng: np.random.Generator) -> str:
        text = record[self.caption_key]
        if isinstance(text, list | np.ndarray):
            text = text[int(rng.integers(len(text)))]
        return clean_caption(text)

    def describe(self, index: int) -> str:
        return f"{self.name}: record {index}"


COLORS = {
    "red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 70, 210), "black": (20, 20, 20),
    "yellow": (240, 210, 50), "white": (250, 250, 250), "orange": (245, 140, 30),
    "purple": (130, 50, 170),
}  # fmt: skip


class SyntheticSource:
    """Two-colour pictures and their captions, made on the fly: for tests and benchmarks.

    No picture is like another, also between sources of other numbers: ``first`` is the lowest.
    """

    weights = None

    def __init__(self, size: int = 4096, pixels: int = 32, first: int = 0):
        self.size, self.pixels, self.first = size, pixels, first
        self.names = [(a, b) for a in COLORS for b in COLORS if a != b]
        self.groups = np.arange(size, dtype=np.int32) % len(self.names)
        self.fingerprint = _digest("synthetic", size, pixels, first)

    def __len__(self) -> int:
        return self.size

    def read(self, index: int, rng: np.random.Generator) -> Example:
        group = int(self.groups[index])
        above, below = self.names[group]
        image = np.empty((self.pixels, self.pixels, 3), np.int16)
        image[: self.pixels // 2], image[self.pixels // 2 :] = COLORS[above], COLORS[below]
        noise = np.random.default_rng(self.first + index)
        image += noise.integers(-20, 20, image.shape, np.int16)
        return Example(image.clip(0, 255).astype(np.uint8), self.caption(index, rng), group)

    def caption(self, index: int, rng: np.random.Generator) -> str:
        del rng
        return "{} above {}".format(*self.names[int(self.groups[index])])

    def describe(self, index: int) -> str:
        return f"synthetic pair {index}"


def cache_dir(configured: str) -> Path:
    """The folder of prepared data: ``data.cache_dir``, $CLIP_JAX_CACHE, or ~/.cache/clip_jax."""
    return Path(
        configured or os.environ.get("CLIP_JAX_CACHE") or Path.home() / ".cache" / "clip_jax"
    ).expanduser()


def _table(data: Mapping[str, Any]) -> Source:
    from clip_jax.data.pairs import table  # it builds on this file

    return table.TableSource(data["path"], data["image_key"], data["caption_key"])


def _emoji(data: Mapping[str, Any]) -> Source:
    from clip_jax.data.pairs import emoji  # TFDS takes half a second to import

    return emoji.EmojiSource(
        cache_dir(data["cache_dir"]), data["emoji_preset"], "train", data["captions"]
    )


SOURCES: dict[str, Callable[[Mapping[str, Any]], Source]] = {
    "emoji": _emoji,
    "table": _table,
    "tar": lambda d: TarSource(
        d["path"], d["image_key"], d["caption_key"], cache_dir(d["cache_dir"])
    ),
    "tfds": lambda d: TfdsSource(
        d["path"], d["split"], d["image_key"], d["caption_key"], d["cache_dir"]
    ),
    "synthetic": lambda d: SyntheticSource(),
}


def build(data: Mapping[str, Any]) -> Source:
    """The source that ``config.data`` describes.

    Raises:
      DataError: no such source, missing files, or data that cannot be read.
    """
    if data["source"] not in SOURCES:
        raise DataError(f"data.source={data['source']!r} is not one of {sorted(SOURCES)}")
    return SOURCES[data["source"]](data)


def build_validation(data: Mapping[str, Any]) -> Source:
    """The pairs that ``config.data`` keeps from training: those of ``data.validation_path``, with
    tfds those of ``data.validation_split`` in it or else in ``data.path``.

    Raises:
      ConfigError: no such pairs are configured, or the source has no way to.
      DataError: as ``build``.
    """
    kind, path = data["source"], data["validation_path"]
    if kind == "synthetic":
        return SyntheticSource(first=1 << 32)
    if kind == "emoji":
        raise ConfigError(
            "eval.tasks has 'retrieval', for which data.source='emoji' has no pairs; its own tasks "
            "are unseen_vendor, held_out and held_out_retrieval"
        )
    if not path and kind != "tfds":
        raise ConfigError(
            "eval.tasks has 'retrieval', but data.validation_path is empty: give it pairs that "
            "are not trained on, in the format of data.source"
        )
    apart = {"path": path or data["path"], "split": data["validation_split"]}
    try:
        return build(dict(data) | apart)
    except (DataError, ShardError) as error:
        raise DataError(f"validation pairs (data.validation_path): {error}") from error


def captions(
    source: Source, limit: int | None = None, *, seed: int = 0, max_bad_fraction: float = 0.0
) -> list[str]:
    """The captions of a source in order, one drawing each: the text to train a tokenizer on.

    Args:
      source: its pictures are not read.
      limit: the most records to read; of more, ``seed`` chooses a sample from the whole source.
      seed: see ``limit``.
      max_bad_fraction: share of unreadable captions that are left out, as in training.

    Raises:
      DataError: more of them are unreadable, or all.
    """
    chosen: Sequence[int] = range(len(source))
    if limit is not None and limit < len(source):
        pick = np.random.default_rng(seed).choice(len(source), limit, replace=False)
        chosen = np.sort(pick).tolist()
    rng = np.random.default_rng(0)
    texts: list[str] = []
    bad = 0
    for index in chosen:
        try:
            texts.append(source.caption(index, rng))
        except Exception as error:  # whatever the data did
            bad, last = bad + 1, f"{source.describe(index)}: {error}"
            if bad <= 5:
                logging.warning("unreadable caption of %s", last)
    if bad > max_bad_fraction * max(len(chosen), 1000) or (bad and not texts):
        raise DataError(
            f"{bad} of {len(chosen)} captions could not be read, more than "
            f"data.max_bad_fraction={max_bad_fraction}; the last is that of {last}"
        )
    return texts
