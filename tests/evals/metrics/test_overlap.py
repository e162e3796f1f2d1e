"""Overlap analysis: known duplicates are found, and the statistics are SciPy's and closed forms."""

import io
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_jax.data.image_file import BadImage
from clip_jax.evals.metrics import overlap


def test_nearest_finds_planted_duplicates():
    rng = np.random.default_rng(0)
    training = rng.normal(size=(300, 16)).astype("f4")
    planted = np.array([7, 299, 0, 150])
    evaluation = np.concatenate(
        [3 * training[planted] + 0.05 * rng.normal(size=(4, 16)), rng.normal(size=(20, 16))]
    )
    index, similarity = overlap.nearest(evaluation, training)
    np.testing.assert_array_equal(index[:4], planted)
    assert (similarity[:4] > 0.99).all() and (similarity[4:] < 0.95).all()
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (evaluation, training)]
    cosines = unit[0] @ unit[1].T
    np.testing.assert_array_equal(index, cosines.argmax(axis=1))
    np.testing.assert_allclose(similarity, cosines.max(axis=1), atol=1e-7)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_blocks_and_parts_change_nothing(data):
    n, m = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    training = rng.integers(-1, 2, (m, 3)).astype(float)  # few directions: ties are frequent
    evaluation = rng.integers(-1, 2, (n, 3)).astype(float)
    index, similarity = overlap.nearest(evaluation, training)
    cuts = sorted(data.draw(st.lists(st.integers(0, m), max_size=3)))
    parts = (part for part in np.split(training, cuts))
    again = overlap.nearest(evaluation, parts, block=data.draw(st.integers(1, 7)))
    np.testing.assert_array_equal(again[0], index)
    np.testing.assert_array_equal(again[1], similarity)


def test_memory_grows_with_the_block_and_not_with_the_pairs():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 4)), rng.normal(size=(2000, 4))
    hashes = [rng.integers(0, 2**64, n, dtype=np.uint64) for n in (500, 2000)]
    for find, data in ((overlap.nearest, rows), (overlap.nearest_hash, hashes)):
        peaks = []
        for block in (2000, 64):
            tracemalloc.start()
            find(*data, block=block)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[0] > 8 * 500 * 2000 and peaks[1] < 500 * 2000


def test_nearest_refuses():
    rows = np.ones((2, 4))
    with pytest.raises(ValueError, match="no training embedding"):
        overlap.nearest(rows, np.ones((0, 4)))
    with pytest.raises(ValueError, match="are 3 wide, evaluation embeddings 4"):
        overlap.nearest(rows, np.ones((2, 3)))
    bad = np.ones((5, 4))
    bad[3] = np.nan
    with pytest.raises(ValueError, match="training embeddings: row 8 holds NaN"):
        overlap.nearest(rows, iter([np.ones((5, 4)), bad]), block=2)


