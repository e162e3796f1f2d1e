"""Checks of arrays: what passes, and what the messages say."""

import numpy as np
import pytest

from clip_jax.evals.metrics import validation


def test_fitting_arrays_pass():
    validation.finite_rows(np.ones((2, 3)), "rows")
    np.testing.assert_array_equal(validation.integers([1, -2], 2, "x"), [1, -2])
    np.testing.assert_array_equal(validation.indices([0, 2], 2, 3), [0, 2])
    assert validation.indices(np.zeros(0, int), 0, 0).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: validation.finite_rows(np.array([[0.0], [np.inf]]), "x", 5), "x: row 6 holds NaN"),
        (lambda: validation.integers([0.0], 1, "x"), r"x must be 1 integers, got float64\[1\]"),
        (lambda: validation.integers([0], 2, "x", "bool[2, 3]"), r"integers or bool\[2, 3\], got"),
        (lambda: validation.indices([0, 3], 2, 3), "labels go from 0 to 3, but .* 3 classes"),
        (
            lambda: validation.indices([-1], 1, 2, "y", "images"),
            "y go from -1 .* 2 images: .* to 1",
        ),
    ],
)
def test_others_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
