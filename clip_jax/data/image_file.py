"""Opening untrusted image files, with one error for everything that can be wrong with them.

Pillow in, Pillow out. ``preprocess`` turns the pixels into what released models expect,
``transforms`` into what training takes.
"""

import contextlib
import io
import os
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from clip_jax.runtime import distributed

# Animated and multi-page files give their first frame. EPS is left out: Pillow would look for a
# Ghostscript to run.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000  # an 18 KB file can claim 151 million


class BadImage(ValueError):
    """What was given is not a usable image; the message says why."""

    exit_code = distributed.BAD_DATA


@contextlib.contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Turns whatever is raised inside into a ``BadImage`` that starts with ``name``."""
    prefix = f"{name}: " if name else ""
    try:
        yield
    except BadImage as error:
        raise BadImage(f"{prefix}{error}") from error.__cause__
    # Damaged files raise OSError, SyntaxError, ValueError, struct.error, DecompressionBombError...
    except Exception as error:
        raise BadImage(f"{prefix}{type(error).__name__}: {error}") from error


def open_image(source: bytes | str | os.PathLike, at_least: int | None = None) -> Image.Image:
    """Reads an image (encoded bytes, or the path of a file) in its own mode, without EXIF rotation.

    Args:
      source: the image.
      at_least: a JPEG may be decoded at a fraction of its size, with so many pixels a side left.

    Raises:
      OSError: there is no such file, or it may not be read.
      BadImage: no known format, too many pixels, or damaged data; the message starts with the
        path, if there is one.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), at_least)
    with open(source, "rb") as file, errors_named(os.fspath(source)):
        return _read(file, at_least)


def _read(file: io.BufferedIOBase, at_least: int | None) -> Image.Image:
    with errors_named(""):
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError as error:
            known = ", ".join(FORMATS)
            raise BadImage(
                f"cannot identify the format, the data is damaged or not one of {known}"
            ) from error
        if image.width * image.height > MAX_PIXELS:
            raise BadImage(f"{image.width} x {image.height} pixels, over {MAX_PIXELS:,}")
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        image.load()
        return image


def to_rgb_or_rgba(image: Image.Image) -> Image.Image:
    """Converts to RGBA where there is transparency, to RGB otherwise.

    16-bit grey is scaled to 8 bits; Pillow's own conversion clips it to white.
    """
    if image.mode in ("RGB", "RGBA") and "transparency" not in image.info:
        return image  # Pillow would copy it
    if image.mode.startswith("I"):
        wide = np.asarray(image, np.float64)
        return Image.fromarray((wide / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    clear = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    return image.convert("RGBA" if clear else "RGB")


def on_white(image: Image.Image) -> Image.Image:
    """Converts to RGB, transparency shown on white."""
    image = to_rgb_or_rgba(image)
    if image.mode != "RGBA":
        return image
    canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(canvas, image).convert("RGB")
