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


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_the_formula(causal):
    heads, width, n = 2, 8, 5
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, n, width)).astype(np.float32)
    attention = layers.Attention(heads, layers.torch_block_init(width, 32), causal=causal)
    p = nn.unbox(attention.init(jax.random.key(0), x))
    got = attention.apply(p, x)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), p["params"])
    qkv = np.einsum("bnd,dthk->tbnhk", x, p["qkv"]["kernel"]) + p["qkv"]["bias"][:, None, None]
    scores = np.einsum("bnhk,bmhk->bhnm", qkv[0], qkv[1]) / np.sqrt(width // heads)
    if causal:
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhnm,bmhk->bnhk", weights, qkv[2])
    want = np.einsum("bnhk,hkd->bnd", mixed, p["out"]["kernel"]) + p["out"]["bias"]
    np.testing.assert_allclose(got, want, atol=1e-5)


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


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("at", [0, "each row its own"])
def test_a_block_asked_for_one_token_gives_the_whole_blocks(causal, at):
    heads, width, n = 2, 8, 5
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, n, width)), jnp.float32)
    at = at if at == 0 else jnp.array([4, 0, 2])
    block = layers.Block(heads, 32, "gelu", layers.torch_block_init(width, 32), causal)
    p = nn.unbox(jax.jit(block.init)(jax.random.key(0), x))

    def value_and_grads(one):
        def loss(p, x):
            y = block.apply(p, x, at)[0] if one else layers.token_at(block.apply(p, x)[0], at)
            return jnp.sin(y).sum(), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(p, x)

    whole, alone = value_and_grads(False), value_and_grads(True)
    assert alone[0][1].shape == (3, 1, width)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
