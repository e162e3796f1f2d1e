"""Bytes to pixels: hardened decoding, the reference's evaluation transform, training crops.

Numpy and Pillow in, uint8 numpy out; randomness comes in as a generator. Resizing is Pillow's
antialiased bicubic, which is what the released models were trained and evaluated with.
"""

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from clip_jax.config import ConfigError
from clip_jax.data import drawing

# Animated and multi-page files give their first frame. EPS is left out: Pillow would look for a
# Ghostscript to run.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000  # an 18 KB file can claim 151 million

# What an evaluation does to a picture: a checkpoint keeps it, and refuses another.
EVALUATION = "bicubic to the shorter side, central square, transparency on white"

Augmentation = Callable[[Image.Image, int, np.random.Generator], np.ndarray]


class BadImage(ValueError):
    """Bytes that are not a usable picture; the message says why."""


def decode(data: bytes | np.ndarray) -> Image.Image:
    """Decodes a picture, in RGBA where it has transparency and in RGB otherwise.

    Pixels, uint8[H, W, 3 or 4], are taken as they are. 16-bit grey is scaled to 8 bits (Pillow's
    own conversion clips it to white).

    Raises:
      BadImage: no known format, too many pixels, or damaged data.
    """
    if isinstance(data, np.ndarray):
        return Image.fromarray(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"{image.width} x {image.height} pixels, over {MAX_PIXELS:,}")
            image.load()
            if image.mode.startswith("I"):
                wide = np.asarray(image, np.float64)
                return Image.fromarray((wide / 257).round().clip(0, 255).astype(np.uint8)).convert(
                    "RGB"
                )
            clear = "A" in image.mode or "transparency" in image.info
            return image.convert("RGBA" if clear else "RGB")
    except BadImage:
        raise
    # Damaged files raise OSError, SyntaxError, ValueError, struct.error, DecompressionBombError...
    except Exception as error:
        raise BadImage(f"{type(error).__name__}: {error}") from error


def flatten(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Puts a picture with transparency on a plain background. Without one, returns it as it is."""
    if image.mode != "RGBA":
        return image
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(canvas, image).convert("RGB")


def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """The evaluation transform (openai/CLIP ``_transform``): uint8[size, size, 3].

    Bicubic resize of the shorter side to ``size``, then the central square. Transparency is put
    on white first.
    """
    image = flatten(image)
    width, height = image.size
    short, long = sorted((width, height))
    scaled = int(size * long / short)  # torchvision truncates
    width, height = (size, scaled) if width <= height else (scaled, size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    # Half to even, as torchvision rounds: an excess of 1 gives 0, one of 3 gives 2.
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)).convert("RGB"))


def square_crop(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """The paper's only augmentation (section 2.4): a random square crop of the resized picture.

    The picture is resized by its shorter side to ``size``, and of its longer side any stretch is
    as likely: uint8[size, size, 3]. (open_clip crops 90 to 100% of the area, in a ratio of 3/4 to
    4/3, and squashes that into a square.)
    """
    image = flatten(image)
    side = min(image.size)
    left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    # Cropped and resized in one go: what lies outside need not be resized.
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box).convert("RGB"))


def no_augmentation(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """The evaluation transform, in training too."""
    del rng
    return center_crop(image, size)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": no_augmentation,
    "square_crop": square_crop,
    "drawing": drawing.augment,
}


def augmentation(name: str) -> Augmentation:
    """The function that ``data.augmentation`` names.

    Raises:
      ConfigError: no such augmentation.
    """
    if name not in AUGMENTATIONS:
        raise ConfigError(f"data.augmentation={name!r} is not one of {sorted(AUGMENTATIONS)}")
    return AUGMENTATIONS[name]


def evaluation_images(pictures: Sequence[bytes | np.ndarray], size: int) -> np.ndarray:
    """Decodes and center-crops pictures: uint8[n, size, size, 3]."""
    if not pictures:
        return np.zeros((0, size, size, 3), np.uint8)
    return np.stack([center_crop(decode(p), size) for p in pictures])
