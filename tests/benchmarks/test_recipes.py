"""The tables for pods: the formula against what a compiled loss sends."""

import jax
import jax.numpy as jnp
import pytest

from clip_jax import config, losses
from clip_jax.analysis import hlo
from clip_jax.benchmarks import recipes
from clip_jax.runtime.mesh import create_mesh


@pytest.mark.parametrize("implementation", ["all_gather", "ring"])
@pytest.mark.parametrize("chips", [2, 8])
def test_the_formula_is_what_a_program_sends(implementation, chips):
    mesh = create_mesh({"data": chips}, jax.devices()[:chips])
    loss = losses.build("softmax", implementation, mesh)
    x = jax.ShapeDtypeStruct((16 * chips, 32), jnp.float32)
    s = jax.ShapeDtypeStruct((), jnp.float32)
    gradients = jax.jit(jax.grad(lambda *a: loss(*a)[0], argnums=(0, 1, 2)))
    found = hlo.collectives(gradients.lower(x, x, s, s).compile().as_text())
    sent = sum(
        c.received
        for c in found
        if recipes._is_embeddings({"kind": c.kind, "shape": c.shape}, 16 * chips, 32)
    )
    assert sent == recipes.loss_bytes(implementation, chips, 16, 32, 4)


def test_every_recipe_is_a_file(root):
    files = {p.stem for p in (root / "configs").glob("*.py") if p.stem.startswith(("vit_", "rn"))}
    # Its two stages are two of the others.
    assert {name for name, _ in recipes.RECIPES} == files - {"vit_l14_staged"}
    for name, _ in recipes.RECIPES:
        assert config.load(str(recipes.CONFIGS / f"{name}.py")).train.batch_size == 32768
