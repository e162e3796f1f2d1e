"""The augmentation of drawings: its contract, and each of its parts."""

import numpy as np
import pytest
from PIL import Image

from clip_jax.data.emoji import augment


@pytest.fixture
def square():
    """A red square with a clear margin."""
    pixels = np.zeros((48, 48, 4), np.uint8)
    pixels[12:36, 12:36] = (255, 0, 0, 255)
    return Image.fromarray(pixels)


def off(monkeypatch, **changes):
    """Turns every part off but those given."""
    still = {"ROTATION": 0.0, "SCALE": (1.0, 1.0), "STRETCH": 0.0, "SHIFT": 0.0, "SHEAR": 0.0,
             "COLOR": 0.0, "OUTLINE": 0.0, "WHITE": 1.0}  # fmt: skip
    for name, value in (still | changes).items():
        monkeypatch.setattr(augment, name, value)


def test_contract(square):
    for size in (16, 48, 64):
        a = augment.augment(square, size, np.random.default_rng(3))
        b = augment.augment(square, size, np.random.default_rng(3))
        assert a.shape == (size, size, 3)
        assert a.dtype == np.uint8
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, augment.augment(square, 64, np.random.default_rng(4)))


def test_with_everything_off_it_is_the_image_on_white(square, monkeypatch):
    off(monkeypatch)
    out = augment.augment(square, 48, np.random.default_rng(0))
    want = np.full((48, 48, 3), 255, np.uint8)
    want[12:36, 12:36] = (255, 0, 0)
    np.testing.assert_array_equal(out, want)


def test_edges_do_not_take_the_colour_of_clear_pixels(square, monkeypatch):
    """The clear pixels are black; blended in, they would leave a dark rim."""
    off(monkeypatch, ROTATION=0.5)
    out = augment.augment(square, 48, np.random.default_rng(0)).astype(int)
    assert (out[..., 0] >= 253).all()


def test_an_outline_grows_the_drawing_in_black(square, monkeypatch):
    off(monkeypatch, OUTLINE=1.0)
    out = augment.augment(square, 48, np.random.default_rng(0))
    black = (out == 0).all(-1)
    ys, xs = np.nonzero(black)
    assert black.sum() > 80
    assert min(ys.min(), xs.min()) >= 10
    assert max(ys.max(), xs.max()) <= 37
    assert (out[13:35, 13:35] == (255, 0, 0)).all()


def test_colours_change_inside_only(square, monkeypatch):
    off(monkeypatch, COLOR=1.0)
    outs = [augment.augment(square, 48, np.random.default_rng(i)) for i in range(20)]
    assert len({tuple(o[24, 24]) for o in outs}) > 15
    assert all((o[:10] == 255).all() for o in outs)


def test_backgrounds_vary(square, monkeypatch):
    off(monkeypatch, WHITE=0.0)
    corners = {tuple(augment.augment(square, 48, np.random.default_rng(i))[0, 0]) for i in range(9)}
    assert len(corners) == 9


def test_it_moves_and_scales_within_bounds(square, monkeypatch):
    off(monkeypatch, SHIFT=0.1, SCALE=(0.8, 1.05))
    areas, centres = [], []
    for i in range(60):
        red = augment.augment(square, 48, np.random.default_rng(i))[..., 1] < 128
        areas.append(red.sum() ** 0.5 / 24)
        centres.append(np.mean(np.nonzero(red), axis=1) - 23.5)
    assert 0.75 < min(areas) < 0.9
    assert 1.0 < max(areas) < 1.1
    assert 3 < np.abs(centres).max() < 5.5
