"""Gradients in pieces against plain differentiation through the same pieces."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from clip_jax import gradients, losses
from clip_jax.mesh import create_mesh
from clip_jax.models.clip import VARIANTS, Clip

PIECES = 3


def batch(size, n=12):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 62, (n, 8)).astype(np.int32)
    tokens[:, 5] = 63
    return {"images": rng.integers(0, 256, (n, size, size, 3), np.uint8), "tokens": tokens}


def plain(model, loss_fn, variables, inputs, key):
    """Every piece by itself, in order; then the loss of all."""

    def compute(params):
        stats, images, texts = variables["batch_stats"], [], []
        for number in range(PIECES):
            piece = {k: v[number * 4 : number * 4 + 4] for k, v in inputs.items()}
            out, changed = model.apply(
                {"params": params, "batch_stats": stats}, piece["images"], piece["tokens"],
                train=True, rngs={"patch_dropout": jax.random.fold_in(key, number)},
                mutable=["batch_stats"],
            )  # fmt: skip
            stats = changed.get("batch_stats", {})
            images.append(out.image_emb)
            texts.append(out.text_emb)
        loss, _ = loss_fn(
            jnp.concatenate(images), jnp.concatenate(texts), out.logit_scale, out.logit_bias
        )
        return loss, stats

    (loss, stats), grads = jax.value_and_grad(compute, has_aux=True)(variables["params"])
    return loss, stats, grads


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("ViT-Test/8", "softmax"),
        pytest.param("ViT-Test/8", "sigmoid", marks=pytest.mark.slow),
        pytest.param("RN-Test", "softmax", marks=pytest.mark.slow),
    ],
)
def test_both_passes_draw_the_same_numbers(name, loss):
    """Patch dropout is the same in both passes, and batch statistics are updated once a piece."""
    config = dataclasses.replace(VARIANTS[name], logit_bias=loss == "sigmoid")
    model = Clip(config, patch_dropout=0.0 if name == "RN-Test" else 0.5)
    inputs, key = batch(config.vision.image_size), jax.random.key(7)
    variables = nn.unbox(jax.jit(model.init)(key, inputs["images"][:1], inputs["tokens"][:1]))
    variables = {"batch_stats": {}, **variables}
    loss_fn = losses.build(loss, "dense", create_mesh({"data": 1}, jax.devices()[:1]))
    want = jax.jit(lambda v: plain(model, loss_fn, v, inputs, key))(variables)
    keys = {"patch_dropout": key}

    def in_pieces(v):
        return gradients.in_pieces(
            model, loss_fn, v, inputs, keys, (None, None), pieces=PIECES, shards=1
        )

    got = jax.jit(in_pieces)(variables)
    found = got.loss, got.batch_stats, got.grads
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(want), strict=True
    ):
        atol = 1e-5 * np.abs(b).max() + 1e-7
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol, err_msg=jax.tree_util.keystr(path))


def test_pieces_that_do_not_divide_are_named():
    mesh = create_mesh({"data": 8})
    gradients.check(4, 32, mesh)
    with pytest.raises(ValueError, match=r"train.pieces=3 does not divide the 4 examples"):
        gradients.check(3, 32, mesh)
