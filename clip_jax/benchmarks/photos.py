"""Tar shards of made-up photographs, for measurements that anyone can repeat."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

COUNT, SHARDS = 512, 4
WORDS = ("a", "photo", "of", "the", "dog", "house", "tree", "red", "old", "street", "at", "night")


def write(folder: Path, width: int, height: int) -> str:
    """Writes JPEGs (quality 88) and captions, and returns the pattern of the shards.

    The images are sums of noise at five scales: coarse shapes under fine ones, and about as many
    bytes as a photograph has.

    Args:
      folder: for the shards.
      width, height: of each image, in pixels.
    """
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for number in range(shard, COUNT, SHARDS):
                rng = np.random.default_rng(number)
                members = {
                    "jpg": _jpeg(rng, width, height),
                    "txt": " ".join(rng.choice(WORDS, 12)).encode(),
                }
                for ending, data in members.items():
                    info = tarfile.TarInfo(f"{number:07d}.{ending}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return f"{folder}/*.tar"


def _jpeg(rng: np.random.Generator, width: int, height: int) -> bytes:
    scales = (4, 12, 40, 120, max(width, height) // 2)
    noise = [Image.fromarray(rng.integers(0, 256, (s, s, 3), np.uint8)) for s in scales]
    layers = [np.asarray(n.resize((width, height), Image.Resampling.BICUBIC)) for n in noise]
    out = io.BytesIO()
    Image.fromarray(np.mean(layers, 0).astype(np.uint8)).save(out, "JPEG", quality=88)
    return out.getvalue()
