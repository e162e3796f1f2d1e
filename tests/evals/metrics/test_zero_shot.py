"""Zero-shot classification: equal to the recorded reference, honest about ties."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.evals.metrics import classification, zero_shot

EMBED_DIM = 16


def tokenize(texts):
    """One token a character, zero padded."""
    tokens = np.zeros((len(texts), 64), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = [ord(c) for c in text]
    return tokens


def embed_texts(tokens):
    """A different, reproducible direction for every text; not of unit length."""
    sums = tokens.astype(np.int64) @ np.arange(1, tokens.shape[1] + 1)
    return np.stack([np.random.default_rng(s).normal(size=EMBED_DIM) for s in sums]).astype("f4")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def golden(goldens):
    folder = goldens / "D_zeroshot"
    numbers = json.loads((folder / "numbers.json").read_text())["zeroshot"]
    return SimpleNamespace(numbers=numbers, **np.load(folder / "zeroshot.npz"))


def test_equals_the_reference_numbers(golden):
    classes, templates, dim = golden.prompt_embeddings.shape
    prompts = golden.prompt_embeddings.reshape(-1, dim)

    weights = zero_shot.classifier(
        lambda tokens: prompts[tokens[:, 0]],
        lambda texts: np.array([[int(text)] for text in texts]),
        [str(c * templates) for c in range(classes)],
        ["{}"],
    )
    np.testing.assert_allclose(weights, unit(prompts[::templates]), atol=1e-6)

    weights = zero_shot.classifier(
        lambda tokens: prompts[tokens[:, 0]],
        lambda texts: np.array([[int(text)] for text in texts]),
        [[str(c * templates + t) for t in range(templates)] for c in range(classes)],
        ["{}"],
    )
    np.testing.assert_allclose(weights, golden.classifier.T, atol=1e-6)
    logits = 100 * zero_shot.scores(golden.image_features, weights)
    np.testing.assert_allclose(logits, golden.logits, atol=1e-4)
    measured = classification.measure(golden.image_features, weights, golden.labels)
    for key in ("top1", "top5", "mean_per_class_recall"):
        assert measured[key] == pytest.approx(golden.numbers[key], abs=1e-12)
    assert zero_shot.accuracy(golden.logits, golden.labels) == pytest.approx(
        {"top1": golden.numbers["top1"], "top5": golden.numbers["top5"]}
    )
    recall = zero_shot.mean_per_class_recall(golden.logits, golden.labels)
    assert recall == pytest.approx(golden.numbers["mean_per_class_recall"])


def test_classifier_averages_unit_prompts_over_names_and_templates():
    names, templates = [["cat", "kitten"], "dog", "a {x} cow"], ["a {}.", "{} or {}?", "{}"]
    weights = zero_shot.classifier(embed_texts, tokenize, names, templates)
    texts = ["a cat.", "cat or cat?", "cat", "a kitten.", "kitten or kitten?", "kitten"]
    expected = unit(unit(embed_texts(tokenize(texts))).mean(axis=0))
    assert weights.dtype == np.float32 and weights.shape == (3, EMBED_DIM)
    np.testing.assert_allclose(weights[0], expected, atol=1e-6)
    cow = unit(embed_texts(tokenize(["a a {x} cow.", "a {x} cow or a {x} cow?", "a {x} cow"])))
    np.testing.assert_allclose(weights[2], unit(cow.mean(axis=0)), atol=1e-6)


@pytest.mark.parametrize("per_call", [1, 2, 5, 6, 100])
def test_classifier_does_not_depend_on_prompts_per_call(per_call):
    sizes = []

    def counting(tokens):
        sizes.append(len(tokens))
        return embed_texts(tokens)

    names, templates = ["cat", ["dog", "hound"]], ["a {}", "the {}"]
    got = zero_shot.classifier(counting, tokenize, names, templates, prompts_per_call=per_call)
    want = zero_shot.classifier(embed_texts, tokenize, names, templates)
    np.testing.assert_array_equal(got, want)
    assert max(sizes) <= per_call and sum(sizes) == 6


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([], ["{}"], "at least one class name"),
        (["cat"], [], "one template"),
        (["cat"], ["{}", "a photo"], r"templates\[1\] = 'a photo' has no '\{\}'"),
        (["cat", []], ["{}"], r"class_names\[1\] is empty"),
    ],
)
def test_classifier_refuses(names, templates, message):
    with pytest.raises(ValueError, match=message):
        zero_shot.classifier(embed_texts, tokenize, names, templates)


def test_a_constant_model_scores_what_guessing_does():
    labels = np.zeros(10, int)
    measured = classification.measure(np.ones((10, 4)), np.ones((20, 4)), labels)
    assert measured["top1"] == pytest.approx(1 / 20)
    assert measured["top5"] == pytest.approx(5 / 20)
    assert measured["mean_per_class_recall"] == pytest.approx(1 / 20)


def test_fewer_classes_than_k():
    logits = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    assert zero_shot.accuracy(logits, np.array([0, 0])) == {"top1": 0.5, "top5": 1.0}


@settings(deadline=None)
@given(st.data())
def test_the_order_of_the_classes_does_not_matter(data):
    classes = data.draw(st.integers(1, 7))
    row = st.lists(st.integers(-2, 2), min_size=classes, max_size=classes)
    logits = np.array(data.draw(st.lists(row, min_size=1, max_size=6)), float)
    labels = np.array([data.draw(st.integers(0, classes - 1)) for _ in logits])
    order = np.array(data.draw(st.permutations(range(classes))))
    place = np.argsort(order)
    one = zero_shot.accuracy(logits, labels, (1, 2, 5))
    assert zero_shot.accuracy(logits[:, order], place[labels], (1, 2, 5)) == one
    # Against the definition: where the right class falls when ties break all wrong, or all right.
    own = logits[np.arange(len(labels)), labels][:, None]
    for k in (1, 2, 5):
        least = ((logits >= own).sum(1) <= k).mean()
        most = ((logits > own).sum(1) < k).mean()
        assert least - 1e-12 <= one[f"top{k}"] <= most + 1e-12


def test_classes_without_pictures_are_left_out_of_recall():
    logits = np.array([[9.0, 0, 0], [9, 0, 0], [0, 0, 9], [9, 0, 0]])
    labels = np.array([0, 0, 2, 2])
    assert zero_shot.mean_per_class_recall(logits, labels) == (1.0 + 0.5) / 2


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 31, 1000])
def test_chunks_change_nothing(chunk):
    rng = np.random.default_rng(1)
    images, classes = rng.normal(size=(31, 33)).astype("f4"), rng.normal(size=(9, 33)).astype("f4")
    classes[4] = classes[7]
    labels = rng.integers(0, 9, 31)
    assert classification.measure(images, classes, labels, chunk=chunk) == classification.measure(
        images, classes, labels
    )
    for got, want in zip(
        zero_shot.predict(images, classes, chunk=chunk),
        zero_shot.predict(images, classes),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)


def test_predict_gives_the_softmax_over_all_classes():
    cosines = np.array([[0.1, 0.3, 0.2], [0.5, 0.5, 0.0]])
    images = np.concatenate([cosines, np.sqrt(1 - (cosines**2).sum(1, keepdims=True))], axis=1)
    best, probs = zero_shot.predict(images, np.eye(3, 4), k=2, logit_scale=10.0)
    np.testing.assert_array_equal(best, [[1, 2], [0, 1]])
    exps = np.exp(10 * cosines)
    expected = np.take_along_axis(exps / exps.sum(1, keepdims=True), best, axis=1)
    np.testing.assert_allclose(probs, expected, rtol=1e-5)
    assert best.dtype == np.int32 and probs.dtype == np.float32
    # No overflow or 0 / 0, however large the scale and however far apart the images.
    _, probs = zero_shot.predict(np.array([[1.0, 0], [-1, 0]]), np.eye(1, 2), logit_scale=1e4)
    np.testing.assert_array_equal(probs, [[1.0], [1.0]])
    best, probs = zero_shot.predict(images, np.eye(3, 4))
    assert best.shape == (2, 3)
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], "labels go from 0 to 3, but there are 3 classes"),
        ([-1, 0], "labels go from -1"),
        ([0.0, 1.0], "2 integers"),
        ([0], "2 integers"),
    ],
)
def test_refuses_labels_that_do_not_fit(labels, message):
    with pytest.raises(ValueError, match=message):
        classification.measure(np.ones((2, 4)), np.ones((3, 4)), np.array(labels))


def test_refuses_no_pictures_and_nan():
    with pytest.raises(ValueError, match="at least one image"):
        classification.measure(np.ones((0, 4)), np.ones((3, 4)), np.zeros(0, int))
    with pytest.raises(ValueError, match="logits hold NaN"):
        zero_shot.accuracy(np.array([[np.nan, 1.0]]), np.array([0]))
    images = np.ones((5, 4))
    images[3] = np.inf
    with pytest.raises(ValueError, match="image embeddings: row 3 holds"):
        classification.measure(images, np.ones((3, 4)), np.zeros(5, int), chunk=2)
