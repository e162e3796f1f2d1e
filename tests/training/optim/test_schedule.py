"""The learning rate of a run at its corners, and over stages."""

import jax
import numpy as np
import pytest

from clip_jax import config as config_lib
from clip_jax.training import optim


def test_schedule_corners():
    s = optim.warmup_cosine(1.0, 10, 110)
    assert float(s(0)) == pytest.approx(0.1)
    assert float(s(9)) == pytest.approx(1.0)
    assert float(s(10)) == pytest.approx(1.0)
    assert float(s(60)) == pytest.approx(0.5)
    assert float(s(109)) == pytest.approx(0.5 * (1 + np.cos(np.pi * 0.99)), abs=1e-7)
    assert float(s(110)) == pytest.approx(0.0, abs=1e-7)
    assert float(optim.warmup_cosine(2.0, 0, 10)(0)) == pytest.approx(2.0)


def test_warmup_longer_than_training_names_both_keys():
    with pytest.raises(ValueError, match=r"optim.warmup_examples.*train.examples"):
        optim.warmup_cosine(1.0, 10, 10)


def stages(*given, **changes):
    c = config_lib.defaults()
    c.optim.update({"learning_rate": 1.0, "warmup_examples": 0} | changes)
    c.train.batch_size, c.train.stages = 10, given
    return config_lib.Stages(c, 1000)


def rates(schedule, steps):
    return np.asarray(jax.jit(jax.vmap(schedule))(np.arange(steps)))


def test_one_schedule_goes_through_all_stages():
    given = stages({"examples": 100}, {"examples": 200}, warmup_examples=150)
    np.testing.assert_array_equal(
        rates(optim.from_stages(given), 30), rates(optim.warmup_cosine(1.0, 15, 30), 30)
    )


def test_a_warm_up_counts_examples_over_batches_of_several_sizes():
    given = stages({"examples": 100, "batch_size": 50}, {"examples": 200}, warmup_examples=150)
    # 2 steps of 50 and 5 of 10 have seen 150.
    np.testing.assert_array_equal(
        rates(optim.from_stages(given), 22), rates(optim.warmup_cosine(1.0, 7, 22), 22)
    )


def test_a_stage_with_a_learning_rate_begins_a_schedule_of_its_own():
    given = stages(
        {"examples": 100}, {"examples": 50},
        {"examples": 100, "learning_rate": 0.1, "warmup_examples": 20},
    )  # fmt: skip
    found = rates(optim.from_stages(given), 25)
    np.testing.assert_allclose(found[:15], rates(optim.warmup_cosine(1.0, 0, 15), 15), rtol=1e-6)
    np.testing.assert_allclose(found[15:], rates(optim.warmup_cosine(0.1, 2, 10), 10), rtol=1e-6)


def test_a_warm_up_longer_than_its_stage_is_refused():
    given = stages({"examples": 100}, {"examples": 30, "learning_rate": 0.1}, warmup_examples=30)
    with pytest.raises(
        ValueError, match=r"train.stages\[1\]: a warm-up of 30 examples takes 3 steps.*only 3"
    ):
        optim.from_stages(given)
