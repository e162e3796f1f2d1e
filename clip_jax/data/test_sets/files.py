"""What datasets in plain files share: image files, and the names of splits."""

import hashlib
from pathlib import Path

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
UNCOMPRESSED = {".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
# What others call the three splits.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}


def spellings(split: str) -> tuple[str, ...]:
    """What a split may be called, the way it is called here first."""
    others = next((names for names in SPLITS.values() if split in names), ())
    return (split, *(name for name in others if name != split))


def content(file: Path) -> list[int | str]:
    """Tells versions of an image apart without reading it whole: by the size, and where that is
    the same for all images of so many pixels, by some of them.
    """
    size = file.stat().st_size
    if file.suffix.lower() not in UNCOMPRESSED:
        return [size]
    with open(file, "rb") as opened:
        opened.seek(size // 2)
        return [size, hashlib.sha256(opened.read(4096)).hexdigest()]
