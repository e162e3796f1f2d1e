"""Images as released weights expect them: resize, crop and normalisation, as one value.

A ``Preprocess`` says everything that decides the pixels a model sees, so that it can be stored
beside the weights and compared; ``preprocess_formats`` reads and writes what Hugging Face and
open_clip store. Resizing is Pillow's, antialiased: nothing else gives the reference's numbers.
"""

import dataclasses
import math
import numbers
import os
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps

from clip_jax.data.image_file import MAX_PIXELS, BadImage, errors_named, on_white, open_image
from clip_jax.runtime.digests import Json, json_digest

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
RESIZES = ("shortest", "squash", "longest")
MAX_SIDE = math.isqrt(MAX_PIXELS)
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

ImageInput = Image.Image | str | os.PathLike | bytes | np.ndarray


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """The way from an image to the input of an image tower.

    The image is resized and cropped in its own mode and only then converted to RGB, as openai/CLIP
    and open_clip do it and released weights expect it: palette and bilevel images are resized
    without smoothing, transparent ones with colours weighted by their opacity, which is then
    dropped, CMYK ones in CMYK; 16-bit grey saturates to white. EXIF orientation is ignored. (Our
    own models show transparency on white and keep the range of 16-bit grey.)

    Attributes:
      image_size: side n of the square that comes out.
      resize: "shortest": the shorter side becomes n, then the central square (openai/CLIP);
        "squash": both sides become n (SigLIP); "longest": the longer side becomes n, then both
        ends are filled up (open_clip).
      interpolation: "bicubic" or "bilinear", both antialiased.
      mean, std: of pixels in 0 to 1, by channel.
      transparency: "drop", as released weights expect, or "white".
      fill: value of what "longest" adds, 0 to 255, in each channel of the image's own mode.

    Raises:
      ValueError: a value is not one of these.
    """

    image_size: int
    resize: str = "shortest"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    fill: int = 0
    transparency: str = "drop"

    def __post_init__(self):
        object.__setattr__(self, "image_size", _integer("image_size", self.image_size, 1, MAX_SIDE))
        object.__setattr__(self, "fill", _integer("fill", self.fill, 0, 255))
        for name, allowed in (
            ("resize", RESIZES),
            ("interpolation", tuple(FILTERS)),
            ("transparency", ("drop", "white")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {allowed}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, _three_floats(name, getattr(self, name)))
        if min(self.std) <= 0:
            raise ValueError(f"std={self.std} must be positive: pixels are divided by it")

    def __call__(self, image: ImageInput) -> np.ndarray:
        """Resizes and crops one image: uint8[n, n, 3].

        Args:
          image: a Pillow image, path, encoded bytes, or pixels uint8[H, W] or uint8[H, W, 3 or 4].
            (Of floats nothing tells whether they are in 0 to 1, in 0 to 255 or normalised.)

        Raises:
          OSError: the file cannot be opened.
          BadImage: not a usable image, or too long to be resized in memory; names the file.
          TypeError: ``image`` is none of these.
        """
        image, name = _opened(image)
        with errors_named(name):
            if not min(image.size):
                raise BadImage(f"{image.width} x {image.height} pixels")
            if self.transparency == "white":
                image = on_white(image)
            size = self._resized(*image.size)
            if size[0] * size[1] > MAX_PIXELS:
                raise BadImage(
                    f"{image.width} x {image.height} pixels are too long and thin: they would "
                    f"become {size[0]} x {size[1]}, crop the image first"
                )
            image = self._squared(image.resize(size, FILTERS[self.interpolation]))
            return np.array(image.convert("RGB"))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing."""
        n, (short, long) = self.image_size, sorted((width, height))
        if self.resize == "squash":
            return n, n
        if self.resize == "shortest":
            scaled = int(n * long / short)  # torchvision truncates
            return (n, scaled) if width <= height else (scaled, n)
        ratio = long / n
        # A strip keeps a pixel; open_clip rounds to 0 and fails.
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _squared(self, image: Image.Image) -> Image.Image:
        """The central square of a resized image, filled up where it is too narrow."""
        n, (width, height) = self.image_size, image.size
        if self.resize == "longest":
            left, top = (n - width) // 2, (n - height) // 2
            bands = len(image.getbands())
            fill = self.fill if bands == 1 else (self.fill,) * bands
            return ImageOps.expand(image, (left, top, n - width - left, n - height - top), fill)
        # Half to even, as torchvision rounds: an excess of 1 gives 0, one of 3 gives 2.
        left, top = round((width - n) / 2), round((height - n) / 2)
        return image.crop((left, top, left + n, top + n))

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """Normalises as the reference does: float32, ``(images / 255 - mean) / std``.

        Raises:
          ValueError: ``images`` are not uint8[..., 3].
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[-1:] != (3,):
            raise ValueError(
                f"images are {images.dtype}{list(images.shape)}, not uint8[..., 3]: "
                "give what Preprocess returns"
            )
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return (images.astype(np.float32) / np.float32(255) - mean) / std

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over everything that decides the pixels."""
        return json_digest(self.to_dict())

    def to_dict(self) -> dict[str, Json]:
        """All fields, as JSON can hold them."""
        return dataclasses.asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Json]) -> "Preprocess":
        """The inverse of ``to_dict``.

        Raises:
          ValueError: a key is unknown or missing, or a value is not legal.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        for problem, keys in (("unknown", fields.keys() - names), ("no", names - fields.keys())):
            if keys:
                raise ValueError(
                    f"preprocessing has {problem} {sorted(keys)}; its keys are {sorted(names)}"
                )
        return cls(**fields)


def _opened(image: ImageInput) -> tuple[Image.Image, str]:
    """An image in its own mode, and its name for errors."""
    if isinstance(image, Image.Image):
        return image, getattr(image, "filename", "") or "image"
    if isinstance(image, np.ndarray):
        return _of_pixels(image), "image"
    if isinstance(image, bytes):
        with errors_named("image"):
            return open_image(image), "image"
    if isinstance(image, str | os.PathLike):
        return open_image(image), os.fspath(image)
    raise TypeError(
        f"image is {type(image).__name__}: give one image as Pillow image, path, encoded bytes "
        "or numpy array"
    )


def _of_pixels(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8:
        raise BadImage(
            f"pixels are {pixels.dtype}, not uint8: convert floats in 0 to 1 by "
            "(255 * pixels).round().astype('uint8')"
        )
    if pixels.ndim != 2 and not (pixels.ndim == 3 and pixels.shape[2] in (3, 4)):
        raise BadImage(
            f"pixels are uint8{list(pixels.shape)}, not [H, W], [H, W, 3] or [H, W, 4]: give one "
            "image at a time, channels last"
        )
    return Image.fromarray(pixels)


def _integer(name: str, value: object, low: int, high: int) -> int:
    good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not good or not low <= value <= high:
        raise ValueError(f"{name}={value!r} is not an integer of {low} to {high}")
    return int(value)


def _three_floats(name: str, values: object) -> tuple[float, float, float]:
    try:
        floats = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        floats = ()
    if len(floats) != 3 or not all(map(math.isfinite, floats)):
        raise ValueError(f"{name}={values!r} is not 3 finite numbers, one a channel")
    return floats
