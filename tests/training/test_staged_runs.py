"""Runs of several stages: what they train on, and that a resumed one ends as the undisturbed."""

import json
import shutil

import numpy as np
import pytest

import clip_jax
from clip_jax.training import metric_writer

# Steps 1 to 4, and 5 to 14.
STAGES = (
    {"examples": 256, "batch_size": 64, "image_size": 16, "context_length": 6,
     "patch_dropout": 0.5},
    {"examples": 320, "image_size": 32, "learning_rate": 1e-3, "warmup_examples": 64},
)  # fmt: skip
COMMON = (
    "train.examples=0", "optim.ema_decay=0.9", "optim.warmup_examples=64", "log.every_steps=1",
    "checkpoint.every_examples=64", "checkpoint.keep=100", "log.tensorboard=False",
)  # fmt: skip
FLAGS = (*COMMON, f"train.stages={STAGES}", "eval.every_examples=300")


def result(workdir):
    return json.loads((workdir / "result.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(trainer, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("staged")
    code, output = trainer.run(workdir, *FLAGS)
    assert code == 0, output
    return workdir, output


def test_a_staged_run_says_what_it_does(undisturbed):
    workdir, output = undisturbed
    for text in (
        "training: 14 steps in 2 stages",
        "stage 1: 4 steps of 64 pairs, 16 px, 6 tokens, 50% of the patches dropped, learning rate "
        "0.003",
        "stage 2: 10 steps of 32 pairs, 32 px, 12 tokens, learning rate 0.001",
        "stage 2 of 2", "at 6 tokens", "at 12 tokens",
    ):  # fmt: skip
        assert text in output
    records = [r for r in metric_writer.read(workdir / "metrics.jsonl") if "loss" in r]
    assert [r["step"] for r in records] == list(range(1, 15))
    seen = np.cumsum([64] * 4 + [32] * 10)
    assert [r["examples"] for r in records] == seen.tolist()
    rates = [r["learning_rate"] for r in records]
    assert rates[0] == pytest.approx(3e-3)  # a warm-up of one step of 64
    assert rates[3] < rates[2] < rates[1]
    assert rates[4:6] == pytest.approx([5e-4, 1e-3])
    evaluated = [
        r["step"] for r in metric_writer.read(workdir / "metrics.jsonl") if "loss" not in r
    ]
    # 300 have been seen with the first stage's 256 and two steps of 32.
    assert evaluated == [6, 14]
    assert result(workdir)["examples"] == 576
    page = (workdir / "report.html").read_text()
    assert "14 steps in 2 stages" in page
    assert "4 steps of 64 pairs, 16 px" in page


def resumed(trainer, original, folder, step, workers):
    """The run again, from its checkpoint of a step on."""
    shutil.copytree(original, folder, symlinks=True)
    for path in (folder / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > step:
            shutil.rmtree(path)
    (folder / "result.json").unlink()
    code, output = trainer.run(folder, *FLAGS, f"data.workers={workers}")
    assert code == 0, output
    assert f"resuming the run in {folder} at step {step} of 14" in output
    return output


@pytest.mark.parametrize(
    ("step", "workers"),
    [
        pytest.param(2, 2, marks=pytest.mark.slow),
        (4, 0),
        pytest.param(8, 0, marks=pytest.mark.slow),
    ],
)
def test_a_run_resumed_inside_a_stage_or_between_two_ends_as_the_undisturbed(
    trainer, undisturbed, tmp_path, step, workers
):
    original, _ = undisturbed
    output = resumed(trainer, original, tmp_path / "run", step, workers)
    assert result(tmp_path / "run")["state_fingerprint"] == result(original)["state_fingerprint"]
    lines = [
        [(r["step"], r["examples"], r["loss"]) for r in records if "loss" in r]
        for records in (
            metric_writer.read(folder / "metrics.jsonl") for folder in (tmp_path / "run", original)
        )
    ]
    assert lines[0] == lines[1]
    assert output.index(f"stage {1 + (step >= 4)} of 2") < output.index("resuming")


@pytest.mark.parametrize(("step", "size"), [(4, 16), (6, 32), (14, 32)])
def test_every_checkpoint_loads_at_the_size_of_its_stage(undisturbed, step, size):
    model = clip_jax.load(undisturbed[0] / "checkpoints" / str(step))
    assert model.config.vision.image_size == model.preprocess.image_size == size
    assert model.tokenizer.context_length == 12
    images = np.zeros((1, size, size, 3), np.uint8)
    assert np.isfinite(model.encode_image(images)).all()


def test_other_stages_are_another_run(trainer, undisturbed):
    code, output = trainer.run(undisturbed[0], *COMMON, f"train.stages={STAGES[:1]}")
    assert code == 78, output
    assert "train.stages: [" in output


def test_what_the_last_stage_cannot_do_is_known_at_the_start(trainer, tmp_path):
    stages = [{"examples": 64}, {"examples": 64, "context_length": 13}]
    code, output = trainer.run(tmp_path, *COMMON, f"train.stages={stages}")
    assert code == 64, output
    assert "train.context_length=13 must be 2 to 12" in output
    assert "step" not in output


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_go_through_the_stages_together(trainer, undisturbed, tmp_path):
    group = trainer.start_group(tmp_path, 2, *FLAGS)
    for process in group:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    found, wanted = (
        [r["loss"] for r in metric_writer.read(folder / "metrics.jsonl") if "loss" in r]
        for folder in (tmp_path, undisturbed[0])
    )
    # The towers' gradients are summed in another order; everything else is the same.
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


@pytest.mark.slow
def test_a_complete_staged_run_is_only_evaluated_again(trainer, undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path / "run", symlinks=True)
    code, output = trainer.run(tmp_path / "run", *FLAGS)
    assert code == 0, output
    assert "is complete: evaluating it again" in output and "stage 2 of 2" in output
    before, after = result(undisturbed[0]), result(tmp_path / "run")
    assert before["state_fingerprint"] == after["state_fingerprint"]


@pytest.mark.slow
def test_stages_that_change_nothing_change_nothing(trainer, tmp_path):
    """The same data in the same order, the same randomness, the same schedule: bit for bit."""
    common = [f for f in COMMON if "train.examples" not in f] + ["eval.evaluators=()"]
    parts = [{"examples": 320}, {"examples": 96}, {"examples": 224}]
    for name, own in {
        "one": ["train.examples=640"], "parts": ["train.examples=0", f"train.stages={parts}"],
    }.items():  # fmt: skip
        code, output = trainer.run(tmp_path / name, *common, *own)
        assert code == 0, output
    one, parts = (result(tmp_path / name) for name in ("one", "parts"))
    for key in ("step", "examples", "state_fingerprint", "data_fingerprint"):
        assert one[key] == parts[key]
