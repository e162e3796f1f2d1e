"""How a model is computed changes none of its numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from clip_jax import config as config_lib
from clip_jax.models import clip


def model_config(**changes):
    c = config_lib.defaults().model
    c.update(changes)
    return c


def apply(model, variables, *inputs):
    return jax.jit(model.apply)(variables, *inputs)


@pytest.mark.parametrize("variant", ["ViT-Test/8", pytest.param("RN-Test", marks=pytest.mark.slow)])
def test_weights_that_are_cast_once_give_the_same_numbers(variant):
    model = clip.build(model_config(variant=variant, dtype="bfloat16"))
    size = model.config.vision.image_size
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    tokens = np.array([[1, 5, 63, 0], [7, 63, 0, 0]], np.int32)
    variables = nn.unbox(jax.jit(model.init)(jax.random.key(0), images, tokens))
    copy = clip.compute_copy(model, variables["params"])
    dtypes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.dtype
        for path, leaf in jax.tree_util.tree_flatten_with_path(copy)[0]
    }
    assert all((d == jnp.bfloat16) == name.endswith(("kernel", "token_embedding"))
               for name, d in dtypes.items())  # fmt: skip
    for a, b in zip(
        apply(model, variables, images, tokens),
        apply(model, {**variables, "params": copy}, images, tokens),
        strict=True,
    ):
        if a is not None:
            np.testing.assert_array_equal(a, b)
