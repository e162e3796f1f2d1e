"""Augmentation for small drawings with transparency, such as emoji and icons.

The same thing drawn by other hands differs in pose and proportions, in palette, and in whether it
has an outline: so these vary, and so does the background. Left and right are kept: they are what
tells some drawings apart ("left arrow").
"""

import math

import numpy as np
from PIL import Image, ImageFilter

ROTATION = math.radians(6)
SCALE = (0.85, 1.05)
STRETCH = 0.12  # logarithm of the largest ratio of width to height
SHIFT = 0.06  # share of the side
SHEAR = 0.08
COLOR = 0.4  # share of images whose colours are changed
GRAY = 0.1  # share of those that lose their colour
SATURATION, CONTRAST, BRIGHTNESS, HUE = 0.5, 0.3, 0.3, 0.05
OUTLINE = 0.3  # share of images that get a black outline
WHITE = 0.85  # share of images on white; the others are on a random colour

_LUMINANCE = np.array([0.299, 0.587, 0.114])
_ACROSS_GREY = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)


def augment(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """A varied copy of a drawing on a plain background: uint8[size, size, 3]."""
    image = image.convert("RGBA")
    if rng.random() < COLOR:
        image = _recolored(image, rng)
    image = _moved(image, size, rng)
    if rng.random() < OUTLINE:
        image = _outlined(image, 5 if rng.random() < 0.7 else 3)
    color = (255, 255, 255) if rng.random() < WHITE else tuple(rng.integers(0, 256, 3).tolist())
    canvas = Image.new("RGBA", image.size, (*color, 255))
    return np.asarray(Image.alpha_composite(canvas, image).convert("RGB"))


def _recolored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Saturation, hue, contrast and brightness in one 3 x 4 matrix."""
    saturation = 0.0 if rng.random() < GRAY else 1 + rng.uniform(-SATURATION, SATURATION)
    contrast = 1 + rng.uniform(-CONTRAST, CONTRAST)
    angle = 2 * math.pi * rng.uniform(-HUE, HUE)
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = saturation * np.eye(3) + (1 - saturation) * _LUMINANCE
    matrix = (cosine * np.eye(3) + (1 - cosine) / 3 + sine * _ACROSS_GREY) @ matrix
    offset = 128 * (1 - contrast) + 128 * rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    rows = np.concatenate([contrast * matrix, np.full((3, 1), offset)], axis=1)
    out = image.convert("RGB").convert("RGB", tuple(rows.ravel().tolist()))
    out.putalpha(image.getchannel("A"))
    return out


def _moved(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """A random affine map about the centre, and the change of size, in one resampling."""
    scale, stretch = rng.uniform(*SCALE), math.exp(rng.uniform(-STRETCH, STRETCH) / 2)
    angle, shear = rng.uniform(-ROTATION, ROTATION), rng.uniform(-SHEAR, SHEAR)
    cosine, sine = math.cos(angle), math.sin(angle)
    zoom = max(image.size) / size
    x_scale, y_scale = scale * stretch, scale / stretch
    a, b = zoom * cosine / x_scale, zoom * (sine + shear) / x_scale
    c, d = -zoom * sine / y_scale, zoom * cosine / y_scale
    x, y = size / 2 + size * rng.uniform(-SHIFT, SHIFT, 2)
    # Premultiplied, or the colour of clear pixels would bleed into the edges.
    return (
        image.convert("RGBa")
        .transform(
            (size, size),
            Image.Transform.AFFINE,
            (a, b, image.width / 2 - a * x - b * y, c, d, image.height / 2 - c * x - d * y),
            resample=Image.Resampling.BILINEAR,
        )
        .convert("RGBA")
    )


def _outlined(image: Image.Image, width: int) -> Image.Image:
    """The drawing over its own black shadow, grown by width // 2 pixels."""
    grown = image.getchannel("A").filter(ImageFilter.MaxFilter(width))
    shadow = Image.new("RGBA", image.size, (0, 0, 0, 255))
    shadow.putalpha(grown)
    return Image.alpha_composite(shadow, image)
