"""The encoder against plain computations; what it keeps for the backward pass; padding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from clip_jax.models import attention, encoder
from clip_jax.models.execution import REMAT_POLICIES, Execution
from clip_jax.models.layers import torch_block_init


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_the_formula(causal):
    heads, width, n = 2, 8, 5
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, n, width)).astype(np.float32)
    attention = encoder.Attention(heads, torch_block_init(width, 32), causal=causal)
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


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("at", [0, "each row its own"])
def test_a_block_asked_for_one_token_gives_the_whole_blocks(causal, at):
    heads, width, n = 2, 8, 5
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, n, width)), jnp.float32)
    at = at if at == 0 else jnp.array([4, 0, 2])
    block = encoder.Block(heads, 32, "gelu", torch_block_init(width, 32), causal)
    p = nn.unbox(jax.jit(block.init)(jax.random.key(0), x))

    def value_and_grads(one):
        def loss(p, x):
            y = block.apply(p, x, at)[0] if one else encoder.token_at(block.apply(p, x)[0], at)
            return jnp.sin(y).sum(), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(p, x)

    whole, alone = value_and_grads(False), value_and_grads(True)
    assert alone[0][1].shape == (3, 1, width)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.fixture
def padding_to_four(monkeypatch):
    """An implementation of attention that wants lengths divisible by 4, as cuDNN's does by 2."""
    lengths = []

    def attend(q, k, v, **options):
        lengths.append((q.shape[1], k.shape[1], options["tokens"]))
        return attention.IMPLEMENTATIONS["xla"](q, k, v, **options)

    monkeypatch.setitem(attention.IMPLEMENTATIONS, "padded", attend)
    monkeypatch.setitem(attention.MULTIPLES, "padded", 4)
    return lengths


@pytest.mark.parametrize(
    ("tokens", "causal", "at"),
    [
        (5, False, None),
        (5, False, 0),
        (5, True, None),
        (5, True, "each row its own"),
        (8, False, 0),
    ],
)
def test_padding_changes_nothing(padding_to_four, tokens, causal, at):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, tokens, 8)), jnp.float32)
    at = jnp.array([4, 0, 2]) if isinstance(at, str) else at

    plain = encoder.Encoder(2, 2, 16, "gelu", torch_block_init(8, 16), causal)
    p = nn.unbox(jax.jit(lambda key: plain.init(key, x, at))(jax.random.key(0)))

    def value_and_grads(blocks):
        def loss(p, x):
            y = blocks.apply(p, x, at)
            return jnp.sin(y).sum(), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(p, x)

    want = value_and_grads(plain)
    got = value_and_grads(plain.clone(execution=Execution(attention="padded")))
    assert set(padding_to_four) == {(8, 8, tokens)}
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(b, a, atol=2e-5)


WIDTH, MLP_WIDTH, TOKENS, ROWS = 32, 128, 6, 2


def kept(policy, dtype):
    """What a block keeps of its activations for the backward pass."""
    execution = Execution(dtype, remat_policy=policy)
    block = execution.remat(encoder.Block, in_scan=False)(
        4, MLP_WIDTH, "quick_gelu", torch_block_init(WIDTH, MLP_WIDTH), execution=execution
    )
    x = jax.ShapeDtypeStruct((ROWS, TOKENS, WIDTH), dtype)
    p = nn.unbox(jax.eval_shape(block.init, jax.random.key(0), x))
    p = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype), p)
    pull = jax.eval_shape(lambda p, x: jax.vjp(lambda p, x: block.apply(p, x)[0], p, x)[1], p, x)
    return [a for a in jax.tree.leaves(pull) if a.shape[:1] == (ROWS,)]


def test_the_backward_pass_keeps_no_wider_copy_of_an_activation():
    arrays = kept("none", jnp.bfloat16)
    wide = [a for a in arrays if a.dtype == jnp.float32 and a.shape[1] == TOKENS]
    assert arrays and not wide
    assert any(a.dtype == jnp.float32 for a in kept("none", jnp.float32))


def test_policies_keep_less_and_less():
    order = ("none", "elementwise", "mlp", "projections", "full")
    assert {"none", *REMAT_POLICIES} == {*order, "dots"}
    sizes = [sum(a.size * a.dtype.itemsize for a in kept(policy, jnp.bfloat16)) for policy in order]
    assert all(more > less for more, less in itertools.pairwise(sizes)), sizes
    assert sizes[-1] == ROWS * TOKENS * WIDTH * 2  # the block's input alone
