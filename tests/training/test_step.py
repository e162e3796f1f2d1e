"""One step, on every mesh: the same parameters; and what a step does with a bad batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from clip_jax import config as config_lib
from clip_jax.data.batch import Batch
from clip_jax.models import clip
from clip_jax.runtime import mesh as mesh_lib
from clip_jax.training import optim, program, state

MESHES = {
    "1": {"data": 1},
    "data8": {"data": 8},
    "fsdp8": {"fsdp": 8},
    "2x2x2": {"data": 2, "fsdp": 2, "tensor": 2},
}


@functools.cache
def parts(mesh_name, implementation, ema, learning_rate, optimizer, microbatches, dropout):
    """Mesh, initial state on the host, shardings, compiled step: made once for all tests."""
    sizes = MESHES[mesh_name]
    mesh = mesh_lib.create_mesh(sizes, jax.devices()[: int(np.prod(list(sizes.values())))])
    c = config_lib.defaults()
    c.model.variant, c.model.dtype, c.model.patch_dropout = "ViT-Test/8", "float32", dropout
    c.model.text.num_layers = 1  # of both depths; compiling takes most of the time
    if optimizer == "muon":  # and what the quickstart has besides
        c.model.vision.stem = (8,)
    c.optim.learning_rate, c.optim.name = learning_rate, optimizer
    # Adam divides by the size of the gradient: where that is rounding noise (key biases, whose
    # true gradient is zero, and stray elements), a small epsilon would make full steps of it.
    c.optim.eps = 1e-3
    c.optim.warmup_examples, c.optim.ema_decay = 16, ema
    c.loss.implementation, c.loss.mask_groups, c.loss.soft_targets = implementation, True, 0.3
    c.train.batch_size, c.train.num_microbatches = 16, microbatches
    model = clip.build(c.model)
    made = program.build(c, model, mesh, optim.warmup_cosine(learning_rate, 1, 10))
    initial = jax.tree.map(np.array, state.create(model, made.tx, ema > 0, mesh, 0))
    return mesh, initial, made.shardings, made.train_step


def make(
    mesh_name, implementation="all_gather", ema=0.9, learning_rate=1e-3, optimizer="adamw",
    microbatches=1, dropout=0.25,
):  # fmt: skip
    """Mesh, a fresh state on it, and the compiled step."""
    mesh, initial, shardings, update = parts(
        mesh_name, implementation, ema, learning_rate, optimizer, microbatches, dropout
    )
    return mesh, jax.device_put(initial, shardings), update


def batch(seed, n=16):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 62, (n, 8)).astype(np.int32)
    tokens[:, 5] = 63
    return Batch(
        images=rng.integers(0, 256, (n, 16, 16, 3), np.uint8),
        tokens=tokens,
        groups=(np.arange(n) % 12).astype(np.int32),
        unreadable=np.eye(1, n, 3, np.int32)[0],
        preempted=np.zeros(n, np.int32),
    )


def run(mesh_name, steps=3, **options):
    mesh, train_state, update = make(mesh_name, **options)
    with jax.set_mesh(mesh):
        for s in range(steps):
            train_state, metrics = update(train_state, mesh_lib.put_batch(mesh, batch(s), 16))
    return train_state, metrics


@pytest.fixture(scope="module")
def reference():
    return run("1", implementation="dense")


@pytest.mark.parametrize(
    "mesh_name", ["1", "data8", pytest.param("fsdp8", marks=pytest.mark.slow), "2x2x2"]
)
def test_every_mesh_gives_the_same_parameters(reference, mesh_name):
    """2e-6 absolute, where three steps move a parameter by up to 3e-3: sums over the batch are
    associated differently on different meshes, which changes the last bits."""
    got, metrics = run(mesh_name)
    want, expected = reference
    assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
    flat = jax.tree_util.tree_flatten_with_path((got.variables, got.ema))[0]
    for (path, a), b in zip(flat, jax.tree.leaves((want.variables, want.ema)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
def test_muon_too_gives_the_same_parameters_on_every_mesh():
    got, want = run("2x2x2", optimizer="muon")[0], run("1", optimizer="muon")[0]
    flat = jax.tree_util.tree_flatten_with_path(got.params)[0]
    for (path, a), b in zip(flat, jax.tree.leaves(want.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("mesh_name", "implementation", "microbatches"),
    [
        pytest.param("1", "dense", 2, marks=pytest.mark.slow),
        pytest.param("data8", "ring", 2, marks=pytest.mark.slow),
        ("2x2x2", "all_gather", 4),
    ],
)
def test_micro_batches_give_the_same_parameters(reference, mesh_name, implementation, microbatches):
    """None shrinks the negatives, and every example draws what it draws in the whole batch."""
    got, metrics = run(mesh_name, implementation=implementation, microbatches=microbatches)
    want, expected = reference
    assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
    flat = jax.tree_util.tree_flatten_with_path((got.variables, got.ema))[0]
    for (path, a), b in zip(flat, jax.tree.leaves((want.variables, want.ema)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6, err_msg=jax.tree_util.keystr(path))


def test_state_is_sharded_and_stays_so():
    after, _ = run("2x2x2", steps=1)
    kernel = after.params["image_tower"]["encoder"]["blocks"]["fc"]["kernel"]
    assert kernel.sharding.spec == P(None, "fsdp", "tensor")
    moments = [x for x in jax.tree.leaves(after.opt_state) if x.shape == kernel.shape]
    assert len(moments) >= 2
    assert all(m.sharding == kernel.sharding for m in moments)
    shard = kernel.addressable_shards[0].data
    assert shard.size * 4 == kernel.size


def test_nothing_compiles_twice():
    mesh, train_state, update = make("data8")
    with jax.set_mesh(mesh):
        for s in range(3):
            train_state, _ = update(train_state, mesh_lib.put_batch(mesh, batch(s), 16))
    assert update._cache_size() == 1


def test_metrics_report_what_happened():
    _, metrics = run("data8", steps=1)
    assert int(metrics["unreadable"]) == 1
    assert int(metrics["preempted"]) == 0
    assert float(metrics["logit_scale"]) == pytest.approx(1 / 0.07, rel=0.05)
    assert float(metrics["learning_rate"]) == pytest.approx(1e-3)
    assert 0 <= float(metrics["accuracy"]) <= 1
    assert float(metrics["grad_norm"]) > 0


def test_one_processs_stop_is_everybodys():
    mesh, train_state, update = make("data8")
    rows = batch(0)
    rows.preempted[5] = 1
    with jax.set_mesh(mesh):
        _, metrics = update(train_state, mesh_lib.put_batch(mesh, rows, 16))
    assert int(metrics["preempted"]) == 1


def test_a_step_that_is_not_finite_changes_nothing_but_the_count():
    mesh, train_state, update = make("1")
    broken = train_state.replace(params=train_state.params | {"logit_scale": jnp.float32(np.nan)})
    before = jax.tree.map(np.array, broken)
    with jax.set_mesh(mesh):
        after, metrics = update(broken, mesh_lib.put_batch(mesh, batch(0), 16))
    assert not np.isfinite(float(metrics["loss"]))
    assert int(after.skipped) == 1
    assert int(after.step) == 1
    for name in ("params", "opt_state", "ema"):
        for a, b in zip(
            jax.tree.leaves(getattr(after, name)), jax.tree.leaves(getattr(before, name)),
            strict=True,
        ):  # fmt: skip
            np.testing.assert_array_equal(a, b)


def test_the_learning_rate_reported_is_the_one_used():
    """A step left out does not count: the optimizer's schedule stands still as well."""
    mesh, train_state, update = make("1")
    rates = []
    with jax.set_mesh(mesh):
        for s, broken in enumerate([False, True, True, False, False]):
            params = train_state.params
            if broken:
                nan = params | {"logit_scale": jnp.float32(np.nan)}
                train_state = train_state.replace(params=nan)
            train_state, metrics = update(train_state, mesh_lib.put_batch(mesh, batch(s), 16))
            rates.append(float(metrics["learning_rate"]))
            if broken:
                scale = jnp.float32(np.log(1 / 0.07))
                train_state = train_state.replace(
                    params=train_state.params | {"logit_scale": scale}
                )
    schedule = optim.warmup_cosine(1e-3, 1, 10)  # as in parts
    np.testing.assert_allclose(rates, [float(schedule(n)) for n in (0, 1, 1, 1, 2)], rtol=1e-6)


