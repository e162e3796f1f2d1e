"""What a config computes: which loss, which errors, and that sharding moves what it should."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from clip_jax import config as config_lib
from clip_jax.analysis import hlo
from clip_jax.models import clip, flops
from clip_jax.runtime import mesh as mesh_lib
from clip_jax.training import program


def config(**changes):
    c = config_lib.defaults()
    c.model.variant, c.model.dtype = "ViT-Test/8", "float32"
    c.optim.warmup_examples, c.train.batch_size = 0, 32
    for key, value in changes.items():
        c[key].update(value)
    return c


def build(c, **sizes):
    mesh = mesh_lib.create_mesh({"data": -1, **sizes})
    model = clip.build(c.model)
    return program.build(c, model, mesh), model, mesh


def test_auto_says_what_it_took_and_why():
    made, *_ = build(config())
    assert made.loss.startswith("softmax, all_gather (what is gathered")
    made, *_ = build(config(loss={"implementation": "ring"}))
    assert made.loss == "softmax, ring (loss.implementation)"


def test_utilisation_is_the_share_of_the_peak():
    model = clip.build(config(model={"variant": "ViT-B/32"}).model)
    h100 = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")
    mesh = types.SimpleNamespace(devices=np.array([h100, h100]))
    seconds = flops.training(model.config, 2048) / (2 * 989.4e12)
    assert program.utilisation(model, mesh, 2048, [77], 2 * seconds) == pytest.approx(0.5)
    short = program.utilisation(model, mesh, 2048, [16], 2 * seconds)
    assert short < 0.4  # less was computed
    both = program.utilisation(model, mesh, 2048, [77, 16], 2 * seconds)
    assert both == pytest.approx((0.5 + short) / 2)
    dropped = model.clone(patch_dropout=0.5)
    assert program.utilisation(dropped, mesh, 2048, [77], 2 * seconds) < 0.4
    unknown = types.SimpleNamespace(devices=np.array(jax.devices()))
    assert program.utilisation(model, unknown, 2048, [77], 1.0) == 0
    outside = dataclasses.replace(model.config, vision=types.SimpleNamespace(image_size=16))
    assert program.utilisation(model.clone(config=outside), mesh, 2048, [77], 1.0) == 0


@pytest.mark.parametrize(
    ("changes", "sizes", "message"),
    [
        ({"loss": {"name": "sigmoid"}}, {}, "loss.name='sigmoid' needs model.logit_bias=True"),
        ({}, {"tensor": 8}, "mesh.tensor=8 does not divide model.vision.num_heads=4"),
        (
            {"train": {"num_microbatches": 3}},
            {},
            "train.num_microbatches=3 does not divide the 4 examples",
        ),
        ({"loss": {"chunk_size": 5}}, {}, "loss.chunk_size=5 does not divide train.batch_size=32"),
        (
            {"loss": {"chunk_size": 4, "implementation": "dense"}},
            {},
            "loss.chunk_size=4 needs loss.impl",
        ),
        ({"train": {"batch_size": 8 * 4099}}, {}, "make train.batch_size a multiple of 128"),
    ],
)
def test_what_does_not_go_together_is_named(changes, sizes, message):
    with pytest.raises(ValueError, match=message):
        build(config(**changes), **sizes)


def test_an_axis_that_does_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"mesh.fsdp=3 divides no parameter of this model"):
        mesh = mesh_lib.create_mesh({"fsdp": 3}, jax.devices()[:3])
        program.build(config(train={"batch_size": 33}), clip.build(config().model), mesh)
    for axis in ("fsdp", "tensor"):
        with pytest.raises(ValueError, match=f"for mesh.{axis} there is 1 of 8 devices left"):
            mesh_lib.create_mesh({"data": 8, axis: -1})


def test_without_a_schedule_the_rate_is_the_peak():
    """What the ahead-of-time compiler and the benchmarks build."""
    made, *_ = build(config())
    assert float(jax.jit(made.schedule)(7)) == pytest.approx(config().optim.learning_rate)


@pytest.mark.parametrize(
    ("sizes", "pieces", "factor"),
    [
        ({"fsdp": 8}, 1, 3.2),
        pytest.param({"data": 8}, 1, 2.3, marks=pytest.mark.slow),
        pytest.param({"fsdp": 2, "tensor": 2}, 1, 25, marks=pytest.mark.slow),
        pytest.param({"fsdp": 8}, 4, 10, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_sharded_parameters_move_and_activations_do_not(sizes, pieces, factor):
    """A device receives the parameters for the forward and for the backward pass, and its part of
    the gradients: about 3 times their bytes (2 with data parallelism: an all-reduce). One tensor of
    activations of the whole batch is as much as all parameters here: it would show, in what is
    moved or in the temporaries. With a tensor axis the activations of a shard are summed."""
    c = config(model={"scan_layers": False}, train={"batch_size": 2048, "num_microbatches": pieces})
    made, model, mesh = build(c, **sizes)
    parameters = sum(4 * x.size for x in jax.tree.leaves(made.abstract.params))
    activations = 2048 * 5 * 32 * 4
    assert activations > 0.9 * parameters
    with jax.set_mesh(mesh):
        batch = program.abstract_batch(c, model, mesh)
        result = made.train_step.lower(made.abstract, batch).compile()
    found = hlo.collectives(result.as_text())
    of_loss = {f"f32[2048,{model.config.embed_dim}]", "f32[2048]", "s32[2048]"}
    moved = sum(c.received for c in found if not set(c.shape.split()) <= of_loss)
    assert moved < factor * parameters, found
    needs = hlo.memory(result)
    assert needs.aliased > 0.9 * needs.outputs  # the state is donated
    assert needs.temporaries < 150 * parameters * 8 / mesh_lib.batch_shards(mesh)
