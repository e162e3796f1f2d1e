"""Implementations of attention against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax.models import attention


def inputs(tokens, padding, dtype=jnp.float32, rows=3, heads=4, width=16):
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, rows, tokens, heads, width))
    pad = lambda x: jnp.asarray(np.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))), dtype)  # noqa: E731
    return pad(q), pad(k), pad(v)


def value_and_grads(q, k, v, implementation, causal, tokens):
    def loss(q, k, v):
        y = attention.attend(q, k, v, implementation, causal=causal, tokens=tokens)
        y = y[:, :tokens].astype(jnp.float32)
        return jnp.sin(y).sum(), y

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)


@pytest.mark.parametrize("causal", [False, True])
def test_what_cudnn_is_asked_for_is_the_same_attention(monkeypatch, causal):
    """With XLA in its place: lengths, mask and padding."""
    real, asked = jax.nn.dot_product_attention, []

    def record(*arguments, implementation=None, **options):
        asked.append(implementation)
        return real(*arguments, **options)

    tokens = 5
    plain = value_and_grads(*inputs(tokens, 0), "xla", causal, tokens)
    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    padded = value_and_grads(*inputs(tokens, 1), "cudnn", causal, tokens)
    assert "cudnn" in asked and attention.padded_length("cudnn", tokens) == 6
    np.testing.assert_allclose(padded[0][1], plain[0][1], atol=1e-6)
    for a, b in zip(padded[1], plain[1], strict=True):
        np.testing.assert_allclose(a[:, :tokens], b, atol=1e-5)
        np.testing.assert_array_equal(a[:, tokens:], 0)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [50, 77, 197, 257, 577])
def test_cudnn_gives_xlas_numbers(causal, tokens):
    """Values and gradients to within bfloat16's rounding of the float32 ones."""
    padding = attention.padded_length("cudnn", tokens) - tokens
    got = value_and_grads(
        *inputs(tokens, padding, jnp.bfloat16, 8, 12, 64), "cudnn", causal, tokens
    )
    want = value_and_grads(*inputs(tokens, padding, jnp.float32, 8, 12, 64), "xla", causal, tokens)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b)
        assert np.linalg.norm(a - b) <= 0.02 * np.linalg.norm(b)
