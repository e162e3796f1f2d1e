"""Preprocess: the reference's pixels, other resize modes, and what unusable input gets."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_jax.data import preprocess
from clip_jax.data.image_file import BadImage
from clip_jax.data.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def random_image(mode, height, width, seed=0):
    """A noise image. Above 8 bits, values stay low, or all would become white."""
    pixels = noise(height, width, 4, seed)
    if mode in ("I", "I;16", "F"):
        dtype = {"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode]
        return Image.fromarray(pixels[..., 0].astype(dtype))
    image = Image.fromarray(pixels)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def plain(image, n, interpolation="bicubic"):
    """openai/CLIP's transform in integers: what "shortest" must give."""
    width, height = image.size
    short = min(width, height)
    width, height = n * width // short, n * height // short
    pixels = np.asarray(image.resize((width, height), FILTERS[interpolation]).convert("RGB"))
    left, top = ((excess + (excess % 4 == 3)) // 2 for excess in (width - n, height - n))
    return pixels[top : top + n, left : left + n]


def golden_names(folder):
    facts = json.loads((folder / "images.json").read_text())
    return {fact["file"]: fact["n_px"] for fact in facts}


def test_equals_openai_on_every_golden(goldens):
    folder = goldens / "C_preprocess"
    expected = np.load(folder / "expected_u8.npz")
    sizes = golden_names(folder)
    assert len(sizes) == len(expected.files) >= 20
    for name, n in sizes.items():
        got = Preprocess(n)(folder / "images" / name)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, expected[name], err_msg=name)


def test_normalized_equals_openai_bit_for_bit(goldens):
    folder = goldens / "C_preprocess"
    expected = np.load(folder / "expected_f32_small.npz")
    sizes = golden_names(folder)
    assert expected.files
    for name in expected.files:
        transform = Preprocess(sizes[name])
        got = transform.normalize(transform(folder / "images" / name))
        assert got.dtype == expected[name].dtype == np.float32
        np.testing.assert_array_equal(got.transpose(2, 0, 1), expected[name], err_msg=name)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(MODES),
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 40),
    st.sampled_from(sorted(FILTERS)),
)
def test_shortest_equals_plain_pillow(mode, height, width, n, interpolation):
    image = random_image(mode, height, width, seed=height * width)
    got = Preprocess(n, interpolation=interpolation)(image)
    np.testing.assert_array_equal(got, plain(image, n, interpolation))


@pytest.mark.parametrize(("excess", "offset"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (7, 4)])
def test_crop_rounds_half_to_even(excess, offset):
    pixels = noise(8, 8 + excess)
    np.testing.assert_array_equal(Preprocess(8)(pixels), pixels[:, offset : offset + 8])
    turned = pixels.transpose(1, 0, 2)
    np.testing.assert_array_equal(Preprocess(8)(turned), turned[offset : offset + 8])


def test_length_is_truncated():
    # 10 * 59 / 20 = 29.5: 29 are left, of which 19 are cut off, 10 of them on the left.
    image = Image.fromarray(noise(20, 59))
    want = np.asarray(image.resize((29, 10), Image.Resampling.BICUBIC))[:, 10:20]
    np.testing.assert_array_equal(Preprocess(10)(image), want)


@pytest.mark.parametrize("interpolation", sorted(FILTERS))
def test_resizing_is_antialiased(interpolation):
    checkerboard = (np.indices((240, 240)).sum(0) % 2 * 255).astype(np.uint8)
    got = Preprocess(16, interpolation=interpolation)(checkerboard).astype(int)
    assert np.abs(got[1:-1, 1:-1] - 127.5).max() < 4


