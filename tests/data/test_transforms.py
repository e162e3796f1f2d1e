"""Decoding and cropping: the reference's pixels, and what hostile bytes get."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_jax.data import transforms
from clip_jax.data.image_file import BadImage
from clip_jax.data.preprocess import Preprocess


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def prepared(image, size, resize="shortest"):
    return transforms.augmentation("none", resize)(image, size, None)


def test_center_crop_equals_the_reference_on_rgb(goldens):
    """Goldens of openai/CLIP's transform. Other modes follow the reference's order of steps in
    ``clip_jax.load``'s preprocessing; the input stream shows transparency on white instead."""
    folder = goldens / "C_preprocess"
    expected = np.load(folder / "expected_u8.npz")
    checked = 0
    for name in expected.files:
        with Image.open(folder / "images" / name) as image:
            if image.mode != "RGB":
                continue
            want = expected[name]
            got = prepared(transforms.decode((folder / "images" / name).read_bytes()),
                                         want.shape[0])  # fmt: skip
        np.testing.assert_array_equal(got, want, err_msg=name)
        checked += 1
    assert checked >= 10


def test_transparency_is_shown_on_white():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4, :, 0], pixels[:4, :, 3] = 255, 255  # red above, clear black below
    out = prepared(transforms.decode(encoded(Image.fromarray(pixels))), 8)
    assert (out[0] == (255, 0, 0)).all()
    assert (out[7] == (255, 255, 255)).all()


def test_16_bit_grey_is_scaled_not_clipped():
    grey = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    out = np.asarray(transforms.decode(encoded(Image.fromarray(grey))))
    np.testing.assert_allclose(out[..., 0], grey / 257, atol=1)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA", "RGB"])
def test_every_mode_becomes_three_channels(mode):
    image = Image.fromarray(noise(9, 7)).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    out = prepared(transforms.decode(encoded(image, kind)), 6)
    assert out.shape == (6, 6, 3)
    assert out.dtype == np.uint8


def png_claiming(width, height):
    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))  # fmt: skip


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot identify"),
        (b"<html>not found</html>", "cannot identify"),
        (encoded(Image.fromarray(noise(64, 64)))[:300], "OSError|SyntaxError"),
        (png_claiming(12000, 12000), r"pixels|DecompressionBomb"),
        (png_claiming(40000, 40000), r"pixels|DecompressionBomb"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_bytes_are_refused_with_a_reason(data, reason):
    with pytest.raises(BadImage, match=reason):
        transforms.decode(data)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP"]),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_decode_or_raise_bad_image(edits, kind):
    data = bytearray(encoded(Image.fromarray(noise(24, 24)), kind))
    for position, value in edits:
        data[position % len(data)] = value
    try:
        image = transforms.decode(bytes(data))
    except BadImage:
        return
    assert image.mode in ("RGB", "RGBA")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_augmentations_keep_their_contract(height, width, size, seed):
    image = Image.fromarray(noise(height, width, 4, seed), "RGBA")
    for name, function in transforms.AUGMENTATIONS.items():
        out = function(image, size, np.random.default_rng(seed))
        again = function(image, size, np.random.default_rng(seed))
        assert out.shape == (size, size, 3), name
        assert out.dtype == np.uint8
        np.testing.assert_array_equal(out, again)


@pytest.mark.parametrize("turned", [False, True])
def test_square_crop_is_a_crop_of_the_image_resized_by_its_shorter_side(turned):
    image = np.zeros((40, 400, 3), np.uint8)
    image[..., 0] = np.arange(400) // 2
    image[..., 1] = np.linspace(0, 200, 40)[:, None]
    rng = np.random.default_rng(0)
    lefts = []
    for _ in range(300):
        source = image.transpose(1, 0, 2) if turned else image
        crop = transforms.square_crop(Image.fromarray(source), 20, rng)
        crop = crop.transpose(1, 0, 2) if turned else crop
        lefts.append(int(crop[10, 1, 0]))
        # The whole shorter side, and as much of the longer one.
        np.testing.assert_allclose(crop[[0, -1], 10, 1], [2.6, 197.4], atol=3)
        assert crop[10, -2, 0] - crop[10, 1, 0] == pytest.approx(17, abs=1)
    assert min(lefts) < 5
    assert max(lefts) > 175
    assert abs(np.mean(lefts) - 91) < 12


def test_square_crop_of_a_square_is_the_whole_square():
    image = Image.fromarray(noise(30, 30))
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(transforms.square_crop(image, 10, rng), prepared(image, 10))


def test_squash_keeps_all_of_the_image():
    image = Image.fromarray(noise(10, 30))
    want = image.resize((8, 8), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(prepared(image, 8, "squash"), np.asarray(want))
    assert (prepared(image, 8) != prepared(image, 8, "squash")).any()


def test_unknown_augmentation_is_named():
    with pytest.raises(ValueError, match=r"data.augmentation='autoaugment' is not one of"):
        transforms.augmentation("autoaugment")


def test_evaluation_images_of_nothing():
    assert transforms.evaluation_images([], Preprocess(8)).shape == (0, 8, 8, 3)
