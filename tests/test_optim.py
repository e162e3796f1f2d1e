"""The schedule at its corners, the decay mask by name, AdamW against a plain computation."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clip_jax import config as config_lib
from clip_jax import optim


def test_schedule_corners():
    s = optim.warmup_cosine(1.0, 10, 110)
    assert float(s(0)) == pytest.approx(0.1)
    assert float(s(9)) == pytest.approx(1.0)
    assert float(s(10)) == pytest.approx(1.0)
    assert float(s(60)) == pytest.approx(0.5)
    assert float(s(109)) == pytest.approx(0.5 * (1 + np.cos(np.pi * 0.99)), abs=1e-7)
    assert float(s(110)) == pytest.approx(0.0, abs=1e-7)
    assert float(optim.warmup_cosine(2.0, 0, 10)(0)) == pytest.approx(2.0)


def test_warmup_longer_than_training_names_both_keys():
    with pytest.raises(ValueError, match=r"optim.warmup_examples.*train.examples"):
        optim.warmup_cosine(1.0, 10, 10)


PARAMS = {
    "logit_scale": jnp.float32(1.0),
    "image_tower": {
        "class_embedding": jnp.ones(4),
        "position_embedding": jnp.ones((5, 4)),
        "encoder": {
            "fc": {"kernel": jnp.ones((2, 4, 8)), "bias": jnp.ones((2, 8))},
            "norm": {"scale": jnp.ones((2, 4)), "bias": jnp.ones((2, 4))},
        },
    },
}


@pytest.mark.parametrize(("rule", "positions"), [("paper", True), ("open_clip", False)])
def test_decay_mask(rule, positions):
    mask = optim.decay_mask(rule)(PARAMS)
    assert mask == {
        "logit_scale": False,
        "image_tower": {
            "class_embedding": False,
            "position_embedding": positions,
            "encoder": {
                "fc": {"kernel": True, "bias": False},
                "norm": {"scale": False, "bias": False},
            },
        },
    }


def test_adamw_equals_the_formula():
    config = config_lib.defaults().optim
    config.update(learning_rate=0.01, weight_decay=0.5, warmup_examples=0)
    tx, schedule = optim.build(config, 0, 10)
    params = {"fc": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0, 4.0])}}
    state = tx.init(params)
    p = {k: np.asarray(v, np.float64) for k, v in params["fc"].items()}
    m = {k: 0 * v for k, v in p.items()}
    v = {k: 0 * x for k, x in p.items()}
    for t in range(5):
        grads = {
            "fc": {"kernel": jnp.array([[0.3, 0.1]]) * (t + 1), "bias": jnp.array([0.2, -1.0])}
        }
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for k in p:
            g = np.asarray(grads["fc"][k], np.float64)
            m[k] = 0.9 * m[k] + 0.1 * g
            v[k] = 0.98 * v[k] + 0.02 * g * g
            adam = (m[k] / (1 - 0.9 ** (t + 1))) / (np.sqrt(v[k] / (1 - 0.98 ** (t + 1))) + 1e-6)
            decay = 0.5 * p[k] if k == "kernel" else 0
            p[k] = p[k] - float(schedule(t)) * (adam + decay)
        for k in p:
            np.testing.assert_allclose(params["fc"][k], p[k], rtol=1e-5)


def test_clipping_bounds_the_gradient():
    config = config_lib.defaults().optim
    config.update(clip_norm=1.0)
    tx, _ = optim.build(config, 0, 10)
    params = {"kernel": jnp.zeros(4)}
    small, _ = tx.update({"kernel": jnp.full(4, 0.5)}, tx.init(params), params)
    large, _ = tx.update({"kernel": jnp.full(4, 500.0)}, tx.init(params), params)
    np.testing.assert_allclose(small["kernel"], large["kernel"], rtol=1e-5)


def test_unknown_rule_is_named():
    with pytest.raises(ValueError, match=r"optim.decay_rule='papper'"):
        optim.decay_mask("papper")