@pytest.mark.parametrize("resize", preprocess.RESIZES)
def test_rgb_comes_last(resize):
    """Palette and bilevel images get no new colours, clear pixels no say in the colour."""
    coarse = noise(30, 42) // 128 * 255
    for mode in ("P", "1"):
        got = Preprocess(16, resize=resize)(Image.fromarray(coarse).convert(mode))
        colours = np.unique(Image.fromarray(coarse).convert(mode).convert("RGB"))
        assert np.isin(got, colours).all(), mode
    half = np.zeros((40, 40, 4), np.uint8)
    half[:, :20] = (200, 100, 50, 255)
    half[:, 20:] = (0, 255, 255, 0)
    got = Preprocess(15, resize=resize)(half)
    assert np.abs(got[:, 7].astype(int) - (200, 100, 50)).max() <= 2  # half of it is clear
    assert (got[:, 12:] == 0).all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MODES), st.integers(1, 50), st.integers(1, 50), st.integers(1, 40))
def test_squash_resizes_both_sides(mode, height, width, n):
    image = random_image(mode, height, width)
    want = image.resize((n, n), Image.Resampling.BICUBIC).convert("RGB")
    np.testing.assert_array_equal(Preprocess(n, resize="squash")(image), np.asarray(want))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["L", "RGB", "RGBA", "LA", "YCbCr"]),
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(1, 40),
    st.integers(0, 255),
)
def test_longest_is_filled_up_at_both_ends(mode, height, width, n, fill):
    image = random_image(mode, height, width)
    got = Preprocess(n, resize="longest", fill=fill)(image)
    ratio = max(height, width) / n
    inside = max(1, round(width / ratio)), max(1, round(height / ratio))
    assert max(inside) == n
    want = Image.new(mode, (n, n), (fill,) * len(image.getbands()) if mode != "L" else fill)
    resized = image.resize(inside, Image.Resampling.BICUBIC)
    want.paste(resized, ((n - inside[0]) // 2, (n - inside[1]) // 2))
    np.testing.assert_array_equal(got, np.asarray(want.convert("RGB")))


def test_longest_puts_the_odd_line_last():
    got = Preprocess(32, resize="longest", fill=9)(np.full((47, 100), 200, np.uint8))
    assert (got[:8] == 9).all()  # 15 rows remain: 8 above, 9 below
    assert (got[8:23] == 200).all()
    assert (got[23:] == 9).all()


def test_longest_fills_in_the_images_own_mode():
    """As torchvision's pad: 0 is no ink in CMYK, and the first colour of a palette."""
    wide = Image.new("CMYK", (40, 20), (255, 255, 255, 255))
    assert (Preprocess(20, resize="longest")(wide)[0] == 255).all()
    palette = Image.new("P", (40, 20), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    got = Preprocess(20, resize="longest")(palette)
    assert (got[0] == (10, 20, 30)).all()
    assert (got[10] == (40, 50, 60)).all()


def test_longest_keeps_a_pixel_of_a_strip():
    got = Preprocess(8, resize="longest")(np.full((1, 1000, 3), 255, np.uint8))
    assert (got.max((1, 2)) == 255).sum() == 1


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"),
     ("GIF", "P"), ("WEBP", "RGB"), ("TIFF", "CMYK"), ("TIFF", "1"), ("BMP", "RGB"), ("PPM", "L")],
)  # fmt: skip
def test_path_bytes_and_image_agree(kind, mode, tmp_path):
    path = tmp_path / f"image.{kind}"
    data = encoded(random_image(mode, 31, 44), kind)
    path.write_bytes(data)
    transform = Preprocess(16)
    with Image.open(path) as image:
        want = plain(image, 16)
    for given_ in (path, str(path), data, Image.open(io.BytesIO(data))):
        np.testing.assert_array_equal(transform(given_), want)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_animation_gives_its_first_frame(kind, tmp_path):
    frames = [Image.new("RGB", (20, 30), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / "animation"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:])
    got = Preprocess(8)(path)
    assert np.abs(got.astype(int) - (255, 0, 0)).max() <= 3


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = random_image("RGB", 30, 20)
    got = Preprocess(16)(encoded(image, exif=exif))
    np.testing.assert_array_equal(got, plain(image, 16))


def test_arrays_are_images():
    pixels = noise(20, 33, 4)
    transform = Preprocess(16)
    for array in (pixels, pixels[..., :3], pixels[..., 0]):
        want = plain(Image.fromarray(np.ascontiguousarray(array)), 16)
        np.testing.assert_array_equal(transform(array), want)


def test_the_result_is_the_callers_own():
    pixels = noise(16, 16)
    got = Preprocess(16)(pixels)
    got[:] = 0
    assert pixels.any()


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((8, 8, 3), np.float32), r"float32, not uint8: convert .*255"),
        (np.zeros((8, 8), bool), "bool, not uint8"),
        (np.zeros((8, 8, 3), np.int64), "int64, not uint8"),
        (np.zeros((3, 8, 8), np.uint8), r"\[3, 8, 8\].*channels last"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"\[2, 8, 8, 3\].*one image at a time"),
        (np.zeros((8, 8, 1), np.uint8), r"\[8, 8, 1\], not \[H, W\]"),
        (np.zeros((0, 8, 3), np.uint8), "image: 8 x 0 pixels"),
    ],
)
def test_other_arrays_are_refused(pixels, reason):
    with pytest.raises(BadImage, match=reason):
        Preprocess(8)(pixels)


