"""The text tower: captions without their padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from clip_jax.models.text import TextConfig, TextTransformer

CONFIG = TextConfig(16, 3, 2, context_length=40, vocab_size=100, eot_id=99)


def test_without_its_padding_a_text_has_the_same_feature_and_gradients():
    tokens = np.random.default_rng(0).integers(1, 98, (4, 40)).astype(np.int32)
    for row, end in zip(tokens, (3, 9, 14, 15), strict=True):
        row[end], row[end + 1 :] = 99, 0
    tower = TextTransformer(CONFIG, 8, "quick_gelu")
    params = nn.unbox(jax.jit(tower.init)(jax.random.key(0), tokens))

    def value_and_grads(length):
        def loss(p):
            y = tower.apply(p, tokens[:, :length])
            return jnp.sin(3 * y).sum(), y

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    assert CONFIG.longest(tokens) == CONFIG.static_length(16) == 16
    for a, b in zip(
        jax.tree.leaves(value_and_grads(16)), jax.tree.leaves(value_and_grads(40)), strict=True
    ):
        # Gradients reach 100: sums of another length move the last bits of their size.
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6 * float(np.abs(b).max()))


@pytest.mark.parametrize(("longest", "length"), [(1, 16), (16, 16), (17, 32), (33, 40)])
def test_the_static_length_is_the_least_that_holds_the_text(longest, length):
    assert CONFIG.static_length(longest) == length


def test_tokens_beyond_the_context_are_refused_and_not_cut():
    with pytest.raises(ValueError, match=r"tokens \(2, 60\) exceed context_length=40"):
        CONFIG.longest(np.zeros((2, 60), np.int32))
