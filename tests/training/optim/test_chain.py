"""The decay mask by name, AdamW and Muon against plain computations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clip_jax import config as config_lib
from clip_jax.training import optim

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
    schedule = optim.warmup_cosine(config.learning_rate, 0, 10)
    tx = optim.build(config, schedule)
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


@pytest.mark.parametrize(("clip_norm", "norm"), [(1.0, 1.0), (0.0, 1000.0)])
def test_clipping_bounds_the_gradient(clip_norm, norm):
    """Seen in the moments: Adam's first step is the same for every size of gradient."""
    config = config_lib.defaults().optim
    config.update(grad_clip_norm=clip_norm)
    tx = optim.build(config, optim.warmup_cosine(config.learning_rate, 0, 10))
    params = {"kernel": jnp.zeros(4), "bias": jnp.zeros(4)}

    def first_moment(size):
        grads = {"kernel": jnp.full(4, size), "bias": jnp.zeros(4)}
        _, state = tx.update(grads, tx.init(params), params)
        return optax.tree_utils.tree_get(state, "mu")["kernel"] / (1 - config.beta1)

    np.testing.assert_allclose(first_moment(0.4), 0.4, rtol=1e-5)  # of norm 0.8
    np.testing.assert_allclose(jnp.linalg.norm(first_moment(500.0)), norm, rtol=1e-5)


def test_text_rate_scales_the_text_towers_whole_update():
    config = config_lib.defaults().optim
    config.update(learning_rate=0.01, weight_decay=0.5, warmup_examples=0)
    kernel = {"encoder": {"fc": {"kernel": jnp.full((4, 8), 2.0)}}}
    params = {"image_tower": kernel, "text_tower": kernel}
    grads = jax.tree.map(lambda x: 0.3 * x, params)

    def update(rate):
        config.text_lr_multiplier = rate
        tx = optim.build(config, optim.warmup_cosine(config.learning_rate, 0, 100))
        return jax.jit(tx.update)(grads, tx.init(params), params)[0]

    plain, scaled = update(1.0), update(0.25)
    for tower, rate in (("image_tower", 1.0), ("text_tower", 0.25)):
        want = jax.tree.map(lambda u, rate=rate: rate * np.array(u), plain[tower])
        jax.tree.map(np.testing.assert_array_equal, scaled[tower], want)


def test_unknown_rule_is_named():
    with pytest.raises(ValueError, match=r"optim.decay_rule='papper'"):
        optim.decay_mask("papper")


def newton_schulz(g):
    """Five steps towards the nearest orthogonal matrix, in numpy."""
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (np.linalg.norm(x) + 1e-8)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def test_muon_orthogonalises_each_layers_matrices_and_adam_does_the_rest():
    rng = np.random.default_rng(0)
    shapes = {"qkv": (8, 3, 2, 4), "out": (2, 4, 8), "fc": (8, 32), "proj": (32, 8)}

    def tree(make):
        def block(*layers):
            return {
                k: {"kernel": make(*layers, *s), "bias": make(*layers, *s[1:])}
                for k, s in shapes.items()
            }

        encoder = {"blocks": block(2), "last_block": block()}
        stem = {"conv_0": {"kernel": make(3, 3, 2, 8)}}
        return {"encoder": encoder, "stem": stem, "projection": {"kernel": make(8, 4)}}

    params = tree(lambda *s: jnp.ones(s))
    grads = tree(lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32))
    config = config_lib.defaults().optim
    config.update(name="muon", learning_rate=1.0, weight_decay=0.0)
    tx = optim.build(config, optim.warmup_cosine(config.learning_rate, 0, 10**9))
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    updates, grads = (jax.tree.map(np.asarray, t) for t in (updates, grads))
    matrices = {
        "qkv": lambda x: x[:, 2].reshape(8, 8),
        "out": lambda x: x.reshape(8, 8),
        "fc": lambda x: x,
        "proj": lambda x: x,
    }
    for name, matrix in matrices.items():
        for block, pick in (("blocks", lambda x: x[1]), ("last_block", lambda x: x)):
            got = matrix(pick(updates["encoder"][block][name]["kernel"]))
            want = newton_schulz(matrix(pick(grads["encoder"][block][name]["kernel"])))
            np.testing.assert_allclose(got, -want * 0.2 * max(want.shape) ** 0.5, atol=2e-3)
    got, g = (t["stem"]["conv_0"]["kernel"].reshape(18, 8) for t in (updates, grads))
    np.testing.assert_allclose(got, -newton_schulz(g) * 0.2 * 18**0.5, atol=2e-3)
    for got, g in (
        (updates["projection"]["kernel"], grads["projection"]["kernel"]),
        (updates["encoder"]["blocks"]["fc"]["bias"], grads["encoder"]["blocks"]["fc"]["bias"]),
        (updates["encoder"]["last_block"]["qkv"]["bias"],
         grads["encoder"]["last_block"]["qkv"]["bias"]),
    ):  # fmt: skip
        # Adam's first step: both moments are the gradient's own.
        np.testing.assert_allclose(got, -g / (np.abs(g) + config.eps), atol=1e-4)
