"""Position embeddings for other sizes, against Pillow and plain interpolation."""

import jax
import numpy as np
import pytest
from PIL import Image

from clip_jax.interop import resize
from clip_jax.interop.mapping import LayoutError
from clip_jax.models.clip import ClipModel
from clip_jax.tokenizers import ClipTokenizer


def pillow(grid, side):
    """Pillow's antialiased bicubic on floats: the same kernel, channel by channel."""
    channels = [
        np.asarray(Image.fromarray(grid[..., i]).resize((side, side), Image.Resampling.BICUBIC))
        for i in range(grid.shape[-1])
    ]
    return np.stack(channels, axis=-1)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(("old", "new"), [(4, 7), (7, 4), (4, 9), (6, 6), (16, 5)])
def test_grid_equals_pillow_and_keeps_the_class_token(first, old, new):
    positions = np.random.default_rng(0).normal(size=(old * old + first, 3)).astype(np.float32)
    got = resize.resize_grid(positions, new)
    assert got.shape == (new * new + first, 3)
    np.testing.assert_array_equal(got[:first], positions[:first])
    want = pillow(positions[first:].reshape(old, old, 3), new).reshape(-1, 3)
    np.testing.assert_allclose(got[first:], want, atol=2e-6)


@pytest.mark.parametrize("name", ["vit", pytest.param("resnet", marks=pytest.mark.slow), "siglip"])
def test_a_model_for_another_image_size(name, made):
    weights = made(name)
    size = 2 * weights.config.vision.image_size
    bigger = resize.for_image_size(weights, size)
    assert bigger.preprocess.image_size == bigger.config.vision.image_size == size
    images = np.zeros((1, size, size, 3), np.float32)
    # Numbers at which no activation leaves the range of float32.
    small = jax.tree.map(lambda x: 0.05 * x, dict(bigger.variables))
    out = jax.jit(lambda v, x: ClipModel(bigger.config).apply(v, x, method="embed_images"))(
        small, images
    )
    assert np.isfinite(out).all()
    assert weights.config.vision.image_size == size // 2
    same = resize.for_image_size(weights, size // 2)
    assert same.config == weights.config
    with pytest.raises(LayoutError, match=f"image_size={size + 3} is not a multiple of"):
        resize.for_image_size(weights, size + 3)


def test_a_model_for_another_text_length(made):
    weights = made("vit")
    old = weights.variables["params"]["text_tower"]["position_embedding"]
    longer = resize.for_context_length(weights, 31)
    got = longer.variables["params"]["text_tower"]["position_embedding"]
    at = (np.arange(31) + 0.5) * 16 / 31 - 0.5
    want = np.stack([np.interp(at, np.arange(16), column) for column in old.T], axis=1)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert longer.config.text.context_length == 31
    with pytest.raises(LayoutError, match="context_length=1 leaves no room"):
        resize.for_context_length(weights, 1)


def test_the_tokenizer_follows_the_text_length(made):
    import dataclasses

    weights = dataclasses.replace(made("vit"), tokenizer=ClipTokenizer(16))
    assert resize.for_context_length(weights, 9).tokenizer.context_length == 9
