"""Intervals and tests: published values, closed forms, and the definitions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clip_jax.evals.metrics import intervals


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611),
     (1, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_wilson_equals_published_values(hits, n, low, high):
    assert intervals.wilson(hits / n, n) == pytest.approx((low, high), abs=5e-5)
    mirrored = intervals.wilson(1 - hits / n, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)
    width = intervals.wilson_half_width(hits / n, n)
    assert 2 * width == pytest.approx(high - low, abs=1e-4)


def test_wilson_is_the_solution_of_its_equation():
    for share, n, confidence in itertools.product((0.1, 0.5, 0.97), (1, 12, 5000), (0.9, 0.995)):
        for bound in intervals.wilson(share, n, confidence):
            z = (share - bound) / math.sqrt(bound * (1 - bound) / n)
            assert math.erf(abs(z) / math.sqrt(2)) == pytest.approx(confidence, abs=1e-9)


def test_wilson_at_the_ends_is_exact():
    assert intervals.wilson(0.0, 7)[0] == 0.0
    assert intervals.wilson(1.0, 7)[1] == 1.0


def test_clustered_between_its_extremes():
    rng = np.random.default_rng(0)
    once = (rng.random(400) < 0.3).astype(float)
    each = np.arange(400)
    share = once.mean()
    # A cluster each: Wilson's own, but for the estimate of the variance (n / (n - 1)).
    assert intervals.clustered(once, each) == pytest.approx(intervals.wilson(share, 399), abs=1e-12)
    # The same five times over: no more is known than from one.
    five = intervals.clustered(np.repeat(once, 5), np.repeat(each, 5))
    assert five == pytest.approx(intervals.clustered(once, each), abs=1e-12)
    # Clusters that are all alike vary less than chance: no narrower than without them.
    alike = np.tile([0.0, 1.0], 200)
    assert intervals.clustered(alike, each // 2) == intervals.wilson(0.5, 400)
    for constant in (0.0, 1.0):
        found = intervals.clustered(np.full(20, constant), np.arange(20) // 5)
        assert found == intervals.wilson(constant, 4)
    assert intervals.clustered(once, np.zeros(400, int)) == intervals.wilson(share, 1)


def test_clustered_holds_the_truth_as_often_as_it_says():
    """Captions of an image share its difficulty; the plain interval is too narrow for that."""
    rng = np.random.default_rng(1)
    pictures, hits, plain = np.repeat(np.arange(200), 5), 0, 0
    for _ in range(400):
        easy = rng.beta(0.5, 0.5, 200)  # mean 0.5, mostly near 0 or 1
        values = (rng.random(1000) < easy[pictures]).astype(float)
        low, high = intervals.clustered(values, pictures)
        hits += low <= 0.5 <= high
        low, high = intervals.wilson(values.mean(), 1000)
        plain += low <= 0.5 <= high
    assert 0.92 < hits / 400 < 0.98
    assert plain / 400 < 0.85


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # The same paper, method 5.
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0, 0.1684),
     (1, 29, 0.0009, 0.1776)],
)  # fmt: skip
def test_clopper_pearson_equals_published_values(hits, n, low, high):
    assert intervals.clopper_pearson(hits, n) == pytest.approx((low, high), abs=5e-5)


def tail(hits, n, share):
    """Probability of this many hits or more, summed term by term."""
    return math.fsum(
        math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(hits, n + 1)
    )


@settings(deadline=None)
@given(n=st.integers(1, 60), hits=st.data(), confidence=st.sampled_from([0.5, 0.95, 0.995]))
def test_clopper_pearson_bounds_leave_half_the_rest_on_each_side(n, hits, confidence):
    hits = hits.draw(st.integers(0, n))
    low, high = intervals.clopper_pearson(hits, n, confidence)
    assert 0 <= low <= hits / n <= high <= 1
    if hits:
        assert tail(hits, n, low) == pytest.approx((1 - confidence) / 2, rel=1e-9)
    if hits < n:
        assert 1 - tail(hits + 1, n, high) == pytest.approx((1 - confidence) / 2, rel=1e-9)
    # None and all have closed forms.
    if hits == 0:
        assert high == pytest.approx(1 - ((1 - confidence) / 2) ** (1 / n), abs=1e-12)


def test_clopper_pearson_equals_scipy():
    rng = np.random.default_rng(0)
    for _ in range(120):
        n = int(10 ** rng.uniform(0, 5.5))
        hits, confidence = int(rng.integers(0, n + 1)), float(rng.choice([0.9, 0.95, 0.995]))
        want = stats.binomtest(hits, n).proportion_ci(confidence, "exact")
        got = intervals.clopper_pearson(hits, n, confidence)
        assert got == pytest.approx((want.low, want.high), abs=1e-9)


def test_newcombe_equals_published_values():
    # Newcombe (1998), "Interval estimation for the difference between independent proportions",
    # Table II, method 10: 56 of 70 less 48 of 80, 9 of 10 less 3 of 10, and nothing less nothing.
    for (hits, n, other, m), want in {
        (56, 70, 48, 80): (0.0524, 0.3339),
        (9, 10, 3, 10): (0.1705, 0.8090),
        (0, 10, 0, 20): (-0.1611, 0.2775),
        (10, 10, 0, 10): (0.6075, 1.0000),
    }.items():
        assert intervals.newcombe(hits / n, n, other / m, m) == pytest.approx(want, abs=5e-5)


def test_bonferroni_counts_the_tests_that_were_made():
    np.testing.assert_allclose(
        intervals.bonferroni([0.01, np.nan, 0.4, 0.001]), [0.03, np.nan, 1.0, 0.003]
    )


def test_bootstrap_of_a_mean_agrees_with_its_closed_form():
    rows = np.repeat([1.0, 0.0], [300, 700])
    low, high = intervals.bootstrap(np.mean, rows, samples=3000, seed=1)
    assert (low, high) == pytest.approx(intervals.wilson(0.3, 1000), abs=2e-3)
    narrow = intervals.bootstrap(np.mean, rows, samples=3000, confidence=0.5)
    half = 0.6745 * math.sqrt(0.21 / 1000)
    assert narrow == pytest.approx((0.3 - half, 0.3 + half), abs=1.5e-3)


def test_bootstrap_is_a_function_of_its_seed():
    rows = np.random.default_rng(0).normal(size=50)
    one = intervals.bootstrap(np.median, rows, samples=200, seed=3)
    assert intervals.bootstrap(np.median, rows, samples=200, seed=3) == one
    assert intervals.bootstrap(np.median, rows, samples=200, seed=4) != one


def test_bootstrap_keeps_the_rows_of_columns_together():
    x = np.arange(40.0)

    def statistic(a, b):
        assert len(a) == 40
        np.testing.assert_array_equal(b, 2 * a)
        return a.mean()

    intervals.bootstrap(statistic, x, 2 * x, samples=20)


def test_bootstrap_holds_one_resample_at_a_time():
    alive = []

    class Counted(np.ndarray):
        def __array_finalize__(self, parent):
            alive.append(1)

        def __del__(self):
            alive.pop()

    rows = np.zeros(10).view(Counted)
    seen = []
    intervals.bootstrap(lambda r: seen.append(len(alive)) or 0.0, rows, samples=50)
    assert max(seen) <= 3


def test_strata_keep_their_sizes():
    labels = np.repeat([0, 1, 2], [1, 5, 30])

    def statistic(drawn):
        np.testing.assert_array_equal(np.bincount(drawn), [1, 5, 30])
        return drawn[-1]

    intervals.bootstrap(statistic, labels, samples=20, strata=labels)
    with pytest.raises(ValueError, match="give strata="):
        intervals.bootstrap(lambda d: np.nan if (d != 0).all() else 1.0, labels, samples=50)


def test_pairing_takes_out_what_is_common():
    rng = np.random.default_rng(0)
    easy = rng.random(400)
    first, second = (easy < 0.6).astype(float), (easy < 0.55).astype(float)

    def difference(a, b):
        return a.mean() - b.mean()

    low, high = intervals.bootstrap(difference, first, second, samples=2000)
    assert 0 < low < first.mean() - second.mean() < high
    apart = intervals.newcombe(first.mean(), 400, second.mean(), 400)
    assert apart[0] < 0 and high - low < (apart[1] - apart[0]) / 2
    # Every resample of a model against itself differs by nothing.
    assert intervals.bootstrap(difference, first, first, samples=10) == (0.0, 0.0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_bootstrap_interval_lies_inside_the_data(seed):
    rows = np.random.default_rng(seed).normal(size=9)
    low, high = intervals.bootstrap(np.mean, rows, samples=50, seed=seed)
    assert rows.min() <= low <= high <= rows.max()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intervals.wilson(1.2, 5), "from 0 to 1, got 1.2"),
        (lambda: intervals.wilson(float("nan"), 5), "from 0 to 1"),
        (lambda: intervals.wilson(0.5, 0), "at least one trial"),
        (lambda: intervals.wilson(0.5, 5, 95), "confidence=95"),
        (lambda: intervals.clopper_pearson(6, 5), "got 6 of 5"),
        (lambda: intervals.clopper_pearson(2.5, 5), "whole number"),
        (lambda: intervals.clopper_pearson(0, 0), "got 0 of 0"),
        (lambda: intervals.bootstrap(np.mean, np.ones(3), np.ones(4)), r"\[3, 4\]"),
        (lambda: intervals.bootstrap(np.mean, np.ones(0)), "at least 1"),
        (lambda: intervals.bootstrap(np.mean), "columns"),
        (lambda: intervals.bootstrap(np.mean, np.ones(3), strata=np.ones(2)), "strata must"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
