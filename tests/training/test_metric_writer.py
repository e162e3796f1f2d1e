"""Records, the clock, and the line a person reads."""

import json

import numpy as np
import pytest

from clip_jax.training import metric_writer

RECORD = {
    "step": 50, "examples": 12800, "seconds": 100.0, "seconds_per_step": 2.0, "loss": 1.25,
    "accuracy": 0.5, "logit_scale": 14.5, "learning_rate": 5e-4, "images_per_second": 1234.0,
    "goodput": 0.9, "data_wait": 0.25,
}  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (61, "1m01s"), (3600, "1h00m"), (90061, "1d01h"),
     (float("inf"), "?"), (-3, "0s")],
)  # fmt: skip
def test_durations(seconds, text):
    assert metric_writer.duration(seconds) == text


def test_the_line_says_it_all():
    line = metric_writer.progress_line(RECORD, 150, 200.0)
    for part in ("step  50/150", "12,800", "1.2500", "50.0%", "14.50", "5.00e-04",
                 "1,234 images/s", "data wait 25%", "goodput 90%", "left 3m20s"):  # fmt: skip
        assert part in line
    assert "MFU" not in line
    assert "images/s  MFU 41%" in metric_writer.progress_line({**RECORD, "mfu": 0.41}, 150, 0.0)


def test_an_evaluations_line_has_shares_and_counts():
    values = {"top1": 0.2871, "top5": 0.53, "n": 1421, "top1_ci95": 0.0235}
    assert metric_writer.evaluation_line(values) == "top1 28.7% ± 2.4%  top5 53.0%  n 1,421"


def test_records_beyond_the_resumed_step_are_dropped(tmp_path):
    writer = metric_writer.Writer(tmp_path, 0, tensorboard=False)
    for step in range(1, 6):
        writer.write({"step": step, "loss": 1.0})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # cut short by a kill
    writer = metric_writer.Writer(tmp_path, 3, tensorboard=False)
    writer.write({"step": 4, "loss": 2.0})
    writer.close()
    records = metric_writer.read(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["loss"]) for r in records] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_beginning_anew_in_a_used_folder_keeps_the_old_records(tmp_path):
    for loss in (1.0, 2.0, 3.0):  # twice within a second
        writer = metric_writer.Writer(tmp_path, 0, tensorboard=False)
        for step in range(1, 6):
            writer.write({"step": step, "loss": loss})
        writer.close()
    assert [r["loss"] for r in metric_writer.read(tmp_path / "metrics.jsonl")] == [3.0] * 5
    old = [metric_writer.read(p)[0]["loss"] for p in tmp_path.glob("metrics-*.jsonl")]
    assert sorted(old) == [1.0, 2.0]


def test_what_is_not_finite_is_written_as_json(tmp_path):
    writer = metric_writer.Writer(tmp_path, 0, tensorboard=True)
    writer.write({"step": 1, "loss": np.nan, "grad_norm": np.inf, "nonfinite_steps": 1})
    writer.close()
    metric_writer.Writer(tmp_path, 1, tensorboard=False).close()  # which writes the file anew
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {"step": 1, "loss": None, "grad_norm": None, "nonfinite_steps": 1}
    assert "NaN" not in text
    (found,) = metric_writer.read(tmp_path / "metrics.jsonl")
    assert np.isnan([found["loss"], found["grad_norm"]]).all()


def test_the_final_evaluation_is_on_record_once(tmp_path):
    writer = metric_writer.Writer(tmp_path, 0, tensorboard=False)
    for record in (
        {"step": 1, "eval/x/y": 0.1},
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
    ):
        writer.write(record)
    writer.close()
    for value in (0.2, 0.3):
        writer = metric_writer.Writer(tmp_path, 2, tensorboard=False, final=True)
        writer.write({"step": 2, "eval/x/y": value})
        writer.close()
    records = metric_writer.read(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records] == [1, 1, 2, 2]
    assert [r["eval/x/y"] for r in records if "eval/x/y" in r] == [0.1, 0.3]


def test_tensorboard_events_are_written(tmp_path):
    writer = metric_writer.Writer(tmp_path, 0, tensorboard=True)
    writer.write(RECORD)
    writer.close()
    events = list((tmp_path / "tensorboard").glob("events*"))
    assert len(events) == 1
    data = events[0].read_bytes()
    assert b"logit_scale" in data
    assert b"images_per_second" in data


def test_reading_what_is_not_there(tmp_path):
    assert metric_writer.read(tmp_path / "metrics.jsonl") == []
    assert json.dumps(RECORD)
