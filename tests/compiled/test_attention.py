"""Attention by jax's Pallas kernel, as it is compared with XLA's."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from clip_jax.compiled import attention


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [50, 200])
def test_both_give_the_same_numbers(tokens):
    """The kernel as an interpreter on CPUs runs it."""
    rng = np.random.default_rng(0)
    qkv = [jnp.asarray(rng.normal(size=(2, tokens, 3, 64)), jnp.float32) for _ in range(3)]

    def value_and_grads(name):
        loss = lambda *x: jnp.sin(attention.IMPLEMENTATIONS[name](*x)).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*qkv)

    with pltpu.force_tpu_interpret_mode():
        got = value_and_grads("pallas")
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(value_and_grads("xla")), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


CODE = """
from clip_jax import aot
aot.prepare_environment()
from clip_jax.analysis import chips
from clip_jax.compiled import attention
(device, *_), _ = chips.devices_of("v5e:2x4")
print(*(attention.cost(name, device, (16, 77, 8, 64)).moved for name in ("xla", "pallas")))
"""


@pytest.mark.aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install '.[tpu]'")
def test_short_sequences_move_less_by_xla(root):
    """Why a TPU's attention is XLA's; see docs/pods.md."""
    environment = os.environ | {"PYTHONPATH": str(root), "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    )
    xla, pallas = map(int, done.stdout.split())
    assert 0 < xla < pallas