def scene(seed, size=(160, 120)):
    """A smooth image with some shapes: what a photograph has and noise has not."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def encoded(picture, format, **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def test_hash_survives_what_copies_go_through_and_tells_others_apart():
    pictures = [scene(seed) for seed in range(40)]
    hashes = [overlap.image_hash(p) for p in pictures]
    assert all(0 <= h < 2**64 for h in hashes)
    copies = {
        "smaller": [p.resize((60, 45)) for p in pictures],
        "jpeg": [encoded(p, "JPEG", quality=30) for p in pictures],
        "grey": [p.convert("L") for p in pictures],
        "brighter": [p.point(lambda v: v * 0.8 + 40) for p in pictures],
        "other shape": [p.resize((100, 100)) for p in pictures],
    }
    for name, versions in copies.items():
        found = [overlap.image_hash(v) for v in versions]
        index, distance = overlap.nearest_hash(found, hashes, block=7)
        np.testing.assert_array_equal(index, np.arange(40), err_msg=name)
        assert distance.max() <= 6, name
    for i in range(40):
        others = [h for j, h in enumerate(hashes) if j != i]
        _, distance = overlap.nearest_hash([hashes[i]], others)
        assert distance[0] > 10
    apart = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert np.mean(apart) == pytest.approx(32, abs=1.5)


def test_hash_is_the_sign_of_the_low_frequencies():
    grey = np.asarray(scene(3, (32, 32)).convert("L"))
    waves = np.cos(np.pi / 64 * np.outer(np.arange(1, 9), 2 * np.arange(32) + 1))
    low = (waves @ grey @ waves.T).ravel()
    bits = "".join("1" if value > np.median(low) else "0" for value in low)
    assert overlap.image_hash(grey) == int(bits, 2)


def test_pictures_without_contrast_have_one_hash():
    for level in (0, 7, 255):
        assert overlap.image_hash(np.full((50, 70, 3), level, np.uint8)) == 0
    with pytest.raises(BadImage):
        overlap.image_hash(b"no picture")


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), block=st.integers(1, 10))
def test_nearest_hash_equals_its_definition(seed, block):
    rng = np.random.default_rng(seed)
    few = rng.integers(0, 2**64, 4, dtype=np.uint64)  # so that hashes meet again
    evaluation = [int(h) for h in rng.choice(few, rng.integers(1, 9)) ^ np.uint64(5)]
    training = [int(h) for h in rng.choice(few, rng.integers(1, 9))]
    index, distance = overlap.nearest_hash(evaluation, training, block=block)
    for i, h in enumerate(evaluation):
        bits = [(h ^ t).bit_count() for t in training]
        assert distance[i] == min(bits) and index[i] == bits.index(min(bits))


def test_no_training_hash():
    with pytest.raises(ValueError, match="no training hash"):
        overlap.nearest_hash([1], [])


def test_compare_by_hand():
    # Overlap: 9 of 10 right; Clean: 45 of 90.
    found = np.arange(100) < 10
    correct = np.concatenate([np.arange(10) < 9, np.arange(90) < 45])
    row = overlap.compare("birds", correct, found)
    assert row[:5] == ("birds", 100, 10, 0.1, 0.54)
    assert (row.clean, row.overlap) == (0.5, 0.9)
    assert row.difference == pytest.approx(0.04)
    # 9 or 10 heads in 10 throws.
    assert row.p_value == pytest.approx(11 / 1024, abs=1e-12)
    # The bounds leave 0.25% on each side.
    low = sum(math.comb(10, i) * row.low**i * (1 - row.low) ** (10 - i) for i in (9, 10))
    high = 1 - row.high**10
    assert (low, high) == pytest.approx((0.0025, 0.0025), rel=1e-9)
    assert row.low < row.overlap < row.high
    assert np.isnan(row.p_corrected)


def test_compare_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    found, correct = rng.random(3000) < 0.05, rng.random(3000) < 0.7
    row = overlap.compare("x", correct, found)
    test = stats.binomtest(
        int(correct[found].sum()), int(found.sum()), float(correct[~found].mean()), "greater"
    )
    assert row.p_value == pytest.approx(test.pvalue, abs=1e-9)
    # SciPy's interval must be asked of the two-sided test.
    test = stats.binomtest(int(correct[found].sum()), int(found.sum()))
    want = test.proportion_ci(0.995, "exact")
    assert (row.low, row.high) == pytest.approx((want.low, want.high), abs=1e-9)
    assert row.all == correct.mean() and row.difference == row.all - correct[~found].mean()


def test_without_overlap_nothing_is_tested_and_nothing_changes():
    correct = np.arange(8) < 6
    row = overlap.compare("mnist", correct, np.zeros(8, bool))
    assert (row.all, row.clean, row.difference, row.contamination) == (0.75, 0.75, 0.0, 0.0)
    assert np.isnan([row.overlap, row.p_value, row.low, row.high]).all()
    row = overlap.compare("all", correct, np.ones(8, bool))
    assert np.isnan([row.clean, row.difference, row.p_value]).all()
    assert row.overlap == 0.75 and row.low < 0.75 < row.high


def test_table_corrects_for_the_tests_made():
    correct = np.concatenate([np.arange(10) < 9, np.arange(90) < 45])
    rows = [
        overlap.compare("a", correct, np.arange(100) < 10),
        overlap.compare("none", correct, np.zeros(100, bool)),
        overlap.compare("b", correct, np.arange(100) < 20),
    ]
    done = overlap.table(rows)
    assert [row.name for row in done] == ["b", "a", "none"]
    assert done[1].p_corrected == pytest.approx(2 * 11 / 1024)
    assert done[0].p_corrected == pytest.approx(min(1, 2 * rows[2].p_value))
    assert np.isnan(done[2].p_corrected)


@pytest.mark.parametrize(
    ("correct", "found"),
    [
        (np.ones(3), np.ones(3, bool)),
        (np.ones(3, bool), np.ones(2, bool)),
        (np.ones((3, 1), bool), np.ones(3, bool)),
        (np.ones(0, bool), np.ones(0, bool)),
    ],
)
def test_compare_refuses(correct, found):
    with pytest.raises(ValueError, match=r"birds: (correct|overlap) must be bool\[n\]"):
        overlap.compare("birds", correct, found)
