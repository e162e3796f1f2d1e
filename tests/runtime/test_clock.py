"""Training time, speed, and where the rest of the time went."""

import pytest

from clip_jax.runtime import clock
from clip_jax.runtime.clock import Clock


@pytest.fixture
def now(monkeypatch):
    """The time, as a list of one number."""
    time = [100.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: time[0])
    return time


def test_the_clock_goes_on_from_earlier_launches(now):
    c = Clock()
    now[0] += 7  # until everything is there
    c.begin(40, 100.0)
    now[0] += 1
    assert c.seconds() == 101
    assert c.lap(41, 0.0) == (1, 0)
    now[0] += 1
    assert c.lap(42, 1e9)[1] == 1.0


def test_speed_counts_the_steps_since_the_last_mark(now):
    c = Clock()
    c.begin(47, 0.0)  # resumed at step 47
    now[0] += 3 * 2.0
    assert c.lap(50, 1.5) == (2.0, 0.25)
    now[0] += 5 * 2.0 + 60.0
    c.skip(55, 1.5)  # an evaluation of a minute
    now[0] += 5 * 2.0
    assert c.lap(60, 1.5) == (2.0, 0.0)
    now[0] += 10 * 4.0
    assert c.lap(70, 21.5) == (4.0, 0.5)


def test_goodput_is_what_is_left_of_a_launchs_time(now):
    c = Clock()
    now[0] += 10
    c.begin(0, 1e6)  # earlier launches do not count
    for kind, seconds in (("compile", 20), ("evaluation", 5), ("evaluation", 5), ("checkpoint", 2)):
        with c.spent(kind):
            now[0] += seconds
    now[0] += 58  # train steps, of which 8 s waited for data
    c.skip(10, 8.0)
    assert c.shares() == pytest.approx({
        "goodput": 0.5, "time/start": 0.1, "time/compile": 0.2, "time/input": 0.08,
        "time/evaluation": 0.1, "time/checkpoint": 0.02,
    })  # fmt: skip


def test_the_wait_for_an_earlier_input_is_not_forgotten(now):
    c = Clock()
    c.begin(0, 0.0)
    now[0] += 50
    c.skip(5, 10.0)
    c.next_input(5)
    now[0] += 50
    assert c.lap(10, 25.0) == (10.0, 0.5)
    assert c.shares()["time/input"] == pytest.approx(0.35)


def test_what_ends_with_an_error_has_taken_its_time(now):
    c = Clock()
    with pytest.raises(OSError), c.spent("checkpoint"):
        now[0] += 3
        raise OSError
    now[0] += 1
    assert c.shares()["time/checkpoint"] == 0.75


def test_an_unknown_kind_is_a_mistake(now):
    with pytest.raises(KeyError), Clock().spent("coffee"):
        pass
