"""Image-caption selection: Winoground's definition, and CLIP_benchmark's where nothing ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.evals.metrics import caption_selection


def of_scores(matrices):
    """Embeddings whose products are the given score matrices, one instance each."""
    width = max(m.shape[1] for m in matrices)
    images, texts, image_of, text_of = [], [], [], []
    for i, scores in enumerate(matrices):
        for row in scores:
            row = np.pad(row, (0, width - len(row)))
            images.append(np.append(row, np.sqrt(1 - (row**2).sum())))
            image_of.append(i)
        for j in range(scores.shape[1]):
            texts.append(np.eye(width + 1)[j])
            text_of.append(i)
    return np.array(images), np.array(texts), np.array(image_of), np.array(text_of)


WINOGROUND = {  # [[c0_i0, c1_i0], [c0_i1, c1_i1]] -> text, image
    "both": ([[0.4, 0.3], [0.2, 0.5]], True, True),
    "text only": ([[0.4, 0.3], [0.5, 0.6]], True, False),
    "image only": ([[0.4, 0.5], [0.2, 0.6]], False, True),
    "neither": ([[0.2, 0.5], [0.4, 0.1]], False, False),
    "text ties": ([[0.5, 0.5], [0.25, 0.75]], False, True),
    "image ties": ([[0.5, 0.25], [0.5, 0.75]], True, False),
    "all tie": ([[0.5, 0.5], [0.5, 0.5]], False, False),
}


@pytest.mark.parametrize("case", WINOGROUND)
def test_winoground_pairs(case):
    scores, text, image = WINOGROUND[case]
    (c0_i0, c1_i0), (c0_i1, c1_i1) = scores
    # As the authors of Winoground write it.
    assert text == (c0_i0 > c1_i0 and c1_i1 > c0_i1)
    assert image == (c0_i0 > c0_i1 and c1_i1 > c1_i0)
    got = caption_selection.select(*of_scores([np.array(scores)]))
    assert got["text_score"] == [text]
    assert got["image_score"] == [image]
    assert got["group_score"] == [text and image]


def test_every_instance_counts():
    matrices = [np.array(scores) for scores, _, _ in WINOGROUND.values()]
    got = caption_selection.select(*of_scores(matrices))
    assert {name: values.sum() for name, values in got.items()} == {
        "text_score": 3, "image_score": 3, "group_score": 1
    }  # fmt: skip
    assert set(caption_selection.CLIP_BENCHMARK.values()) == set(got)


def test_sugar_crepe_chooses_between_captions_of_one_picture():
    matrices = [np.array([[0.5, 0.25]]), np.array([[0.25, 0.5]]), np.array([[0.5, 0.5]])]
    got = caption_selection.select(*of_scores(matrices))
    np.testing.assert_array_equal(got["text_score"], [True, False, False])
    assert got["image_score"].all()
    np.testing.assert_array_equal(got["group_score"], got["text_score"])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_equals_clip_benchmark_where_nothing_ties(data):
    """Its rule: the first min(I, C) rows and columns of the scores have their maximum at i."""
    seed = data.draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    shapes = data.draw(
        st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=6)
    )
    image_of = np.repeat(np.arange(len(shapes)), [i for i, _ in shapes])
    text_of = np.repeat(np.arange(len(shapes)), [c for _, c in shapes])
    images, texts = rng.normal(size=(len(image_of), 5)), rng.normal(size=(len(text_of), 5))
    # The right ones nearer to each other, so that all outcomes occur.
    for i, (pictures, captions) in enumerate(shapes):
        for j in range(min(pictures, captions)):
            texts[np.flatnonzero(text_of == i)[j]] += 2 * images[np.flatnonzero(image_of == i)[j]]
    got = caption_selection.select(images, texts, image_of, text_of)
    for i in range(len(shapes)):
        a, b = images[image_of == i], texts[text_of == i]
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        scores, gt = a @ b.T, np.arange(min(len(a), len(b)))
        text = (scores.argmax(axis=1)[: len(gt)] == gt).all()
        image = (scores.argmax(axis=0)[: len(gt)] == gt).all()
        assert (got["text_score"][i], got["image_score"][i]) == (text, image)
        assert got["group_score"][i] == (text and image)


def test_instances_may_be_mixed_as_long_as_each_keeps_its_order():
    matrices = [np.array(scores) for scores, _, _ in WINOGROUND.values()]
    images, texts, image_of, text_of = of_scores(matrices)
    want = caption_selection.select(images, texts, image_of, text_of)
    # All first images, then all second ones.
    order = np.argsort(np.arange(len(images)) % 2, kind="stable")
    got = caption_selection.select(images[order], texts, image_of[order] + 40, text_of + 40)
    for name, values in want.items():
        np.testing.assert_array_equal(got[name], values)


def test_equal_captions_tie_exactly():
    rng = np.random.default_rng(0)
    for _ in range(20):
        image, text = rng.normal(size=(1, 33)), rng.normal(size=(1, 33))
        got = caption_selection.select(
            image.astype("f4"), np.concatenate([3 * text, text]), np.array([0]), np.array([0, 0])
        )
        assert not got["text_score"][0]


@pytest.mark.parametrize(
    ("image_of", "text_of", "message"),
    [
        ([0, 1], [0, 0, 2], "instance 1 has no caption"),
        ([0, 0], [0, 3, 0], "instance 3 has no image"),
        ([0], [0, 0, 0], "instance_of_image must be 2 integers"),
        ([0, 0], [0.0, 0.0, 0.0], "instance_of_text must be 3 integers"),
    ],
)
def test_refuses(image_of, text_of, message):
    with pytest.raises(ValueError, match=message):
        caption_selection.select(
            np.ones((2, 4)), np.ones((3, 4)), np.array(image_of), np.array(text_of)
        )


def test_refuses_nothing_and_nan():
    empty = np.zeros(0, int)
    with pytest.raises(ValueError, match="nothing to choose from"):
        caption_selection.select(np.ones((0, 4)), np.ones((0, 4)), empty, empty)
    images = np.ones((2, 4))
    images[1, 2] = np.nan
    with pytest.raises(ValueError, match="image embeddings: row 1"):
        caption_selection.select(images, images * 0, np.array([0, 1]), np.array([0, 1]))
