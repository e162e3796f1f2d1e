"""Retrieval: equal to the recorded reference and to a brute-force definition."""

import itertools
import json
import os
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.evals.metrics.retrieval import clip_benchmark_names, expected_hits

# Unit vectors whose cosines are exact multiples of 1/4: ties are frequent and never accidental.
CORNERS = np.array(list(itertools.product((-0.5, 0.5), repeat=4)))
AXES = np.concatenate([np.eye(4), CORNERS])


def recall(*args, **options):
    return {name: hits.mean() for name, hits in expected_hits(*args, **options).items()}


@pytest.mark.parametrize("name", ["retrieval_5captions", "retrieval_uneven"])
def test_equals_the_reference_numbers(goldens, name):
    folder = goldens / "D_zeroshot"
    numbers = json.loads((folder / "numbers.json").read_text())[name]
    arrays = np.load(folder / f"{name}.npz")
    got = recall(arrays["image_features"], arrays["text_features"], arrays["text_image_index"])
    for k in (1, 5, 10):
        want = numbers[f"text_retrieval_recall@{k}"]
        assert got[f"image_to_text_r@{k}"] == pytest.approx(want, abs=1e-6)
        want = numbers[f"image_retrieval_recall@{k}"]
        assert got[f"text_to_image_r@{k}"] == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("name", ["retrieval_5captions", "retrieval_uneven"])
def test_clip_benchmarks_names_equal_the_reference(goldens, name):
    folder = goldens / "D_zeroshot"
    numbers = json.loads((folder / "numbers.json").read_text())[name]
    arrays = np.load(folder / f"{name}.npz")
    data = arrays["image_features"], arrays["text_features"], arrays["text_image_index"]
    got = clip_benchmark_names(recall(*data) | {"n": 750, "a@b": 1})
    want = {key: value for key, value in numbers.items() if "retrieval_recall@" in key}
    assert len(want) == 6
    assert got == pytest.approx(want, abs=1e-6)


def share_by_definition(scores, right, k):
    """Mean over every order of the candidates, as the breaker of ties."""
    wins = orders = 0
    for order in itertools.permutations(range(len(scores))):
        ranked = sorted(order, key=lambda i: -scores[i])
        wins += any(right[i] for i in ranked[:k])
        orders += 1
    return Fraction(wins, orders)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_equals_the_definition_with_ties(data):
    n, m = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    pick = st.integers(0, len(AXES) - 1)
    images = AXES[[data.draw(pick) for _ in range(n)]]
    texts = AXES[[data.draw(pick) for _ in range(m)]]
    owner = np.array([data.draw(st.integers(0, n - 1)) for _ in range(m)])
    got = recall(images, texts, owner, ks=(1, 2, 4), chunk=data.draw(st.integers(1, 5)))
    scores = images @ texts.T
    asking = sorted(set(owner))
    for k in (1, 2, 4):
        want = [share_by_definition(scores[i], owner == i, k) for i in asking]
        assert got[f"image_to_text_r@{k}"] == pytest.approx(float(sum(want) / len(want)))
        want = [share_by_definition(scores[:, j], np.arange(n) == owner[j], k) for j in range(m)]
        assert got[f"text_to_image_r@{k}"] == pytest.approx(float(sum(want) / len(want)))


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(1, 30), m=st.integers(1, 60), seed=st.integers(0, 2**16), chunk=st.integers(1, 70)
)
def test_equals_a_full_sort_and_any_chunk_gives_the_same_bits(n, m, seed, chunk):
    rng = np.random.default_rng(seed)
    images, texts = rng.normal(size=(n, 9)).astype("f4"), rng.normal(size=(m, 9)).astype("f4")
    owner = rng.integers(0, n, m)
    got = recall(images, texts, owner, chunk=chunk)
    assert got == recall(images, texts, owner, chunk=10_000)
    unit_images = images / np.linalg.norm(images, axis=1, keepdims=True)
    unit_texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    texts_of_image = np.argsort(-unit_images @ unit_texts.T, axis=1)
    images_of_text = np.argsort(-unit_texts @ unit_images.T, axis=1)
    for k in (1, 5, 10):
        found = [(owner[texts_of_image[i, :k]] == i).any() for i in np.unique(owner)]
        assert got[f"image_to_text_r@{k}"] == pytest.approx(np.mean(found))
        found = [owner[j] in images_of_text[j, :k] for j in range(m)]
        assert got[f"text_to_image_r@{k}"] == pytest.approx(np.mean(found))


