"""Datasets: what they know of their images, and what they refuse."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_images import image, write

from clip_jax.data.errors import DataError
from clip_jax.data.image_file import BadImage
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.registry import open_dataset
from clip_jax.data.test_sets.types import (
    ClassificationDataset,
    RetrievalDataset,
    from_arrays,
)

SQUARE = Preprocess(8)


def encoded(color=0, mode="RGB", kind="PNG"):
    file = io.BytesIO()
    image(color, mode).save(file, kind)
    return file.getvalue()


def labelled_set(labels, names=(), n=None, **more):
    labels = np.asarray(labels)
    images = [encoded(i) for i in range(len(labels) if n is None else n)]
    return ClassificationDataset("mine", "test", images, labels, names, fingerprint="x", **more)


def test_a_set_knows_its_classes():
    assert labelled_set([0, 2]).classes == 3
    assert labelled_set([0, 2], "abcde").classes == 5
    assert not labelled_set([0, 2]).multilabel
    several = labelled_set(np.array([[True, False, True]]))
    assert (several.classes, several.multilabel, len(several)) == (3, True, 1)
    assert labelled_set(np.array([1, 0], np.uint8)).labels.dtype == np.int32


@pytest.mark.parametrize(
    ("labels", "names", "n", "message"),
    [
        ([0, 1], (), 3, r"labels are int64\[2\], not int32\[3\]"),
        ([0.0, 1.0], (), 2, r"labels are float64\[2\]"),
        ([True, False], (), 2, r"labels are bool\[2\]"),
        ([[0, 1]], (), 1, r"labels are int64\[1, 2\]"),
        ([0, 2], "ab", 2, "labels are of 3 classes, but class_names has 2"),
        ([[True, False]], "abc", 1, "labels are of 2 classes, but class_names has 3"),
        ([0, -1], (), 2, "label -1 is negative"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, names, n, message):
    with pytest.raises(DataError, match=rf"mine test: .*{message}"):
        labelled_set(labels, names, n)


@pytest.mark.parametrize(
    ("owners", "message"),
    [([0], r"int64\[1\], not int32\[2\]"), ([0, 2], "goes from 0 to 2"), ([-1, 0], "from -1")],
)
def test_captions_that_do_not_fit_are_refused(owners, message):
    with pytest.raises(DataError, match=f"mine test: image_of_text .*{message}"):
        RetrievalDataset("mine", "test", [b"", b""], ["a", "b"], np.array(owners), "x")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_taken_rows_are_those_images(draw):
    labels = draw.draw(st.lists(st.integers(0, 4), min_size=1, max_size=9))
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    whole = from_arrays("mine", "test", pixels, np.array(labels), "abcde")
    rows = draw.draw(st.lists(st.integers(0, len(labels) - 1), max_size=6))
    part = whole.take(rows)
    assert [int(p[0, 0]) for p in part.images] == rows
    assert part.labels.tolist() == [labels[r] for r in rows]
    again = part.take(range(len(rows))[::-1])
    assert [int(p[0, 0]) for p in again.images] == rows[::-1]
    assert not rows or again.describe(0) == f"mine test: image {rows[-1]}"
    assert part.fingerprint == whole.take(rows).fingerprint != whole.fingerprint


def test_a_fingerprint_sees_pixels_labels_and_names():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    other = pixels.copy()
    other[1, 0, 0, 0] = 1
    cases = [
        (pixels, [0, 1], ("a", "b")),
        (other, [0, 1], ("a", "b")),
        (pixels, [1, 0], ("a", "b")),
        (pixels, [0, 1], ("a", "c")),
        (pixels.reshape(2, 4, 3, 4), [0, 1], ("a", "b")),
    ]
    prints = {from_arrays("m", "test", *case).fingerprint for case in cases}
    assert len(prints) == len(cases)
    assert from_arrays("m", "test", *cases[0]).fingerprint in prints


def test_any_image_can_be_loaded_and_a_bad_one_says_which(tmp_path):
    modes = {"RGBA": "png", "P": "png", "L": "png", "CMYK": "jpg", "1": "png", "RGB": "webp"}
    for i, (mode, ending) in enumerate(modes.items()):
        write(tmp_path / "a" / f"{i}.{ending}", 40, mode)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "broken.jpg").write_bytes(b"not an image")
    data = open_dataset(f"folder:{tmp_path}")
    for i in range(len(modes)):
        assert data.load(i, SQUARE).shape == (8, 8, 3)
        assert data.load(i, SQUARE).dtype == np.uint8
    with pytest.raises(BadImage, match=r"b/broken.jpg: .*cannot identify") as caught:
        data.load(len(modes), SQUARE)
    assert str(caught.value).count("broken.jpg") == 1
    (tmp_path / "b" / "broken.jpg").unlink()
    with pytest.raises(BadImage, match="FileNotFoundError: .*b/broken.jpg"):
        data.load(len(modes), SQUARE)
    array = from_arrays("mine", "test", np.zeros((1, 4, 4, 5), np.uint8), np.zeros(1, int))
    with pytest.raises(BadImage, match="mine test: image 0: .*channels last"):
        array.load(0, SQUARE)
