"""Rounding by chance: right on average, exact where it can be, and the same on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clip_jax import config as config_lib
from clip_jax.models import clip
from clip_jax.runtime import mesh
from clip_jax.training import optim, program
from clip_jax.training.optim import stochastic_rounding


def test_neighbours_in_the_right_proportion():
    """65,536 draws a value: the mean is within 5 standard errors, which a bias of a hundredth of
    the spacing would leave."""
    for value in (1.0 + 2**-9, 1.0 + 3 * 2**-10, -2.7182817, 3e-5, 1e30):
        x = jnp.full((65536,), value, jnp.float32)
        found = np.asarray(stochastic_rounding.stochastic_round(jax.random.key(0), x), np.float64)
        low, high = np.unique(found)
        assert low < float(x[0]) < high
        error = (high - low) / 2 / 256
        assert abs(found.mean() - float(x[0])) < 5 * error
        # The neighbours are neighbours: nothing lies between them.
        between = jnp.float32((low + high) / 2).astype(jnp.bfloat16)
        assert float(between) in (low, high)


def test_what_bfloat16_holds_stays():
    exact = jnp.array([0.0, -0.0, 1.0, -1.5, jnp.inf, -jnp.inf, 2.0**-126], jnp.float32)
    for seed in range(20):
        found = stochastic_rounding.stochastic_round(jax.random.key(seed), exact)
        np.testing.assert_array_equal(np.asarray(found, np.float32), exact)
    assert np.isnan(stochastic_rounding.stochastic_round(jax.random.key(0), jnp.float32(jnp.nan)))


def test_a_moment_that_the_nearest_would_freeze_follows_its_mean():
    """The second moment of gradients of size 1, started at 0: after 2,000 steps it is 1 - 0.999^n,
    where rounding to the nearest stops growing at a quarter of it."""
    params = {"w": jnp.zeros(512)}
    grads = {"w": jnp.ones(512)}
    exact = optax.scale_by_adam(0.9, 0.999)
    tx = stochastic_rounding.with_bf16_state(exact, 0)

    def many(tx):
        def step(state, _):
            return tx.update(grads, state)[1], None

        return jax.jit(lambda s: jax.lax.scan(step, s, length=2000)[0])(tx.init(params))

    state = many(tx)
    assert state.inner.nu["w"].dtype == state.inner.mu["w"].dtype == jnp.bfloat16
    assert state.inner.count.dtype == jnp.int32 and int(state.inner.count) == 2000
    want = 1 - 0.999**2000
    assert abs(float(state.inner.nu["w"].astype(jnp.float32).mean()) - want) < 0.01
    frozen = jnp.bfloat16(0)
    for _ in range(2000):
        frozen = jnp.bfloat16(0.999 * np.float32(frozen) + np.float32(0.001))
    assert float(frozen) < 0.5 * want


def test_the_option_halves_what_the_optimizer_keeps():
    c = config_lib.defaults().optim
    params = {"image_tower": {"fc": {"kernel": jnp.ones((64, 64))}}}
    sizes = {}
    for c.moment_dtype in ("float32", "bfloat16"):
        tx = optim.build(c, optim.warmup_cosine(c.learning_rate, 0, 10))
        state = tx.init(params)
        sizes[c.moment_dtype] = sum(x.nbytes for x in jax.tree.leaves(state))
        updates, after = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
        assert updates["image_tower"]["fc"]["kernel"].dtype == jnp.float32
    assert sizes["bfloat16"] < 0.51 * sizes["float32"]


def test_rounding_does_not_depend_on_the_mesh():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 16)), jnp.float32)
    rounding = jax.jit(stochastic_rounding.stochastic_round)
    whole = rounding(jax.random.key(3), x)
    on = mesh.create_mesh({"data": 8})
    sharded = rounding(jax.random.key(3), jax.device_put(x, mesh.batch_sharding(on)))
    np.testing.assert_array_equal(np.asarray(whole, np.float32), np.asarray(sharded, np.float32))


def test_weights_that_the_nearest_would_freeze_follow_their_mean():
    """Updates of 1e-4 on weights of 1, whose next bfloat16 is 1 + 2^-7: in 1,000 steps 1.1."""
    text = {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(64)}
    params = stochastic_rounding.cast_text_params(
        {"text_tower": text, "image_tower": {"kernel": jnp.ones(8)}}
    )
    assert params["text_tower"]["kernel"].dtype == jnp.bfloat16
    assert params["text_tower"]["bias"].dtype == params["image_tower"]["kernel"].dtype == "float32"
    tx = stochastic_rounding.with_bf16_params(optax.sgd(1e-4), seed=0)
    grads = jax.tree.map(lambda x: -jnp.ones(x.shape), params)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    after, _ = jax.jit(lambda c: jax.lax.scan(step, c, length=1000)[0])((params, tx.init(params)))
    kernel = np.asarray(after["text_tower"]["kernel"], np.float64)
    assert after["text_tower"]["kernel"].dtype == jnp.bfloat16
    # A weight's deviation is about sqrt(1000 * 2^-7 * 1e-4) = 0.028; the mean of 4,096, 0.0005.
    assert abs(kernel.mean() - 1.1) < 0.003
    assert 0.015 < kernel.std() < 0.04
    for exact in (after["text_tower"]["bias"], after["image_tower"]["kernel"]):
        np.testing.assert_allclose(exact, 1.1, rtol=1e-4)


@pytest.mark.slow
def test_text_weights_and_moments_in_half_precision_train():
    c = config_lib.defaults()
    c.model.variant, c.model.dtype, c.train.batch_size = "ViT-Test/8", "float32", 16
    c.optim.warmup_examples, c.optim.ema_decay = 0, 0.9
    c.model.text.param_dtype = c.optim.moment_dtype = "bfloat16"
    on = mesh.create_mesh({"data": 1}, jax.devices()[:1])
    model = clip.build(c.model)
    made = program.build(c, model, on)
    start = made.create(0)
    inputs = jax.tree.map(
        lambda v: jnp.zeros(v.shape, v.dtype), program.abstract_batch(c, model, on)
    )
    inputs = inputs._replace(images=inputs.images + 1, tokens=(inputs.tokens + 1).at[:, 5].set(63))
    before = jax.tree.map(np.asarray, start.params)
    with jax.set_mesh(on):
        after, metrics = made.train_step(start, inputs)
    assert np.isfinite(float(metrics["loss"]))
    types = jax.tree.map(lambda x: x.dtype, after.params)
    assert types == jax.tree.map(lambda x: x.dtype, before)
    moved = jax.tree.map(lambda a, b: np.mean(np.asarray(a) != b), after.params, before)
    assert max(jax.tree.leaves(moved["text_tower"]["encoder"])) > 0.01
    for variables in (after.eval_variables, after.replace(ema=None).eval_variables):
        assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
