"""Bytes to pixels for the input stream: hardened decoding, evaluation transform, training crops.

Numpy and Pillow in, uint8 numpy out; randomness comes in as a generator. Resizing is Pillow's
antialiased bicubic, which is what the released models were trained and evaluated with. Unlike
``preprocess`` alone, transparency is shown on white and 16-bit grey keeps its range.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from clip_jax.config.checks import require_choice
from clip_jax.data.emoji import augment
from clip_jax.data.image_file import errors_named, on_white, open_image, to_rgb_or_rgba
from clip_jax.data.preprocess import Preprocess

Augmentation = Callable[[Image.Image, int, np.random.Generator], np.ndarray]


def decode(data: bytes | np.ndarray, at_least: int | None = None) -> Image.Image:
    """Decodes an image, in RGBA where it has transparency and in RGB otherwise.

    Pixels, uint8[H, W, 3 or 4], are taken as they are. 16-bit grey is scaled to 8 bits (Pillow's
    own conversion clips it to white).

    Args:
      data: an encoded image, or pixels.
      at_least: a JPEG may be decoded at a half, a quarter or an eighth of its size as long as both
        sides have so many pixels; None: never.

    Raises:
      BadImage: no known format, too many pixels, or damaged data.
    """
    if isinstance(data, np.ndarray):
        return Image.fromarray(data)
    with errors_named(""):
        return to_rgb_or_rgba(open_image(data, at_least))


def evaluation(
    image_size: int, resize: str, mean: Sequence[float], std: Sequence[float]
) -> Preprocess:
    """What an evaluation of our own models does to an image: ``Preprocess``, on white."""
    return Preprocess(image_size, resize, mean=tuple(mean), std=tuple(std), transparency="white")


def square_crop(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """The paper's only augmentation (section 2.4): a random square crop of the resized image.

    The image is resized by its shorter side to ``size``, and of its longer side any stretch is
    as likely: uint8[size, size, 3]. (open_clip crops 90 to 100% of the area, in a ratio of 3/4 to
    4/3, and squashes that into a square.)
    """
    image = on_white(image)
    side = min(image.size)
    left, top = rng.uniform(0, image.width - side), rng.uniform(0, image.height - side)
    # Cropped and resized in one go: what lies outside need not be resized.
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def no_augmentation(
    image: Image.Image, size: int, rng: np.random.Generator | None, resize: str = "shortest"
) -> np.ndarray:
    """The pixels of ``evaluation``, in training too: uint8[size, size, 3]."""
    del rng
    return Preprocess(size, resize, transparency="white")(image)


RESIZES = ("shortest", "squash")  # values of ``data.resize``: what the released models did
AUGMENTATIONS: dict[str, Augmentation] = {
    "none": no_augmentation,
    "square_crop": square_crop,
    "drawing": augment.augment,
}


def augmentation(name: str, resize: str = "shortest") -> Augmentation:
    """The function that ``data.augmentation`` names; ``data.resize`` is for the one of them that
    takes whole images.

    Raises:
      ConfigError: no such augmentation.
    """
    require_choice("data.augmentation", name, AUGMENTATIONS)
    if name == "none":
        return functools.partial(no_augmentation, resize=resize)
    return AUGMENTATIONS[name]


def evaluation_images(images: Sequence[bytes | np.ndarray], preprocess: Preprocess) -> np.ndarray:
    """Decodes and prepares images: uint8[n, size, size, 3]."""
    size = preprocess.image_size
    if not images:
        return np.zeros((0, size, size, 3), np.uint8)
    return np.stack([preprocess(decode(p)) for p in images])
