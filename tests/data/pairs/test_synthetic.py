"""Generated pairs."""

import numpy as np

from clip_jax.data.pairs.synthetic import SyntheticSource

RNG = np.random.default_rng(0)


def test_synthetic_pairs_are_a_function_of_their_number():
    a, b = SyntheticSource(), SyntheticSource()
    for i in (0, 5, 4095):
        x, y = a.read(i, RNG), b.read(i, np.random.default_rng(9))
        np.testing.assert_array_equal(x.image, y.image)
        assert (x.caption, x.group) == (y.caption, y.group)
    assert len({a.read(i, RNG).caption for i in range(56)}) == 56
