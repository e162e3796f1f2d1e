"""The state: abstract and concrete ones agree, and nothing is born whole on one device."""

import jax
import numpy as np
import optax

from clip_jax import config as config_lib
from clip_jax.models import clip
from clip_jax.runtime.mesh import create_mesh
from clip_jax.training import optim, state


def parts(name="adamw", **sizes):
    c = config_lib.defaults()
    c.model.variant, c.model.dtype, c.optim.name = "ViT-Test/8", "float32", name
    model = clip.build(c.model)
    tx = optim.build(c.optim, optim.warmup_cosine(c.optim.learning_rate, 0, 10))
    return model, tx, create_mesh(sizes)


def test_the_abstract_state_is_the_concrete_one():
    for name in ("adamw", "muon"):
        model, tx, mesh = parts(name, data=2, fsdp=2, tensor=2)
        shapes, shardings = state.abstract(model, tx, True, mesh)
        made = state.create(model, tx, True, mesh, 0)
        assert jax.tree.structure(shapes) == jax.tree.structure(made)
        for a, s, b in zip(
            jax.tree.leaves(shapes), jax.tree.leaves(shardings), jax.tree.leaves(made), strict=True
        ):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert b.sharding.is_equivalent_to(s, b.ndim)


def test_initial_values_do_not_depend_on_the_mesh():
    model, _, by_data = parts(data=8)
    *_, by_fsdp = parts(fsdp=8)
    tx = optax.identity()  # moments begin at zero, and compiling them takes as long as the rest
    a = state.create(model, tx, True, by_data, 3)
    b = state.create(model, tx, True, by_fsdp, 3)
    c = state.create(model, tx, True, by_data, 4)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    assert any(
        not np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(c.params), strict=True)
    )
    for x, y in zip(jax.tree.leaves(a.variables), jax.tree.leaves(a.ema), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_the_table_adds_up():
    model, tx, mesh = parts(data=8)
    shapes, _ = state.abstract(model, tx, False, mesh)
    table = state.parameter_table(shapes.params)
    total = sum(x.size for x in jax.tree.leaves(shapes.params))
    assert table.splitlines()[-1].split() == ["total", f"{total:,}"]
    counts = [int(line.split()[1].replace(",", "")) for line in table.splitlines()[:-1]]
    assert sum(counts) == total
