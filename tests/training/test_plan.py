"""How a step is computed where the config says auto: what is chosen, and why."""

import types

import jax
import numpy as np
import pytest

from clip_jax import config as config_lib
from clip_jax.models import clip
from clip_jax.models.attention import IMPLEMENTATIONS
from clip_jax.models.execution import REMAT_POLICIES
from clip_jax.runtime.errors import ConfigError
from clip_jax.runtime.mesh import create_mesh
from clip_jax.training import plan

GIB = 2**30


def chosen(
    platform="gpu",
    memory=80 * GIB,
    batch=1024,
    fsdp=1,
    variant="ViT-B/32",
    parameters=0,
    capability="9.0",
    **model,
):
    """The plan of a model on devices of a platform."""
    c = config_lib.defaults()
    c.model.variant, c.train.batch_size = variant, batch
    c.model.update(model)
    device = types.SimpleNamespace(
        platform=platform, compute_capability=capability, device_kind="a GPU"
    )
    mesh = types.SimpleNamespace(
        devices=np.array([device]), shape={"data": 1, "fsdp": fsdp, "tensor": 1}
    )
    sizes = clip.resolve(c.model)
    return plan.choose(c, sizes, mesh, parameters, memory)


def test_every_policy_but_dots_is_a_candidate():
    assert {*plan.POLICIES, "dots"} == {"none", *REMAT_POLICIES}
    assert {"xla", "cudnn"} == IMPLEMENTATIONS.keys()


@pytest.mark.parametrize(
    ("platform", "attention"), [("gpu", "cudnn"), ("cuda", "cudnn"), ("tpu", "xla"), ("cpu", "xla")]
)
def test_with_enough_memory_nothing_is_recomputed(platform, attention):
    made = chosen(platform)
    assert made.execution.remat_policy == "none"
    assert made.execution.attention == attention
    assert not made.execution.scan_layers
    assert f"layers unrolled, nothing recomputed, {attention} attention (about " in made.reason


def test_less_memory_recomputes_more_until_nothing_is_left_to_do():
    order, needed = list(plan.POLICIES), []
    for gib in (40, 25, 16, 10, 4, 1):
        made = chosen(memory=gib * GIB)
        needed.append(order.index(made.execution.remat_policy))
    assert needed == sorted(needed) and set(needed) == set(range(len(order)))
    assert "more than 95% of the 1.0 GiB there are" in made.reason


# GiB that XLA's compilers need in all for models of the paper, bfloat16, layers unrolled (see
# docs/pods.md): platform, memory, variant, pairs a device, policy, GiB.
COMPILED = [
    ("tpu", 15.75, "ViT-B/32", 128, "none", 6.05),
    ("tpu", 15.75, "ViT-B/16", 128, "elementwise", 10.56),
    ("tpu", 15.75, "ViT-L/14", 128, "full", 13.52),
    ("tpu", 15.75, "RN50", 128, "none", 8.00),
    ("tpu", 95.74, "ViT-L/14@336", 128, "elementwise", 48.01),
    ("gpu", 72.78, "RN50", 256, "none", 16.57),
    ("gpu", 72.78, "RN50", 256, "elementwise", 12.97),
    ("gpu", 72.78, "RN50", 256, "full", 6.11),
]


@pytest.mark.parametrize(("platform", "memory", "variant", "batch", "policy", "gib"), COMPILED)
def test_the_estimate_is_near_what_the_compiler_needs(
    platform, memory, variant, batch, policy, gib
):
    c = config_lib.defaults()
    c.model.variant, c.train.batch_size, c.model.remat_policy = variant, batch, policy
    model = clip.build(c.model)
    c.model.attention = "cudnn" if platform == "gpu" else "xla"
    shapes = jax.eval_shape(
        model.init, jax.random.key(0),
        np.zeros((1, *(model.config.vision.image_size,) * 2, 3), np.uint8),
        np.zeros((1, 77), np.int32),
    )  # fmt: skip
    parameters = sum(x.size for x in jax.tree.leaves(shapes["params"]))
    mesh = create_mesh({"data": 1}, jax.devices()[:1])
    execution = clip.explicit_execution(c.model)
    estimate = plan.step_bytes(c, model.config, mesh, parameters, execution) / GIB
    headroom = plan.TPU_HEADROOM if platform == "tpu" else plan.HEADROOM
    assert headroom * gib < estimate < 1.25 * gib
    assert memory > gib


def test_parameters_and_their_shards_count():
    big = dict(batch=8, parameters=10**9, memory=16 * GIB)
    assert chosen(**big).execution.remat_policy == "full"
    assert chosen(**big, fsdp=4).execution.remat_policy == "none"


def test_where_memory_is_not_known_it_is_enough():
    made = chosen("cpu", memory=0, batch=10**6)
    assert made.execution.remat_policy == "none"
    assert "on cpu about" in made.reason


def test_the_memory_is_what_a_device_of_this_process_says():
    device = types.SimpleNamespace(
        process_index=0, memory_stats=lambda: {"bytes_limit": 3 * GIB + 5, "bytes_in_use": 7}
    )
    other = types.SimpleNamespace(process_index=1, memory_stats=None)
    mesh = types.SimpleNamespace(devices=np.array([other, device]))
    assert plan.device_memory(mesh) == 3 * GIB
    assert plan.device_memory(create_mesh({"data": -1})) == 0  # CPUs do not say


def test_explicit_values_win():
    made = chosen(scan_layers=True, remat_policy="dots", attention="xla")
    assert made.execution.scan_layers
    assert (made.execution.remat_policy, made.execution.attention) == ("dots", "xla")
    assert "a loop over the layers, remat_policy dots, xla attention" in made.reason
    assert chosen(memory=GIB, remat_policy="none").execution.remat_policy == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"platform": "cpu"}, "model.attention=cudnn: there is no NVIDIA GPU here, but cpu"),
        ({"capability": "7.5"}, "an NVIDIA GPU from Ampere on, and this is a GPU"),
        ({"capability": "gfx90a"}, "an NVIDIA GPU from Ampere on"),
        ({"dtype": "float32"}, "wants model.dtype=bfloat16, not float32"),
        ({"variant": "ViT-Test/8", "text": {"num_heads": 8}}, "heads of 4 dimensions"),
    ],
)
def test_cudnn_where_it_cannot_be_is_one_clear_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        chosen(attention="cudnn", **changes)
    if "platform" not in changes:
        assert chosen(**changes).execution.attention == "xla"


@pytest.mark.parametrize("variant", ["ViT-B/32", "RN50", "SigLIP-B/16"])
def test_the_estimate_falls_with_every_policy(variant):
    sizes = [_estimate(variant, policy) for policy in plan.POLICIES]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[1] > sizes[-1]


def test_what_is_not_computed_needs_no_memory():
    whole = _estimate("ViT-B/32", "none")
    short = _estimate("ViT-B/32", "none", train={"context_length": 16})
    dropped = _estimate("ViT-B/32", "none", model={"patch_dropout": 0.5})
    assert short < 0.8 * whole and dropped < 0.8 * whole


def _estimate(variant, policy, **changes):
    c = config_lib.defaults()
    for group, values in changes.items():
        c[group].update(values)
    c.model.variant, c.train.batch_size, c.model.remat_policy = variant, 64, policy
    sizes = clip.resolve(c.model)
    mesh = create_mesh({"data": 1}, jax.devices()[:1])
    return plan.step_bytes(c, sizes, mesh, 0, clip.explicit_execution(c.model))
