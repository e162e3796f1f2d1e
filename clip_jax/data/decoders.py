"""From encoded bytes to training pixels, by the decoder that ``data.decoder`` names.

pillow: exact, and what every evaluation uses. draft: Pillow, which decodes JPEGs at a half, a
quarter or an eighth of their size as long as twice the target is left. fast: simplejpeg (libjpeg-
turbo) and kornia-rs's antialiased bicubic, likewise scaled; what is not a plain JPEG goes through
Pillow. ``difference`` measures what a decoder changes.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from clip_jax.config import ConfigError
from clip_jax.config.checks import require_choice
from clip_jax.data import transforms
from clip_jax.data.image_file import MAX_PIXELS, BadImage
from clip_jax.data.transforms import Augmentation

Decoded = Image.Image | np.ndarray  # uint8[H, W, 3]
MARGIN = 2  # a JPEG is never decoded below this multiple of the target


class Decoder(Protocol):
    """Reads images, and augments what it has read."""

    def decode(self, data: bytes | np.ndarray, size: int) -> Decoded:
        """Decodes an image that will be resized to ``size``.

        Raises:
          BadImage: no known format, too many pixels, or damaged data.
        """

    def augmentation(self, name: str, resize: str) -> Augmentation:
        """The function that ``data.augmentation`` names, for what ``decode`` returns.

        Raises:
          ConfigError: no such augmentation.
        """


class Pillow:
    """Pillow, at full size."""

    def decode(self, data: bytes | np.ndarray, size: int) -> Image.Image:
        del size
        return transforms.decode(data)

    def augmentation(self, name: str, resize: str) -> Augmentation:
        return transforms.augmentation(name, resize)


class Draft(Pillow):
    """Pillow, large JPEGs at a fraction of their size."""

    def decode(self, data: bytes | np.ndarray, size: int) -> Image.Image:
        return transforms.decode(data, at_least=MARGIN * size)


class Fast:
    """simplejpeg and kornia-rs for colour JPEGs, Pillow for the rest."""

    def __init__(self):
        try:
            import kornia_rs
            import simplejpeg
        except ImportError as error:
            raise ConfigError(
                f"data.decoder='fast' needs the package {error.name}: "
                "pip install 'clip_jax_training[fast-input]', or set data.decoder='draft'"
            ) from error
        self._jpeg, self._imgproc = simplejpeg, kornia_rs.imgproc

    def __reduce__(self):
        return get, ("fast",)

    def decode(self, data: bytes | np.ndarray, size: int) -> Decoded:
        least = MARGIN * size
        if isinstance(data, bytes) and data[:2] == b"\xff\xd8":
            try:
                height, width, space, _ = self._jpeg.decode_jpeg_header(data)
                if space in ("YCbCr", "RGB") and height * width <= MAX_PIXELS:
                    # It forgets one side's minimum where that side is too short by itself.
                    smaller = dict(min_height=least, min_width=least, min_factor=2)
                    options = smaller if min(height, width) >= 2 * least else {}
                    return self._jpeg.decode_jpeg(data, "RGB", **options)
            except ValueError:
                pass  # Pillow decides what is damaged, and says how
        return transforms.decode(data, at_least=least)

    def augmentation(self, name: str, resize: str) -> Augmentation:
        for_images = transforms.augmentation(name, resize)
        for_pixels = {
            "square_crop": self._square_crop,
            "none": self._squash if resize == "squash" else self._shortest,
        }.get(name)
        return functools.partial(_augment, for_images, for_pixels)

    def _resized(self, pixels: np.ndarray, height: int, width: int) -> np.ndarray:
        pixels = np.ascontiguousarray(pixels)
        if pixels.shape[:2] == (height, width):
            return pixels
        return self._imgproc.resize(pixels, (height, width), "bicubic", antialias=True)

    def _square_crop(self, pixels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        """``transforms.square_crop``, from whole pixels on."""
        height, width = pixels.shape[:2]
        side = min(height, width)
        left, top = round(rng.uniform(0, width - side)), round(rng.uniform(0, height - side))
        return self._resized(pixels[top : top + side, left : left + side], size, size)

    def _squash(self, pixels: np.ndarray, size: int, rng: object) -> np.ndarray:
        del rng
        return self._resized(pixels, size, size)

    def _shortest(self, pixels: np.ndarray, size: int, rng: object) -> np.ndarray:
        """``Preprocess`` with resize="shortest"."""
        del rng
        height, width = pixels.shape[:2]
        long = int(size * max(height, width) / min(height, width))
        if size * long > MAX_PIXELS:
            raise BadImage(f"{width} x {height} pixels are too long and thin: crop the image first")
        height, width = (size, long) if height <= width else (long, size)
        top, left = round((height - size) / 2), round((width - size) / 2)
        return self._resized(pixels, height, width)[top : top + size, left : left + size]


def _augment(
    for_images: Augmentation,
    for_pixels: Augmentation | None,
    image: Decoded,
    size: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """What ``Fast`` does to an image, by what it has become in decoding."""
    if isinstance(image, Image.Image):
        return for_images(image, size, rng)
    if for_pixels is None:  # an augmentation that only knows Pillow's images
        return for_images(Image.fromarray(image), size, rng)
    return for_pixels(image, size, rng)


DECODERS: dict[str, type[Decoder]] = {"pillow": Pillow, "draft": Draft, "fast": Fast}


@functools.cache
def get(name: str) -> Decoder:
    """The decoder that ``data.decoder`` names.

    Raises:
      ConfigError: no such decoder, or its packages are not installed.
    """
    require_choice("data.decoder", name, DECODERS)
    return DECODERS[name]()


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a decoder's pixels are from Pillow's, in levels of 0 to 255.

    Attributes:
      decoder: its name.
      images: number of images compared.
      mean, p99, max: of the absolute difference over all pixels and channels.
    """

    decoder: str
    images: int
    mean: float
    p99: float
    max: int

    def __str__(self) -> str:
        return (
            f"{self.decoder} differs from pillow by {self.mean:.4f} of 255 levels on average, "
            f"{self.p99:.0f} at the 99th percentile and {self.max} at most, over {self.images} "
            "images of this data"
        )


def difference(
    name: str, images: Sequence[bytes | np.ndarray], size: int, resize: str = "shortest"
) -> Difference | None:
    """Compares a decoder with Pillow on images, resized and cropped in the middle.

    Args:
      name: of the decoder.
      images: those that either of them refuses are left out.
      size: target, in pixels of a side.
      resize: as ``data.resize``.

    Returns:
      None if no image can be read.
    """
    histogram = np.zeros(256, np.int64)
    count = 0
    for data in images:
        try:
            expected, got = (
                decoder.augmentation("none", resize)(decoder.decode(data, size), size, None)
                for decoder in (get("pillow"), get(name))
            )
        except BadImage:  # counted where it is trained on
            continue
        distance = np.abs(expected.astype(np.int16) - got)
        histogram += np.bincount(distance.ravel(), minlength=256)
        count += 1
    if not count:
        return None
    levels = np.arange(256)
    shares = np.cumsum(histogram) / histogram.sum()
    return Difference(
        decoder=name,
        images=count,
        mean=float((histogram * levels).sum() / histogram.sum()),
        p99=float(np.searchsorted(shares, 0.99)),
        max=int(levels[histogram > 0].max()),
    )
