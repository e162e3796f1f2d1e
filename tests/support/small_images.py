"""Images of one color and a few pixels, and files of them."""

from PIL import Image


def image(color=0, mode="RGB", size=(9, 8)):
    return Image.new("RGB", size, (color, 10, 200)).convert(mode)


def write(path, color=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image(color, mode).save(path)
    return path
