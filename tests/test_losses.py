"""The losses against float64 goldens, against each other, and near convergence."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clip_jax import losses
from clip_jax.mesh import create_mesh

MESHES = {
    "1": {"data": 1},
    "2": {"data": 2},
    "4": {"fsdp": 4},
    "8": {"data": 8},
    "4x2": {"data": 4, "fsdp": 2},
    "2x2x2": {"data": 2, "fsdp": 2, "tensor": 2},
}
CASES = ["n64_d32_init", "n64_d32_max", "n256_d32_init", "n64_d512_mid"]


def make_mesh(name):
    sizes = MESHES[name]
    count = int(np.prod(list(sizes.values())))
    return create_mesh(sizes, jax.devices()[:count])


def value_and_grads(loss, image, text, scale, groups=None, topics=None):
    """Loss and its gradients by both embeddings and by the logarithm of the scale."""

    def f(image, text, log_scale):
        return loss(image, text, jnp.exp(log_scale), groups, topics)[0]

    return jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(image, text, jnp.log(scale))


def golden(goldens, case, dtype):
    data = np.load(goldens / "E_loss" / "loss.npz")
    facts = json.loads((goldens / "E_loss" / "loss.json").read_text())["cases"][case]

    def features(key):
        q = data[f"{case}/{key}"].astype(np.float64)
        return jnp.asarray(q / np.linalg.norm(q, axis=1, keepdims=True), dtype)

    scale = jnp.asarray(facts["logit_scale"], dtype)
    expected = {}
    for key in ("d_image", "d_text"):
        whole = f"{case}/softmax_{key}"
        expected[key] = data[whole] if whole in data else data[whole + "[:16]"]
    return features("image_q"), features("text_q"), scale, facts["softmax"], expected


def check(result, facts, expected, rtol):
    loss, (d_image, d_text, d_scale) = result
    assert float(loss) == pytest.approx(facts["loss"], rel=rtol)
    for got, want in ((d_image, expected["d_image"]), (d_text, expected["d_text"])):
        got = np.asarray(got, np.float64)[: len(want)]
        assert np.linalg.norm(got - want) <= rtol * np.linalg.norm(want)
    assert float(d_scale) == pytest.approx(facts["d_logit_scale_param"], rel=rtol, abs=rtol * 1e-2)


@pytest.mark.parametrize("case", [*CASES, "n1_d32"])
def test_dense_equals_golden_in_float64(goldens, case):
    with jax.enable_x64(True):
        image, text, scale, facts, expected = golden(goldens, case, jnp.float64)
        assert image.dtype == jnp.float64
        check(value_and_grads(losses.softmax_dense, image, text, scale), facts, expected, 1e-9)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("case", CASES)
def test_all_gather_equals_golden_in_float64(goldens, case, mesh):
    with jax.enable_x64(True):
        image, text, scale, facts, expected = golden(goldens, case, jnp.float64)
        loss = losses.build("all_gather", make_mesh(mesh))
        check(value_and_grads(loss, image, text, scale), facts, expected, 1e-9)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", ["dense", "all_gather"])
@pytest.mark.parametrize("case", CASES)
def test_equals_golden_in_float32(goldens, case, name, mesh):
    image, text, scale, facts, expected = golden(goldens, case, jnp.float32)
    loss = losses.build(name, make_mesh(mesh))
    check(value_and_grads(loss, image, text, scale), facts, expected, 1e-5)


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


@pytest.mark.parametrize("mesh", ["1", "4x2"])
def test_groups_are_left_out_of_the_softmax(mesh):
    rng = np.random.default_rng(0)
    image, text = unit(rng, 16, 8), unit(rng, 16, 8)
    groups = np.array([0, 1, 2, 3, 0, 1, 0, 9, 8, 7, 6, 5, 4, 4, 4, 4], np.int32)
    want = plain_softmax(image, text, np.log(20.0), groups[:, None] == groups[None, :])
    with jax.enable_x64(True):
        for name in losses.LOSSES:
            loss = losses.build(name, make_mesh(mesh))
            value, grads = value_and_grads(loss, image, text, jnp.asarray(20.0), groups)
            np.testing.assert_allclose(value, want[0], rtol=1e-12)
            for got, expected in zip(grads, want[1:], strict=True):
                np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("mesh", ["1", "4x2"])
@pytest.mark.parametrize("grouped", [False, True])
def test_soft_targets_move_a_share_to_related_captions(mesh, grouped):
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
        for name in losses.LOSSES:
            loss = losses.build(name, make_mesh(mesh), 0.6)
            value, grads = value_and_grads(loss, image, text, jnp.asarray(20.0), groups, topics)
            np.testing.assert_allclose(value, want[0], rtol=1e-12)
            for got, expected in zip(grads, want[1:], strict=True):
                np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-14)


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
    assert losses.caption_topics(tokens + 40_000, 49_408).shape == (4, losses.MAX_TOPICS)


def test_groups_all_equal_leave_no_negatives():
    rng = np.random.default_rng(0)
    image, text = unit(rng, 8, 4).astype(np.float32), unit(rng, 8, 4).astype(np.float32)
    value, grads = value_and_grads(
        losses.softmax_dense, image, text, jnp.float32(10), np.zeros(8, np.int32)
    )
    assert float(value) == 0
    assert all(np.all(np.asarray(g) == 0) for g in grads)


def test_gradients_survive_convergence_in_float32():
    """At a loss of 1e-5 the usual form keeps two digits of the gradient; ours keeps five."""
    rng = np.random.default_rng(1)
    image = unit(rng, 64, 64)
    text = image + 0.02 * rng.normal(size=image.shape)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    log_scale = np.log(20.0)
    image, text = image.astype(np.float32), text.astype(np.float32)
    want = plain_softmax(
        image.astype(np.float64), text.astype(np.float64), log_scale, np.eye(64, dtype=bool)
    )
    assert want[0] < 1e-4
    loss = losses.build("all_gather", make_mesh("8"))
    value, grads = value_and_grads(loss, image, text, jnp.float32(20.0))
    assert float(value) == pytest.approx(want[0], rel=1e-5)
    for got, expected in zip(grads, want[1:], strict=True):
        error = np.linalg.norm(np.asarray(got) - expected) / np.linalg.norm(expected)
        assert error < 2e-5


@pytest.mark.parametrize("name", ["dense", "all_gather"])
def test_accuracy_counts_both_directions_and_no_ties(name):
    loss = jax.jit(losses.build(name, make_mesh("4")))
    eye = jnp.eye(8)
    assert float(loss(eye, eye, 10.0)[1]["accuracy"]) == 1.0
    assert float(loss(eye, jnp.roll(eye, 1, 0), 10.0)[1]["accuracy"]) == 0.0
    same = jnp.ones((8, 4)) / 2
    assert float(loss(same, same, 10.0)[1]["accuracy"]) == 0.0


def test_no_device_holds_the_whole_matrix():
    mesh = make_mesh("8")
    loss = losses.build("all_gather", mesh)
    x = jax.ShapeDtypeStruct((256, 16), jnp.float32)
    grad = jax.jit(jax.grad(lambda a, b: loss(a, b, 10.0)[0], argnums=(0, 1)))
    text = grad.lower(x, x).compile().as_text()
    assert "f32[32,256]" in text
    assert "f32[256,256]" not in text


def test_unknown_implementation_is_named():
    with pytest.raises(ValueError, match=r"loss\.implementation='ringg'.*all_gather"):
        losses.build("ringg", make_mesh("1"))
