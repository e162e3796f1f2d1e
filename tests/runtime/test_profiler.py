"""The trace of some steps."""

import jax
import jax.numpy as jnp

from clip_jax.runtime.profiler import Profiler


def names(folder):
    """All events of the traces in a folder."""
    files = list(folder.rglob("*.xplane.pb"))
    return {
        event.name
        for path in files
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
    }


def run(profiler, steps):
    function, ended = jax.jit(lambda x: x * 2), []
    for number in range(1, steps + 1):
        with profiler.step(number):
            out = function(jnp.ones(3))
        if profiler.after(number, out):
            ended.append(number)
    profiler.close()
    return ended


def test_the_steps_are_traced_and_no_others(tmp_path):
    assert run(Profiler((3, 5), tmp_path), 8) == [5]
    assert "train" in names(tmp_path)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


def test_a_run_that_ends_before_writes_what_it_has(tmp_path):
    assert run(Profiler((3, 50), tmp_path), 4) == []
    assert "train" in names(tmp_path)


def test_without_steps_nothing_is_written(tmp_path):
    assert run(Profiler((), tmp_path), 4) == []
    assert list(tmp_path.iterdir()) == []
