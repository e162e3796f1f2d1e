"""The cheap methods, on data where the answer is known."""

import numpy as np
import pytest

from clip_jax.benchmarks import baselines


def pictures(n, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    images = rng.integers(0, 30, (n, 48, 48, 3))
    for i, label in enumerate(labels):
        y, x = divmod(int(label), 2)
        images[i, y * 24 : y * 24 + 24, x * 24 : x * 24 + 24] += 200
    return images.astype(np.uint8), labels


def test_nearest_neighbour_finds_the_class():
    images, labels = pictures(40)
    features = baselines.pixel_features(images)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    scores = baselines.nearest_neighbour(features[:20], labels[:20], features[20:], 5)
    assert (scores.argmax(1) == labels[20:]).all()
    assert (scores[:, 4] == -1).all()


def test_kernel_ridge_is_the_closed_form():
    rng = np.random.default_rng(0)
    x, y, test = rng.normal(size=(50, 6)), rng.normal(size=(50, 2)), rng.normal(size=(7, 6))
    got = baselines.kernel_ridge(x, y, test, penalty=0.5)

    def squared(a, b):
        return ((a[:, None] - b[None]) ** 2).sum(-1)

    width = np.median(squared(x, x))
    dual = np.linalg.solve(np.exp(-squared(x, x) / width) + 0.5 * np.eye(50), y - y.mean(0))
    want = np.exp(-squared(test, x) / width) @ dual + y.mean(0)
    np.testing.assert_allclose(got, want, rtol=1e-8)


def test_gradients_are_told_apart_by_direction():
    stripes = np.zeros((2, 48, 48, 3), np.uint8)
    stripes[0, ::4], stripes[0, 1::4] = 255, 255
    stripes[1, :, ::4], stripes[1, :, 1::4] = 255, 255
    a, b = baselines.shape_and_color_features(stripes)
    assert a.shape == (36 * 9 + 36 * 3,)
    shape_a, shape_b = a[: 36 * 9], b[: 36 * 9]
    assert shape_a @ shape_b < 0.2 * shape_a @ shape_a


def test_names_with_common_words_are_alike():
    names = ["red heart", "blue heart", "red car", "taxi", "woman running", "man running"]
    f = baselines.text_features(names, dimensions=6)
    likeness = f @ f.T
    np.testing.assert_allclose(np.diag(likeness), 1, rtol=1e-9)
    assert likeness[0, 1] > likeness[0, 3]
    assert likeness[4, 5] > likeness[4, 2]


@pytest.mark.parametrize("side", [12, 24, 48])
def test_pixel_features_average(side):
    images, _ = pictures(4)
    assert baselines.pixel_features(images, side).shape == (4, side * side * 3)