def test_equal_captions_tie_exactly_whatever_the_chunk():
    rng = np.random.default_rng(3)
    images = rng.normal(size=(17, 33)).astype("f4")
    texts = np.repeat(rng.normal(size=(1, 33)), 17, axis=0).astype("f4")
    for chunk in (1, 2, 5, 17):
        got = recall(images, texts, np.arange(17), chunk=chunk)
        assert got["image_to_text_r@1"] == pytest.approx(1 / 17)
        assert got["image_to_text_r@5"] == pytest.approx(5 / 17)
        assert got["text_to_image_r@1"] == pytest.approx(1 / 17)


def test_a_constant_model_scores_what_guessing_does():
    got = recall(np.ones((10, 3)), np.ones((20, 3)), np.repeat(np.arange(10), 2), ks=(1, 3))
    assert got["text_to_image_r@1"] == pytest.approx(1 / 10)
    assert got["image_to_text_r@1"] == pytest.approx(2 / 20)
    # 1 - C(18, 3) / C(20, 3)
    assert got["image_to_text_r@3"] == pytest.approx(1 - 816 / 1140)


def test_pictures_without_captions_are_candidates_but_ask_nothing():
    images = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    texts = np.array([[0.95, 0.1]])
    got = recall(images, texts, np.array([0]), ks=(1, 2))
    assert got["image_to_text_r@1"] == 1.0
    assert got["text_to_image_r@1"] == 0.0
    assert got["text_to_image_r@2"] == 1.0


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        ([0, 1, 2], "from 0 to 2, but there are 2 images"),
        ([-1, 0, 1], "from -1"),
        ([0, 1], "must be 3 integers"),
        ([0.0, 1.0, 1.0], "must be 3 integers"),
    ],
)
def test_refuses_owners_that_do_not_fit(owner, message):
    with pytest.raises(ValueError, match=message):
        recall(np.ones((2, 4)), np.ones((3, 4)), np.array(owner))


def test_refuses_nothing_and_nan():
    with pytest.raises(ValueError, match="got 2 and 0"):
        recall(np.ones((2, 4)), np.ones((0, 4)), np.zeros(0, int))
    with pytest.raises(ValueError, match="captions: row 1"):
        recall(np.ones((1, 2)), np.array([[1.0, 0.0], [np.nan, 0.0]]), np.array([0, 0]))


def test_hits_are_of_the_queries_that_ask():
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(9, 5)), rng.normal(size=(30, 5))
    owner = rng.integers(0, 7, 30)  # the last two pictures have no caption
    shares = expected_hits(images, texts, owner)
    assert shares["image_to_text_r@5"].shape == (len(set(owner)),)
    assert shares["text_to_image_r@5"].shape == (30,)


def test_memory_grows_with_the_chunk_and_not_with_the_pairs():
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(500, 4)), rng.normal(size=(2000, 4))
    owner = rng.integers(0, 500, 2000)
    peaks = []
    for chunk in (2000, 16):
        tracemalloc.start()
        expected_hits(images, texts, owner, chunk=chunk)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] > 8 * 500 * 2000 and peaks[1] < 500 * 2000


COCO_SIZED = """
import numpy as np
from clip_jax.evals.metrics import retrieval

rng = np.random.default_rng(0)
owner = np.repeat(np.arange(5000), 5)
images = rng.standard_normal((5000, 512), dtype=np.float32)
texts = rng.standard_normal((25000, 512), dtype=np.float32)
texts += np.float32(0.1) * images[owner]
shares = retrieval.expected_hits(images, texts, owner)
# Not getrusage's, which begins at what the process had that started this one.
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))  # KiB
assert peak < 2**20, f"{peak / 2**20:.2f} GiB"

unit = [x / np.linalg.norm(x.astype(float), axis=1, keepdims=True) for x in (images, texts)]
for i in rng.choice(5000, 50, replace=False):
    best = np.argsort(-(unit[1] @ unit[0][i]))
    for k in (1, 5, 10):
        assert shares[f"image_to_text_r@{k}"][i] == (owner[best[:k]] == i).any()
for j in rng.choice(25000, 50, replace=False):
    best = np.argsort(-(unit[0] @ unit[1][j]))
    for k in (1, 5, 10):
        assert shares[f"text_to_image_r@{k}"][j] == (owner[j] in best[:k])
assert 0.05 < shares["text_to_image_r@1"].mean() < 0.95
print("peak", peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is read from /proc")
def test_coco_takes_less_than_a_gibibyte_and_is_exact_on_a_subset(root):
    """5,000 images and 25,000 captions in a process of their own, whose peak is looked at."""
    done = subprocess.run(
        [sys.executable, "-c", COCO_SIZED],
        env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "peak" in done.stdout