def test_the_logit_scale_is_clipped_at_100():
    for beyond, bound in ((200.0, 100.0), (0.5, 1.0)):
        mesh, train_state, update = make("1")
        params = train_state.params | {"logit_scale": jnp.float32(np.log(beyond))}
        with jax.set_mesh(mesh):
            train_state, _ = update(
                train_state.replace(params=params), mesh_lib.put_batch(mesh, batch(0), 16)
            )
        assert float(jnp.exp(train_state.params["logit_scale"])) == pytest.approx(bound, rel=1e-5)


def test_the_average_follows_the_parameters():
    mesh, train_state, update = make("1")
    start = np.array(train_state.params["image_tower"]["projection"]["kernel"])
    with jax.set_mesh(mesh):
        train_state, _ = update(train_state, mesh_lib.put_batch(mesh, batch(0), 16))
    now = np.array(train_state.params["image_tower"]["projection"]["kernel"])
    average = np.array(train_state.ema["params"]["image_tower"]["projection"]["kernel"])
    np.testing.assert_allclose(average, start + 0.9 * (now - start), atol=1e-6)


def test_paper_recipe_lowers_at_full_batch_without_allocating(root):
    """ViT-B/32 at 32,768 on 8 devices: the whole train step, abstract from end to end."""
    c = config_lib.load(str(root / "configs" / "vit_b32.py"))
    mesh = mesh_lib.create_mesh({"data": 4, "fsdp": 2})
    assert c.train.batch_size == 32768
    model = clip.build(c.model)
    made = program.build(c, model, mesh)
    assert sum(x.size for x in jax.tree.leaves(made.abstract.params)) == 151_277_313
    with jax.set_mesh(mesh):
        lowered = made.train_step.lower(made.abstract, program.abstract_batch(c, model, mesh))
    text = lowered.as_text()
    assert "32768x224x224x3xui8" in text
    out = jax.tree.leaves(lowered.out_info[0].params)
    assert sum(x.size for x in out) == 151_277_313
