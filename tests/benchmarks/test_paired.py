"""Two programs measured in turn."""

import os

import numpy as np
import pytest

from clip_jax.benchmarks import inputs, paired

WORKER = """
import json, sys
from clip_jax.benchmarks import paired
task = json.loads(sys.argv[1])
print("a library says something")
paired.serve({"ready": True}, lambda calls: calls * task["seconds"], lambda: {"peak_bytes": 7})
"""


@pytest.fixture
def module(tmp_path, monkeypatch, root):
    (tmp_path / "fake_worker.py").write_text(WORKER)
    (tmp_path / "broken_worker.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(root)]))


def test_rounds_alternate_and_ratios_are_of_neighbours(module):
    workers = [paired.Worker(n, "fake_worker", {"seconds": s}) for n, s in (("a", 2.0), ("b", 3.0))]
    assert workers[0].about == {"ready": True}
    times = paired.in_turn(workers, rounds=4, calls=5)
    assert times == {"a": [2.0] * 4, "b": [3.0] * 4}
    assert paired.ratios(times, "a", "b") == (1.5, 1.5, 1.5)
    assert [w.close() for w in workers] == [{"peak_bytes": 7}] * 2


def test_a_worker_that_ends_is_named(module):
    with pytest.raises(RuntimeError, match="theirs ended with 3"):
        paired.Worker("theirs", "broken_worker", {})


def test_quartiles():
    assert paired.quartiles([4.0]) == (4.0, 4.0, 4.0)
    assert paired.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    assert paired.ratios({"a": [1.0, 2.0], "b": [2.0, 2.0]}, "a", "b")[1] == 1.5


def test_captions_end_where_they_should():
    full = inputs.tokens(4, 77, "full")
    assert (full[:, 0] == inputs.START).all() and (full[:, -1] == inputs.END).all()
    short = inputs.tokens(64, 77, "emoji")
    ends = (short == inputs.END).argmax(1)
    assert (short[np.arange(64), ends] == inputs.END).all() and (short[:, 0] == inputs.START).all()
    assert ((short == 0) == (np.arange(77) > ends[:, None]))[:, 1:].mean() > 0.99
    assert 4 < ends.mean() < 40 and len(set(ends)) > 5