@pytest.mark.parametrize("thing", [None, 3, [noise(8, 8)], io.BytesIO(b"")])
def test_other_things_are_refused(thing):
    with pytest.raises(TypeError, match=f"image is {type(thing).__name__}: give one image"):
        Preprocess(8)(thing)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot identify the format"),
        (b"<html>not found</html>", "not one of JPEG, PNG"),
        (encoded(Image.fromarray(noise(64, 64)))[:3000], "truncated"),
        (encoded(Image.fromarray(noise(64, 64)), "JPEG")[:2000], "truncated"),
    ],
)
def test_a_bad_file_is_named(content, reason, tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    for source in (path, str(path)):
        with pytest.raises(BadImage, match=rf"^{path}: .*{reason}"):
            Preprocess(8)(source)
    with pytest.raises(BadImage, match=rf"^image: .*{reason}"):
        Preprocess(8)(content)


def test_a_bad_file_that_the_caller_opened_is_named(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(encoded(Image.fromarray(noise(64, 64)))[:3000])
    with Image.open(path) as image, pytest.raises(BadImage, match=rf"^{path}: .*truncated"):
        Preprocess(8)(image)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        Preprocess(8)(tmp_path / "nowhere.png")
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        Preprocess(8)(tmp_path)


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path):
    """A line of 60,000 pixels is a file of 100 bytes, and 3 gigapixels when 224 high."""
    path = tmp_path / "line.png"
    Image.new("L", (60_000, 1)).save(path)
    with pytest.raises(BadImage, match=rf"^{path}: 60000 x 1 .* become 13440000 x 224, crop"):
        Preprocess(224)(path)


def test_normalize_says_what_it_takes():
    transform = Preprocess(8, mean=(0.5, 0.25, 0), std=(0.5, 1, 2))
    got = transform.normalize(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
    np.testing.assert_array_equal(got, np.float32([[[-1, -0.25, 0], [1, 0.75, 0.5]]]))
    assert got.dtype == np.float32
    for wrong in (np.zeros((8, 8, 3), np.float32), np.zeros((3, 8, 8), np.uint8), np.uint8(3)):
        with pytest.raises(ValueError, match=r"not uint8\[\.\.\., 3\]"):
            transform.normalize(wrong)


def test_normalize_divides_in_float32():
    """A product with 1 / 255 would differ in the last bit for some values."""
    f32 = np.float32
    got = Preprocess(8).normalize(np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1))
    for value in range(256):
        for channel, (mean, std) in enumerate(zip(OPENAI_MEAN, OPENAI_STD, strict=True)):
            want = (f32(value) / f32(255) - f32(mean)) / f32(std)
            assert got[value, channel] == want, (value, channel)
