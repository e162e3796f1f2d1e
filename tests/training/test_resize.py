"""The state of one stage in the shapes of the next, against the interpolation of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax import config as config_lib
from clip_jax.interop.resize import resize_grid
from clip_jax.models import clip
from clip_jax.runtime import mesh as mesh_lib
from clip_jax.training import program, resize


def made(image_size, variant="ViT-Test/8", optimizer="adamw", **sizes):
    c = config_lib.defaults()
    c.model.variant, c.model.dtype, c.train.batch_size = variant, "float32", 8
    c.model.vision.image_size, c.optim.name, c.optim.ema_decay = image_size, optimizer, 0.9
    mesh = mesh_lib.create_mesh({"data": -1, **sizes})
    return mesh, program.build(c, clip.build(c.model), mesh)


def random_state(of, mesh):
    """A state as training makes it: moments of both kinds, the second one positive."""
    rng = np.random.default_rng(0)

    def draw(path, x, sharding):
        value = rng.normal(size=x.shape)
        positive = any(getattr(k, "name", "") == "nu" for k in path)
        return jax.device_put((value**2 if positive else value).astype(x.dtype), sharding)

    return jax.tree_util.tree_map_with_path(draw, of.abstract, of.shardings)


def named(state):
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): v for p, v in leaves}


@pytest.mark.parametrize(
    ("variant", "optimizer", "old", "new"),
    [("ViT-Test/8", "adamw", 16, 32), ("ViT-Test/8", "muon", 40, 16), ("RN-Test", "adamw", 32, 64)],
)
def test_positions_and_their_moments_are_interpolated_and_nothing_else(
    variant, optimizer, old, new
):
    mesh, before = made(old, variant, optimizer, fsdp=2)
    _, after = made(new, variant, optimizer, fsdp=2)
    state = random_state(before, mesh)
    with jax.set_mesh(mesh):
        got = resize.for_image_size(state, after.abstract)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), after.abstract)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), got) == shapes
    was, now, changed = named(state), named(got), []
    for name, value in now.items():
        if value.shape == was[name].shape:
            assert value is was[name]
            continue
        changed.append(name)
        side = int(np.sqrt(len(value)))
        wanted = resize_grid(np.asarray(was[name]), side)
        if "/nu/" in name:
            # Never outside of what was there, where a cubic would overshoot.
            assert (np.asarray(value) > 0).all()
            assert np.asarray(value).max() <= np.asarray(was[name]).max() * (1 + 1e-6)
            assert np.corrcoef(wanted.ravel(), np.asarray(value).ravel())[0, 1] > 0.8
        else:
            np.testing.assert_allclose(value, wanted, atol=2e-5)
    assert len(changed) == 4  # parameters, average, two moments
    assert all(name.endswith("position_embedding") for name in changed)


def test_an_average_of_positions_stays_what_it_is():
    for positive in (False, True):
        for old, new in ((5, 17), (16, 4), (50, 10)):
            weights = resize._weights(old, new, positive)
            np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)


def test_another_model_is_refused():
    _, before = made(16)
    wider = jax.tree.map(lambda x: x, before.abstract)
    wider.params["logit_scale"] = jax.ShapeDtypeStruct((2,), jnp.float32)
    with pytest.raises(ValueError, match=r"logit_scale is \[\] and then \[2\]: of what depends"):
        resize.check(before.abstract, wider)
    tower = wider.params["image_tower"]
    wider.params["logit_scale"] = before.abstract.params["logit_scale"]
    tower["position_embedding"] = jax.ShapeDtypeStruct((12, 32), jnp.float32)
    with pytest.raises(ValueError, match="12 position embeddings are no square grid"):
        resize.check(wider, before.abstract)
