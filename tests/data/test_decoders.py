"""The decoders: how near to Pillow, and the same verdict on what is damaged."""

import io
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_jax.config import ConfigError
from clip_jax.data import decoders, image_file
from clip_jax.data.image_file import BadImage

OTHERS = ("draft", "fast")


def photo(width, height, seed=0):
    """Something like a photograph: coarse shapes under fine ones."""
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((width, height))
        for n in (3, 12, 50, 200)
    ]
    return Image.fromarray(np.mean([np.asarray(x) for x in layers], 0).astype(np.uint8))


def encoded(image, kind="JPEG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def prepared(name, data, size, augmentation="none", resize="shortest", seed=0):
    decoder = decoders.get(name)
    augment = decoder.augmentation(augmentation, resize)
    return augment(decoder.decode(data, size), size, np.random.default_rng(seed))


@pytest.mark.parametrize("size, resize", [(64, "shortest"), (64, "squash"), (224, "shortest")])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_fast_differs_from_pillow_by_hundredths_of_a_level(size, resize, options):
    # Not twice the target, so that nothing is decoded at a fraction.
    pictures = [photo(2 * size - 1, 2 * size - 40, s) for s in range(3)]
    data = [encoded(p, quality=88, **options) for p in pictures]
    found = decoders.difference("fast", data, size, resize)
    assert found.images == 3
    assert 0 < found.mean < 0.03
    assert found.p99 <= 1
    assert found.max <= 4


def test_fast_enlarges_small_images_as_pillow_does():
    found = decoders.difference("fast", [encoded(photo(31, 40))], 64)
    assert found.mean < 0.05
    assert found.max <= 3


@pytest.mark.parametrize("name", OTHERS)
def test_large_jpegs_are_decoded_at_a_fraction_and_never_below_twice_the_target(name):
    for width, height, left in (
        (400, 300, 150),
        (256, 256, 128),
        (254, 256, 254),
        (1100, 800, 200),
        (260, 2000, 130),
        (2000, 100, 100),
    ):
        decoded = decoders.get(name).decode(encoded(photo(width, height)), 64)
        shape = decoded.shape[:2] if isinstance(decoded, np.ndarray) else decoded.size[::-1]
        assert min(shape) == left, (width, height)
    found = decoders.difference(name, [encoded(photo(1100, 800, s)) for s in range(3)], 64)
    assert 0 < found.mean < 2
    assert found.max < 40


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind, mode", [
    ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("WEBP", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"),
])  # fmt: skip
def test_what_is_no_plain_jpeg_is_pillows(name, kind, mode):
    data = encoded(photo(100, 90).convert(mode), kind)
    for augmentation in ("none", "square_crop", "drawing"):
        np.testing.assert_array_equal(
            prepared(name, data, 64, augmentation), prepared("pillow", data, 64, augmentation)
        )


@pytest.mark.parametrize("name", OTHERS)
def test_pixels_are_taken_as_they_are(name):
    pixels = np.asarray(photo(90, 70))
    np.testing.assert_array_equal(prepared(name, pixels, 32), prepared("pillow", pixels, 32))


def test_the_square_crop_of_fast_is_pillows_up_to_the_rounding_of_its_corner():
    data = encoded(photo(200, 100))
    for seed in range(5):
        ours = prepared("fast", data, 64, "square_crop", seed=seed).astype(int)
        reference = prepared("pillow", data, 64, "square_crop", seed=seed)
        other = prepared("pillow", data, 64, "square_crop", seed=seed + 1)
        assert abs(ours - reference).mean() < 4 < abs(ours - other).mean()


def test_an_augmentation_that_only_knows_pillow_gets_its_images():
    data = encoded(photo(100, 90))
    ours = prepared("fast", data, 64, "drawing").astype(int)
    assert abs(ours - prepared("pillow", data, 64, "drawing")).mean() < 0.1


@pytest.mark.parametrize("name", decoders.DECODERS)
def test_what_would_become_too_long_is_refused(name):
    data = encoded(Image.new("RGB", (1, 65_000)))
    with pytest.raises(BadImage, match="1 x 65000 pixels are too long and thin"):
        prepared(name, data, 64)
    assert prepared(name, data, 64, "square_crop").shape == (64, 64, 3)
    assert prepared(name, data, 64, resize="squash").shape == (64, 64, 3)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(image_file, "MAX_PIXELS", 5000)
    monkeypatch.setattr(decoders, "MAX_PIXELS", 5000)
    for name in decoders.DECODERS:
        with pytest.raises(BadImage, match="100 x 90 pixels"):
            decoders.get(name).decode(encoded(photo(100, 90)), 4)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 3000),
    st.booleans(),
)
def test_damaged_jpegs_get_pillows_verdict(edits, cut, progressive):
    """What Pillow refuses and repairs, the others refuse and repair: the same rows are replaced."""
    data = bytearray(encoded(photo(60, 50), progressive=progressive))
    for position, value in edits:
        data[position % len(data)] = value
    data = bytes(data[: max(cut, 3)] if cut < 1500 else data)
    shapes = {}
    for name in decoders.DECODERS:
        try:
            shapes[name] = prepared(name, data, 40).shape
        except BadImage as error:
            shapes[name] = str(error)
    assert shapes["pillow"] == shapes["draft"] == shapes["fast"]


def test_decoders_travel_to_workers():
    data = encoded(photo(60, 50))
    for name in decoders.DECODERS:
        decoder = pickle.loads(pickle.dumps(decoders.get(name)))
        augment = pickle.loads(pickle.dumps(decoder.augmentation("square_crop", "shortest")))
        got = augment(decoder.decode(data, 16), 16, np.random.default_rng(0))
        np.testing.assert_array_equal(got, prepared(name, data, 16, "square_crop"))


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.raises(ConfigError, match=r"data.decoder='fast' needs the package simplejpeg: pip"):
        decoders.Fast()


def test_the_difference_leaves_out_what_cannot_be_read():
    data = [b"no image", encoded(photo(60, 50))]
    assert decoders.difference("draft", data, 16).images == 1
    assert decoders.difference("draft", data[:1], 16) is None
    text = str(decoders.difference("draft", data, 60))
    assert text == (
        "draft differs from pillow by 0.0000 of 255 levels on average, 0 at the 99th percentile "
        "and 0 at most, over 1 images of this data"
    )
