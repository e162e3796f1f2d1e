"""The emoji dataset as training pairs and as zero-shot test sets. See ``data.emoji.builder``.

Captions of style ``plain`` are the English names. Style ``rich`` are mostly words of the name,
the keywords and the groups, in any order. (Names in 13 other languages are in the records too, and
are not drawn.)
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Self

import numpy as np

from clip_jax.config import ConfigDict, ConfigError
from clip_jax.data.emoji import drawings
from clip_jax.data.pairs.base import Example, Source
from clip_jax.data.paths import cache_dir

TEMPLATES = (
    "{}",
    "an emoji of {}",
    "a picture of {}",
    "a drawing of {}",
    "the {} emoji",
    "a small icon of {}",
)


@functools.lru_cache(
    maxsize=3
)  # a run asks for each split several times, and reading takes seconds
def _records(cache_dir: Path, preset: str, split: str) -> list[drawings.Record]:
    from clip_jax.data.emoji import builder  # it imports TFDS, which takes half a second

    return builder.records(cache_dir, preset, split)


@dataclasses.dataclass(frozen=True)
class ZeroShotSet:
    """Images with class numbers, and the classes' names.

    Attributes:
      images: encoded PNG files.
      labels: int[n].
      class_names: K English names; class number = position.
      descriptions: of each class several texts, of its name, keywords and groups.
      documents: of each class one text of all of these.
      groups: Unicode's group of each class, such as "food & drink".
      vendors: who drew each image.
    """

    images: list[bytes]
    labels: np.ndarray
    class_names: list[str]
    descriptions: list[list[str]]
    documents: list[str]
    groups: list[str]
    vendors: list[str]


def zero_shot_set(folder: Path, preset: str, split: str) -> ZeroShotSet:
    """The images of a split with their classes.

    ``unseen_vendor`` is classified among all tone-free concepts of the dataset (1,807 in preset
    "all"), ``held_out`` among the held-out ones (181). ``train`` has the classes of
    ``unseen_vendor``, and drawings in skin tones are of the class without.
    """
    records = _records(folder, preset, split)
    classes: dict[str, drawings.Record] = {}
    for other in ("held_out",) if split == "held_out" else ("unseen_vendor", "train", "held_out"):
        for r in records if other == split else _records(folder, preset, other):
            if not set(r["emoji"]) & drawings.TONES:
                classes.setdefault(r["concept"], r)
    if split == "train":  # without swatches of skin tones, and couples in two of them
        records = [r for r in records if r["concept"] in classes]
    concepts = sorted(classes)
    number = {c: i for i, c in enumerate(concepts)}
    return ZeroShotSet(
        [r["image"] for r in records],
        np.array([number[r["concept"]] for r in records], np.int32),
        [classes[c]["name"] for c in concepts],
        [descriptions(classes[c]) for c in concepts],
        [document(classes[c]) for c in concepts],
        [classes[c]["group"] for c in concepts],
        [drawings.VENDORS[r["vendor"]] for r in records],
    )


class EmojiSource(Source):
    """The training split in memory (50 MB); its groups are the concepts."""

    def __init__(self, folder: Path, preset: str, split: str, style: str):
        self.records = _records(folder, preset, split)
        self.style = CAPTIONS[style]
        number: dict[str, int] = {}
        self.groups = np.array(
            [number.setdefault(r["concept"], len(number)) for r in self.records], np.int32
        )
        # Five skin tones of a drawing make up a third of what is drawn of a person, not five
        # sixths: the tone-free names are what the evaluations ask for.
        toned = [bool(set(r["emoji"]) & drawings.TONES) for r in self.records]
        self.weights = np.where(toned, 0.1, 1.0)
        digest = hashlib.sha256(style.encode())
        for r in self.records:
            digest.update(r["image"])
            digest.update(json.dumps({k: v for k, v in r.items() if k != "image"}).encode())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def from_config(cls, data: ConfigDict) -> Self:
        own = data.emoji
        return cls(cache_dir(data.cache_dir), own.preset, "train", own.captions)

    @classmethod
    def validation(cls, data: ConfigDict) -> NoReturn:
        del data
        raise ConfigError(
            "data.source='emoji' has no validation pairs; its own evaluators "
            "are unseen_vendor, held_out and held_out_retrieval"
        )

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int, rng: np.random.Generator) -> Example:
        record = self.records[index]
        return Example(record["image"], self.style(record, rng), int(self.groups[index]))

    def caption(self, index: int, rng: np.random.Generator) -> str:
        return self.style(self.records[index], rng)

    def describe(self, index: int) -> str:
        record = self.records[index]
        return f"emoji {record['emoji']} by {record['vendor']}"


def plain_caption(record: drawings.Record, rng: np.random.Generator) -> str:
    """The English name."""
    del rng
    return record["name"]


def rich_caption(record: drawings.Record, rng: np.random.Generator) -> str:
    """Mostly words of the name, the keywords and the groups, in any order; sometimes sentences.

    A name that no drawing in the training split has is understood by its words alone: so words
    are what is taught, each in ever changing company.
    """
    name, keywords, draw = record["name"], record["keywords"], rng.random()
    if draw < 0.05:
        return name
    if draw < 0.1:
        return TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(name)
    if draw < 0.2:
        return f"{record['group' if rng.random() < 0.5 else 'subgroup']} {name}"
    if draw < 0.35:
        if not keywords:
            return name
        return f"{name}, {' '.join(rng.permutation(keywords)[: int(rng.integers(1, 5))])}"
    words = _words(record)
    return " ".join(rng.permutation(words)[: int(rng.integers(2, len(words) + 1))])


def document(record: drawings.Record) -> str:
    """All words about a concept in one text: its name, keywords and groups."""
    return " ".join([record["name"], *record["keywords"], record["subgroup"], record["group"]])


def _words(record: drawings.Record) -> list[str]:
    return document(record).replace(":", "").replace(",", "").split()


def descriptions(record: drawings.Record) -> list[str]:
    """Texts that describe a concept: all its words, beginning at eight places (training captions
    have them in any order), and its name with each of its groups.
    """
    words, name = _words(record), record["name"]
    starts = dict.fromkeys(i * len(words) // 8 for i in range(8))
    turned = [" ".join(words[s:] + words[:s]) for s in starts]
    return [*turned, f"{record['subgroup']} {name}", f"{record['group']} {name}"]


CAPTIONS: dict[str, Callable[[drawings.Record, np.random.Generator], str]] = {
    "plain": plain_caption,
    "rich": rich_caption,
}
