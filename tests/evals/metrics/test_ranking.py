"""Exact scores and shared credit."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.evals.metrics.ranking import expected_hit, quantized_unit_rows


def test_dot_products_are_exact_in_any_order():
    rng = np.random.default_rng(0)
    rows = quantized_unit_rows(rng.normal(size=(6, 513)).astype(np.float32))
    order = rng.permutation(513)
    np.testing.assert_array_equal(rows @ rows.T, rows[:, order] @ rows[:, order].T)
    exact = sum(Fraction(a) * Fraction(b) for a, b in zip(rows[0], rows[1], strict=True))
    assert Fraction(float(rows[0] @ rows[1])) == exact


def test_rows_have_unit_length_and_zero_rows_stay_zero():
    rows = quantized_unit_rows(np.array([[3e30, 4e30], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], atol=2.0**-27)


def test_the_callers_array_is_left_alone():
    given_rows = np.full((2, 3), 2.0)
    quantized_unit_rows(given_rows)
    assert (given_rows == 2.0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_what_is_not_finite(bad):
    rows = np.ones((4, 2), np.float32)
    rows[2, 1] = bad
    with pytest.raises(ValueError, match=r"captions: row 12 holds NaN"):
        quantized_unit_rows(rows, "captions", 10)


def test_refuses_a_wrong_shape():
    with pytest.raises(ValueError, match=r"\[n, E\], got \(3,\)"):
        quantized_unit_rows(np.ones(3))


@settings(deadline=None)
@given(
    better=st.integers(0, 3), hits=st.integers(1, 3), misses=st.integers(0, 3), k=st.integers(1, 8)
)
def test_share_equals_the_mean_over_all_tie_breaks(better, hits, misses, k):
    tied = [True] * hits + [False] * misses
    places = max(k - better, 0)
    orders = list(itertools.permutations(tied))
    expected = Fraction(sum(any(order[:places]) for order in orders), len(orders))
    share = expected_hit(np.array([better]), hits, np.array([misses]), k)
    np.testing.assert_allclose(share, [float(expected)], atol=1e-12)


def test_share_of_no_queries_is_empty():
    assert expected_hit(np.zeros(0, int), 1, np.zeros(0, int), 5).shape == (0,)
