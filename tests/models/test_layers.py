"""Layers against plain computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from clip_jax.models import layers


@pytest.mark.parametrize("contract", [1, 2])
def test_matmul_has_the_gradient_jax_would_derive(contract):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 5, 4, 6)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*x.shape[4 - contract :], 2, 7)), jnp.float32)

    def loss(f):
        return jax.value_and_grad(lambda x, k: jnp.sin(f(x, k)).sum(), argnums=(0, 1))(x, kernel)

    ours = loss(lambda x, k: layers.matmul(x, k, contract))
    plain = loss(lambda x, k: jnp.tensordot(x, k, contract))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4)


def test_layer_norm_in_bfloat16_computes_in_float32():
    x = (1000 + jnp.arange(64.0)).astype(jnp.bfloat16)[None]
    norm = layers.LayerNorm()
    y = norm.apply(nn.unbox(norm.init(jax.random.key(0), x)), x)
    wide = np.asarray(x, np.float64)
    want = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), want, rtol=1e-2, atol=1e-2)


def test_activations():
    x = np.linspace(-4, 4, 33)
    from math import erf

    want = {
        "quick_gelu": x / (1 + np.exp(-1.702 * x)),
        "gelu": x * 0.5 * (1 + np.array([erf(v / 2**0.5) for v in x])),
        "gelu_tanh": 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
    }
    assert want.keys() == layers.ACTIVATIONS.keys()
    for name, expected in want.items():
        got = layers.ACTIVATIONS[name](jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(got, expected, atol=1e-6)
