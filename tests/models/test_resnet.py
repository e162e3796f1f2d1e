"""The modified ResNet: its batch norm, its initialisation, and options that change no numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from clip_jax import config as config_lib
from clip_jax.models import clip, resnet
from clip_jax.runtime import mesh as mesh_lib


def model_config(**changes):
    c = config_lib.defaults().model
    c.variant, c.dtype, c.scan_layers = "RN-Test", "float32", False
    c.update(changes)
    return c


def batch(n=4):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 62, (n, 8)).astype(np.int32)
    tokens[:, 5] = 63
    return rng.integers(0, 256, (n, 64, 64, 3), np.uint8), tokens


@pytest.fixture(scope="module")
def variables():
    """Initial variables whose every number is then moved, zero gains included."""

    def moved(x):
        return (x + 0.05 * rng.normal(size=x.shape)).astype(np.float32)

    model = clip.build(model_config())
    made = nn.unbox(jax.jit(model.init)(jax.random.key(0), *batch(1)))
    rng = np.random.default_rng(1)
    variances = jax.tree.map(np.abs, jax.tree.map(moved, made["batch_stats"]))
    return {"params": jax.tree.map(moved, made["params"]), "batch_stats": variances}


def train(model, variables, inputs):
    """Embeddings, new statistics, and gradients of a plain sum, in training."""

    def total(params):
        out, changed = model.apply(
            {**variables, "params": params}, *inputs, train=True, mutable=["batch_stats"]
        )
        weights = jnp.arange(out.image_emb.size).reshape(out.image_emb.shape) % 7 - 3.0
        return (weights * out.image_emb).sum(), (out.image_emb, changed["batch_stats"])

    return jax.jit(jax.value_and_grad(total, has_aux=True))(variables["params"])


def assert_close(got, want, rtol, atol):
    """Leaf by leaf; ``atol`` is relative to the largest number of a leaf."""
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("attention_pool/key/bias"):  # a softmax does not see it: only rounding
            assert np.abs(a).max() < 1e-6 and np.abs(b).max() < 1e-6
            continue
        atol_leaf = atol * float(np.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol_leaf, err_msg=name)


@pytest.mark.parametrize("group", [0, 2, 3])
def test_batch_norm_equals_plain_numpy(group):
    rng = np.random.default_rng(2)
    x = (3 + 2 * rng.normal(size=(6, 5, 4, 3))).astype(np.float32)
    norm = resnet.BatchNorm(group)
    start = {
        "params": {"scale": jnp.array([1.0, 2.0, 0.5]), "bias": jnp.array([0.0, -1.0, 3.0])},
        "batch_stats": {"mean": jnp.array([0.1, 0.2, 0.3]), "var": jnp.array([1.0, 2.0, 3.0])},
    }
    got, changed = norm.apply(start, x, True, mutable=["batch_stats"])
    size = group or 6
    parts = [x[i : i + size] for i in range(0, 6, size)]
    want = [
        (p - p.mean((0, 1, 2))) / np.sqrt(p.var((0, 1, 2)) + 1e-5) * [1, 2, 0.5] + [0, -1, 3]
        for p in parts
    ]
    np.testing.assert_allclose(got, np.concatenate(want), atol=1e-5)
    means = np.mean([p.mean((0, 1, 2)) for p in parts], 0)
    variances = np.mean([p.var((0, 1, 2), ddof=1) for p in parts], 0)  # PyTorch: unbiased
    stats = changed["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.9 * np.array([0.1, 0.2, 0.3]) + 0.1 * means, 1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 * np.array([1, 2, 3]) + 0.1 * variances, 1e-5)
    still = norm.apply(start, x, False)
    want = (x - [0.1, 0.2, 0.3]) / np.sqrt(np.array([1, 2, 3]) + 1e-5) * [1, 2, 0.5] + [0, -1, 3]
    np.testing.assert_allclose(still, want, atol=1e-5)


def test_a_group_that_does_not_divide_the_batch_is_named():
    norm = resnet.BatchNorm(4)
    x = jnp.zeros((6, 2, 2, 3))
    start = norm.init(jax.random.key(0), x, False)
    with pytest.raises(ValueError, match="model.batch_norm_group=4 does not divide the batch of 6"):
        norm.apply(start, x, True, mutable=["batch_stats"])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(dict(scan_layers=True), marks=pytest.mark.slow),
        pytest.param(dict(remat_policy="full"), marks=pytest.mark.slow),
        pytest.param(dict(scan_layers=True, remat_policy="dots"), marks=pytest.mark.slow),
    ],
)
def test_scan_and_remat_change_no_numbers(variables, options):
    want = train(clip.build(model_config()), variables, batch())
    got = train(clip.build(model_config(**options)), variables, batch())
    assert_close(got, want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("group", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_statistics_are_those_of_the_global_batch_on_every_mesh(variables, group):
    """Eight devices with one example each give the same as one device with eight."""
    model = clip.build(model_config(batch_norm_group=group))
    inputs = batch(8)
    want = train(model, variables, inputs)
    mesh = mesh_lib.create_mesh({"data": 4, "fsdp": 2})
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, mesh_lib.batch_sharding(mesh)) for x in inputs]
        got = train(model, jax.device_put(variables, mesh_lib.replicated(mesh)), placed)
    assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_initial_distributions_are_openais():
    """openai/CLIP ``initialize_parameters``; what it leaves alone has PyTorch's defaults."""
    model = clip.build(model_config())
    made = nn.unbox(jax.jit(model.init)(jax.random.key(0), *batch(1)))
    tower = made["params"]["image_tower"]

    def bound(kernel):
        return np.abs(kernel).max(), np.prod(kernel.shape[-4:-1]) ** -0.5

    convolutions = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(tower)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if "conv" in name:
            largest, limit = bound(leaf)
            assert 0.85 * limit < largest <= limit, name
            convolutions += 1
        if "block" in name and name.endswith("norm_3/scale"):
            assert not leaf.any(), name  # a block begins as the identity
        elif "norm" in name:
            assert (leaf == (1 if name.endswith("scale") else 0)).all(), name
    assert convolutions == 3 + 4 * 4 + 2 * 3  # stem, first blocks, and those of two stages
    pool, channels = tower["attention_pool"], model.config.vision.features
    for part in ("query", "key", "value", "out"):
        assert np.std(pool[part]["kernel"]) == pytest.approx(channels**-0.5, rel=0.1)
        assert np.abs(pool[part]["bias"]).max() <= channels**-0.5
        assert pool[part]["bias"].any()
    assert np.std(pool["position_embedding"]) == pytest.approx(channels**-0.5, rel=0.1)
    stats = made["batch_stats"]["image_tower"]["stem_norm_1"]
    assert (stats["mean"] == 0).all() and (stats["var"] == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(patch_dropout=0.5), r"model.patch_dropout=0.5 is set, but .* is a ResNet"),
        ({"vision": {"patch_size": 8}}, r"model.vision.patch_size=8: .*'RN-Test' has no such size"),
        ({"vision": {"image_size": 65}}, r"image_size=65 is not a multiple of 32"),
        ({"vision": {"num_layers": 3}}, r"model.vision.num_layers=3: a ResNet needs the blocks"),
        (
            {"vision": {"num_heads": 7}},
            r"features=256 is not divisible by model.vision.num_heads=7",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes, message):
    c = model_config()
    for key, value in changes.items():
        c[key].update(value) if isinstance(value, dict) else c.update({key: value})
    with pytest.raises(ValueError, match=message):
        clip.build(c)


def test_a_vit_has_no_batch_norm():
    with pytest.raises(ValueError, match=r"model.batch_norm_group=4 is set, but .* is a ViT"):
        clip.build(model_config(variant="ViT-Test/8", batch_norm_group=4))
