"""Stages: their configs, their borders, and what has been seen when."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_jax import config as config_lib
from clip_jax.config import stages as stages_lib


def config(*stages, **train):
    c = config_lib.defaults()
    c.train.update({"batch_size": 32, "examples": 0 if stages else 1000} | train)
    c.train.stages = stages
    return c


def test_a_run_without_stages_is_one_stage():
    (stage,) = config_lib.Stages(config(), 10)
    assert (stage.first_step, stage.last_step, stage.first_example) == (0, 32, 0)
    assert stage.config.train.batch_size == 32
    assert config_lib.Stages(config(examples=0, epochs=2.5), 1001).total_steps == 79
    assert config_lib.Stages(config(examples=1), 1001).total_steps == 1


def test_each_stage_begins_where_the_one_before_it_ends():
    c = config({"examples": 100, "batch_size": 64}, {"epochs": 0.5}, {"examples": 1})
    first, second, third = made = config_lib.Stages(c, 320)
    assert [(s.first_step, s.last_step, s.first_example) for s in made] == [
        (0, 2, 0), (2, 7, 128), (7, 8, 288),
    ]  # fmt: skip
    assert made.total_steps == 8
    assert [made.at(s).number for s in range(9)] == [0, 0, 0, 1, 1, 1, 1, 1, 2]
    assert [made.examples(s) for s in (0, 1, 2, 3, 7, 8)] == [0, 64, 128, 160, 288, 320]
    assert [made.steps(n) for n in (0, 1, 64, 65, 128, 129, 288, 289, 353)] == [
        0, 1, 1, 2, 2, 3, 7, 8, 10,
    ]  # fmt: skip
    assert [s.new_schedule for s in (first, second, third)] == [True, False, False]


def test_a_stage_changes_what_it_sets_and_nothing_else():
    c = config(
        {"examples": 64},
        {"examples": 64, "image_size": 336, "context_length": 16, "patch_dropout": 0,
         "batch_size": 8, "num_microbatches": 2, "learning_rate": 1e-5, "warmup_examples": 8},
    )  # fmt: skip
    c.model.patch_dropout = 0.5
    c = config_lib.ConfigDict(c).lock()
    whole = config_lib.stage_config(c, 0)
    assert whole.train.stages == ()
    assert whole.train.examples == 64
    second = config_lib.stage_config(c, 1)
    assert second.model.vision.image_size == 336
    assert second.train.context_length == 16
    assert second.model.patch_dropout == 0.0
    assert (second.train.batch_size, second.train.num_microbatches) == (8, 2)
    assert (second.optim.learning_rate, second.optim.warmup_examples) == (1e-5, 8)
    assert second.optim.beta2 == c.optim.beta2
    assert len(c.train.stages) == 2  # untouched
    with pytest.raises(config_lib.ConfigError, match="there is no stage 3: the config has 2"):
        config_lib.stage_config(c, 2)
    with pytest.raises(config_lib.ConfigError, match="there is no stage 0"):
        config_lib.stage_config(c, -1)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"examples": 1}, 7], r"train.stages=.*must be a list of dicts"),
        ([{"examples": 1, "image_sise": 2}], r"stages\[0\] has 'image_sise'.*mean 'image_size'"),
        ([{"examples": 1}, {}], r"stages\[1\]: epochs=0 and train.stages\[1\]: examples=0: set ex"),
        ([{"examples": 1, "epochs": 1.0}], r"set exactly one of them"),
        ([{"examples": 1.5}], r"stages\[0\]: examples=1.5 must be a whole number"),
        ([{"examples": 1, "patch_dropout": 1.0}], r"patch_dropout=1.0 must be in \[0, 1\)"),
        ([{"examples": 1, "image_size": None}], r"image_size=None must be set, or left out"),
        ([{"examples": 1, "batch_size": 0}], r"batch_size=0 must be positive"),
        ([{"examples": 1, "warmup_examples": 5}], r"warmup_examples belongs to a learning_rate"),
    ],
)
def test_what_is_wrong_with_a_stage_is_named(stages, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        config_lib.validate(config(*stages))


def test_the_length_of_a_run_is_that_of_its_stages():
    with pytest.raises(config_lib.ConfigError, match=r"train.examples=5: with train.stages both"):
        config_lib.validate(config({"examples": 5}, examples=5))
    with pytest.raises(config_lib.ConfigError, match=r"train.epochs=0.0 and train.examples=0: set"):
        config_lib.validate(config(examples=0))


def test_stages_may_be_given_on_a_command_line(root):
    given = [("train.examples", "0"), ("train.stages", "[{'examples': 64, 'image_size': 8}]")]
    c = config_lib.load(str(root / "configs/tiny.py"), given)
    assert config_lib.Stages(c, 1)[0].config.model.vision.image_size == 8


def test_stages_of_a_run_do_not_change_but_for_what_may(root):
    old = config({"examples": 64, "num_microbatches": 2}, {"examples": 64}).to_dict()
    same = config({"examples": 64}, {"examples": 64, "num_microbatches": 4})
    assert config_lib.differences(old, same) == []
    (line,) = config_lib.differences(old, config({"examples": 64}, {"examples": 65}))
    assert line.startswith("train.stages: ")


@given(st.integers(1, 400), st.integers(0, 3000), st.integers(1, 3000), st.integers(1, 60))
def test_with_one_stage_the_period_is_a_number_of_steps(batch, every, examples, step):
    made = config_lib.Stages(config(batch_size=batch, examples=examples), 1)
    period = max(1, math.ceil(every / batch))
    assert made.total_steps == math.ceil(examples / batch)
    assert made.due(step, every) == (every > 0 and step % period == 0)
    assert made.examples(step) == step * batch


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 40)), min_size=1, max_size=4),
    st.integers(1, 500),
)
def test_stages_of_any_kind_count_every_example_once(parts, every):
    made = config_lib.Stages(config(*({"examples": n, "batch_size": b} for n, b in parts)), 1)
    sizes = [made.at(s).batch_size for s in range(1, made.total_steps + 1)]
    for step in range(made.total_steps + 1):
        assert made.examples(step) == sum(sizes[:step])
        assert made.steps(made.examples(step)) == step
    at = [made.examples(s) for s in range(1, made.total_steps + 1) if made.due(s, every)]
    assert len(at) <= made.examples(made.total_steps) // every
    # Never further apart than the period and the step in which it ends.
    gaps = np.diff([0, *at, made.examples(made.total_steps)])
    assert gaps.max() < every + (1 if len(parts) == 1 else 2) * max(sizes)
    assert stages_lib.Stages(config(*({"examples": n} for n, _ in parts)), 1).total_steps == sum(
        math.ceil(n / 32) for n, _ in parts
    )
