"""The losses against float64 goldens, against each other, and near convergence.

Equal in value and in all gradients: softmax and sigmoid, every implementation, every mesh.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax import losses
from clip_jax.losses import dense
from clip_jax.runtime.mesh import create_mesh

MESHES = {
    "1": {"data": 1},
    "2": {"data": 2},
    "4": {"fsdp": 4},
    "8": {"data": 8},
    "4x2": {"data": 4, "fsdp": 2},
    "2x2x2": {"data": 2, "fsdp": 2, "tensor": 2},
}
# The first two have the same sizes: one compilation does for both.
SMALL = ["n64_d32_init", "n64_d32_max"]
LARGE = ["n256_d32_init", "n64_d512_mid"]
SHARDED = ["all_gather", "ring"]


def make_mesh(name):
    sizes = MESHES[name]
    count = int(np.prod(list(sizes.values())))
    return create_mesh(sizes, jax.devices()[:count])


@functools.cache
def compiled(name, implementation, mesh, **options):
    """Jitted loss and gradients by embeddings, logarithm of the scale, and bias."""
    loss = losses.build(name, implementation, make_mesh(mesh), **options)

    def f(image, text, log_scale, bias, groups, topics):
        return loss(image, text, jnp.exp(log_scale), bias, groups, topics)[0]

    return jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2, 3)))


def evaluate(name, implementation, mesh, image, text, scale, bias=0.0, groups=None, topics=None,
             **options):  # fmt: skip
    """Loss and its four gradients, as numpy."""
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    log_scale, bias = jnp.asarray(np.log(scale), dtype), jnp.asarray(bias, dtype)
    call = compiled(name, implementation, mesh, **options)
    return jax.device_get(call(image, text, log_scale, bias, groups, topics))


class Golden:
    """One case: inputs, and what float64 gives."""

    def __init__(self, folder, case):
        data = np.load(folder / "loss.npz")
        facts = json.loads((folder / "loss.json").read_text())["cases"][case]
        self.data, self.case, self.facts = data, case, facts
        self.scale, self.bias = facts["logit_scale"], facts["logit_bias"]

    def inputs(self, dtype):
        for key in ("image_q", "text_q"):
            q = self.data[f"{self.case}/{key}"].astype(np.float64)
            yield jnp.asarray(q / np.linalg.norm(q, axis=1, keepdims=True), dtype)

    def check(self, name, found, rtol):
        value, (d_image, d_text, d_scale, d_bias) = found
        facts = self.facts[name]
        assert float(value) == pytest.approx(facts["loss"], rel=rtol)
        for got, key in ((d_image, "d_image"), (d_text, "d_text")):
            whole = f"{self.case}/{name}_{key}"
            want = self.data[whole if whole in self.data else whole + "[:16]"]
            got = np.asarray(got, np.float64)[: len(want)]
            assert np.linalg.norm(got - want) <= rtol * np.linalg.norm(want)
        for got, key in ((d_scale, "d_logit_scale_param"), (d_bias, "d_logit_bias")):
            want = facts.get(key, 0.0)  # a softmax does not see the bias
            assert float(got) == pytest.approx(want, rel=rtol, abs=rtol * 1e-2)


@pytest.fixture(scope="module")
def golden(goldens):
    return functools.partial(Golden, goldens / "E_loss")


def matrix():
    for name in losses.NAMES:
        yield name, "dense", "1"
        for implementation in SHARDED:
            for mesh in MESHES:
                slow = [pytest.mark.slow] if mesh in ("2", "4", "2x2x2") else []
                yield pytest.param(name, implementation, mesh, marks=slow)


@pytest.mark.parametrize(("name", "implementation", "mesh"), list(matrix()))
def test_equals_the_goldens(golden, name, implementation, mesh):
    """In float32 everywhere; in float64, which shows slips that rounding hides, on two meshes."""
    for case in SMALL:
        g = golden(case)
        image, text = g.inputs(jnp.float32)
        found = evaluate(name, implementation, mesh, image, text, g.scale, g.bias)
        g.check(name, found, 1e-5)
    if mesh not in ("1", "4x2"):
        return
    with jax.enable_x64(True):
        for case in SMALL:
            g = golden(case)
            image, text = g.inputs(jnp.float64)
            assert image.dtype == jnp.float64
            found = evaluate(name, implementation, mesh, image, text, g.scale, g.bias)
            g.check(name, found, 1e-9)


@pytest.mark.parametrize("case", [*LARGE, "n1_d32"])
@pytest.mark.parametrize("implementation", ["dense", *SHARDED])
@pytest.mark.parametrize("name", losses.NAMES)
def test_equals_the_goldens_at_other_sizes(golden, name, implementation, case):
    g = golden(case)
    image, text = g.inputs(jnp.float32)
    mesh = "1" if case == "n1_d32" or implementation == "dense" else "8"
    g.check(name, evaluate(name, implementation, mesh, image, text, g.scale, g.bias), 1e-5)


def bfloat16_matrix():
    for name in losses.NAMES:
        yield name, "dense", "1"
        for implementation in SHARDED:
            for mesh in ("1", "8", "4x2"):
                slow = [pytest.mark.slow] if mesh == "1" else []
                yield pytest.param(name, implementation, mesh, marks=slow)


@pytest.mark.parametrize(("name", "implementation", "mesh"), list(bfloat16_matrix()))
def test_bfloat16_embeddings_have_float32_logits_and_gradients(golden, name, implementation, mesh):
    """All is that of the rounded embeddings, to float32."""
    g = golden("n64_d512_mid")
    rounded = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in g.inputs(jnp.float32)]
    want = evaluate(name, "dense", "1", *rounded, g.scale, g.bias)
    inputs = list(g.inputs(jnp.float32))
    got = evaluate(name, implementation, mesh, *inputs, g.scale, g.bias, dtype="bfloat16")
    assert float(got[0]) == pytest.approx(float(want[0]), rel=1e-5)
    for a, b in zip(got[1][:2], want[1][:2], strict=True):
        assert a.dtype == np.float32
        assert np.linalg.norm(a - b) <= 2e-5 * np.linalg.norm(b)
    for a, b in zip(got[1][2:], want[1][2:], strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("implementation", "chunk"), [("all_gather", 1), ("all_gather", 16), ("ring", 2), ("ring", 16)]
)
@pytest.mark.parametrize("name", losses.NAMES)
def test_the_chunk_changes_nothing(golden, name, implementation, chunk):
    g = golden("n64_d32_max")
    image, text = g.inputs(jnp.float32)
    found = evaluate(name, implementation, "4x2", image, text, g.scale, g.bias, chunk=chunk)
    g.check(name, found, 1e-5)


def unit(rng, n, d):
    x = rng.normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def plain_softmax(image, text, log_scale, same, related=None, soft=0.0):
    """The textbook form, in float64 numpy: loss and gradients.

    ``related`` [n, n]: how a share ``soft`` of each target is divided among the others.
    """
    eye = np.eye(len(same))
    target = eye
    if soft:
        others = np.where(same, 0, related)
        total = others.sum(1, keepdims=True)
        shared = soft * others / np.where(total > 0, total, 1)
        target = np.where(total > 0, (1 - soft) * eye + shared, eye)
    logits = np.exp(log_scale) * image @ text.T
    logits = np.where(same & ~np.eye(len(same), dtype=bool), -np.inf, logits)
    n = len(logits)

    def softmax(x):
        e = np.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    p, q = softmax(logits), softmax(logits.T)
    with np.errstate(divide="ignore"):
        logs = [np.where(target > 0, np.log(x), 0) for x in (p, q)]
    loss = -(target * (logs[0] + logs[1])).sum() / (2 * n)
    d = (p - target + (q - target).T) / (2 * n)
    cosines = image @ text.T
    scale = np.exp(log_scale)
    return loss, scale * d @ text, scale * d.T @ image, scale * (d * cosines).sum()


CASES = [("dense", "1"), ("all_gather", "4x2"), ("ring", "4x2"), ("all_gather", "1"), ("ring", "8")]


def close(found, want):
    """Value and gradients by embeddings and scale, in float64."""
    np.testing.assert_allclose(found[0], want[0], rtol=1e-12)
    for got, expected in zip(found[1], want[1:], strict=False):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("implementation", "mesh"), CASES)
def test_groups_are_left_out_of_the_softmax(implementation, mesh):
    rng = np.random.default_rng(0)
    image, text = unit(rng, 16, 8), unit(rng, 16, 8)
    groups = np.array([0, 1, 2, 3, 0, 1, 0, 9, 8, 7, 6, 5, 4, 4, 4, 4], np.int32)
    want = plain_softmax(image, text, np.log(20.0), groups[:, None] == groups[None, :])
    with jax.enable_x64(True):
        close(evaluate("softmax", implementation, mesh, image, text, 20.0, groups=groups), want)


@pytest.mark.parametrize(("implementation", "mesh"), CASES)
def test_groups_are_left_out_of_the_sigmoid(implementation, mesh):
    rng = np.random.default_rng(0)
    image, text = unit(rng, 16, 8), unit(rng, 16, 8)
    groups = np.array([0, 1, 2, 3, 0, 1, 0, 9, 8, 7, 6, 5, 4, 4, 4, 4], np.int32)
    sign = 2 * np.eye(16) - 1
    counts = (groups[:, None] != groups[None, :]) | np.eye(16, dtype=bool)
    cosines = image @ text.T
    logits = 20 * cosines - 3
    loss = (np.log1p(np.exp(-sign * logits)) * counts).sum() / 16
    d = -sign * counts / (1 + np.exp(sign * logits)) / 16
    want = loss, 20 * d @ text, 20 * d.T @ image, 20 * (d * cosines).sum(), d.sum()
    with jax.enable_x64(True):
        close(evaluate("sigmoid", implementation, mesh, image, text, 20.0, -3.0, groups), want)


@pytest.mark.parametrize(("implementation", "mesh"), CASES)
@pytest.mark.parametrize("grouped", [False, True])
def test_soft_targets_move_a_share_to_related_captions(implementation, mesh, grouped):
    rng = np.random.default_rng(0)
    image, text = unit(rng, 16, 8), unit(rng, 16, 8)
    topics = np.abs(unit(rng, 16, 5)) * (rng.random((16, 5)) < 0.5)
    topics[3] = 0  # a caption of nothing but what all captions have
    groups = np.arange(16, dtype=np.int32) // 3 if grouped else None
    same = groups[:, None] == groups[None, :] if grouped else np.eye(16, dtype=bool)
    want = plain_softmax(image, text, np.log(20.0), same, topics @ topics.T, 0.6)
    hard = plain_softmax(image, text, np.log(20.0), same)
    assert abs(want[0] - hard[0]) > 0.1
    with jax.enable_x64(True):
        found = evaluate(
            "softmax", implementation, mesh, image, text, 20.0, groups=groups, topics=topics,
            soft=0.6,
        )  # fmt: skip
        close(found, want)


def test_caption_topics_are_tf_idf():
    tokens = np.array(
        [[1, 5, 6, 2, 0], [1, 5, 7, 2, 0], [1, 8, 8, 2, 0], [1, 2, 0, 0, 0]], np.int32
    )
    weights = np.zeros((4, 10))
    weights[0, [5, 6]] = np.log([2, 4])
    weights[1, [5, 7]] = np.log([2, 4])
    weights[2, 8] = np.log(4)  # twice in one caption counts once
    weights[:3] /= np.linalg.norm(weights[:3], axis=1, keepdims=True)
    np.testing.assert_allclose(losses.caption_topics(tokens, 10), weights, atol=1e-6)
    assert losses.caption_topics(tokens + 40_000, 49_408).shape == (4, dense.MAX_TOPICS)


@pytest.mark.parametrize(("implementation", "mesh"), CASES[:3])
def test_groups_all_equal_leave_no_negatives(implementation, mesh):
    rng = np.random.default_rng(0)
    image, text = unit(rng, 8, 4).astype(np.float32), unit(rng, 8, 4).astype(np.float32)
    groups = np.zeros(8, np.int32)
    value, grads = evaluate("softmax", implementation, mesh, image, text, 10.0, groups=groups)
    assert float(value) == 0
    assert all(np.all(g == 0) for g in grads)


@pytest.mark.parametrize(("implementation", "mesh"), CASES)
def test_the_sigmoid_too_survives_convergence_in_float32(implementation, mesh):
    rng = np.random.default_rng(1)
    image = unit(rng, 64, 64)
    text = image + 0.02 * rng.normal(size=image.shape)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    sign = 2 * np.eye(64) - 1
    cosines = image.astype(np.float32).astype(float) @ text.astype(np.float32).astype(float).T
    logits = 60 * cosines - 40
    d = -sign / (1 + np.exp(sign * logits)) / 64
    want = np.log1p(np.exp(-sign * logits)).sum() / 64
    assert want < 1e-5
    image, text = image.astype(np.float32), text.astype(np.float32)
    value, grads = evaluate("sigmoid", implementation, mesh, image, text, 60.0, -40.0)
    assert float(value) == pytest.approx(want, rel=1e-4)
    expected = 60 * d @ text, 60 * d.T @ image, 60 * (d * cosines).sum(), d.sum()
    for got, e in zip(grads, expected, strict=True):
        assert np.linalg.norm(got - e) < 1e-4 * np.linalg.norm(e)


@pytest.mark.parametrize(("implementation", "mesh"), CASES)
def test_gradients_survive_convergence_in_float32(implementation, mesh):
    """At a loss of 1e-5 the usual form keeps two digits of the gradient; ours keeps five."""
    rng = np.random.default_rng(1)
    image = unit(rng, 64, 64)
    text = image + 0.02 * rng.normal(size=image.shape)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    image, text = image.astype(np.float32), text.astype(np.float32)
    same = np.eye(64, dtype=bool)
    want = plain_softmax(image.astype(np.float64), text.astype(np.float64), np.log(20.0), same)
    assert want[0] < 1e-4
    value, grads = evaluate("softmax", implementation, mesh, image, text, 20.0)
    assert float(value) == pytest.approx(want[0], rel=1e-5)
    for got, expected in zip(grads, want[1:], strict=False):
        assert np.linalg.norm(got - expected) < 2e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("implementation", ["dense", *SHARDED])
@pytest.mark.parametrize("name", losses.NAMES)
def test_accuracy_counts_both_directions_and_no_ties(name, implementation):
    loss = jax.jit(losses.build(name, implementation, make_mesh("4")))
    eye = jnp.eye(8)

    def accuracy(image, text):
        return float(loss(image, text, jnp.float32(10), jnp.float32(-5))[1]["accuracy"])

    assert accuracy(eye, eye) == 1.0
    assert accuracy(eye, jnp.roll(eye, 1, 0)) == 0.0
    same = jnp.ones((8, 4)) / 2
    assert accuracy(same, same) == 0.0
