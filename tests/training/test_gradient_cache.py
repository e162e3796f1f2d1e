"""Gradients from micro-batches against those of the whole batch."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import linen as nn

from clip_jax import losses
from clip_jax.data.batch import Batch
from clip_jax.models.clip import ClipModel
from clip_jax.models.variants import VARIANTS
from clip_jax.runtime.mesh import create_mesh
from clip_jax.training import gradient_cache

MICROBATCHES = 3


def batch(size, n=12):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 62, (n, 8)).astype(np.int32)
    tokens[:, 5] = 63
    images = rng.integers(0, 256, (n, size, size, 3), np.uint8)
    return Batch(images, tokens, *(np.zeros(n, np.int32) for _ in range(3)))


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("ViT-Test/8", "softmax"),
        pytest.param("ViT-Test/8", "sigmoid", marks=pytest.mark.slow),
        pytest.param("RN-Test", "softmax", marks=pytest.mark.slow),
    ],
)
def test_micro_batches_give_what_the_whole_batch_gives(name, loss):
    """Patch dropout and the groups of batch norms included; and the running statistics."""
    config, resnet = VARIANTS[name], name == "RN-Test"
    shallow = {} if resnet else {"vision": dataclasses.replace(config.vision, num_layers=1)}
    text = dataclasses.replace(config.text, num_layers=1)
    config = dataclasses.replace(config, text=text, logit_bias=loss == "sigmoid", **shallow)
    model = ClipModel(
        config, patch_dropout=0.0 if resnet else 0.5, batch_norm_group=4 if resnet else 0
    )
    inputs, key = batch(config.vision.image_size), jax.random.key(7)
    variables = nn.unbox(jax.jit(model.init)(key, inputs.images[:1], inputs.tokens[:1]))
    variables = {"batch_stats": {}, **variables}
    loss_fn = losses.build(loss, "dense", create_mesh({"data": 1}, jax.devices()[:1]))

    def gradients(microbatches):
        compute = functools.partial(
            gradient_cache.compute, model, loss_fn, microbatches=microbatches
        )
        keys = {"patch_dropout": key}
        return jax.jit(lambda v: compute(v, inputs, keys, (None, None)))(variables)

    got, want = gradients(MICROBATCHES), gradients(1)
    assert float(got.loss) == pytest.approx(float(want.loss), rel=1e-5)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path((got.batch_stats, got.grads)),
        jax.tree.leaves((want.batch_stats, want.grads)),
        strict=True,
    ):
        atol = 1e-5 * np.abs(b).max() + 1e-7
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol, err_msg=jax.tree_util.keystr(path))


def test_micro_batches_that_do_not_divide_are_named():
    mesh = create_mesh({"data": 8})
    gradient_cache.check(4, 32, mesh)
    gradient_cache.check(2, 64, mesh, group=2)
    with pytest.raises(
        ValueError, match=r"train.num_microbatches=3 does not divide the 4 examples"
    ):
        gradient_cache.check(3, 32, mesh)
    for group in (0, 3):
        with pytest.raises(ValueError, match=rf"model.batch_norm_group={group} a divisor of 4"):
            gradient_cache.check(2, 64, mesh, group=group)
    gradient_cache.check(1, 33, mesh, group=0)  # others complain of the batch
