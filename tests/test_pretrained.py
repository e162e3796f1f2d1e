"""A run's own model: loaded from its workdir, converted, and trained on."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import clip_jax
from clip_jax import convert, pretrained
from clip_jax.interop import write
from clip_jax.interop.mapping import LayoutError
from clip_jax.models.variants import VARIANTS
from clip_jax.tokenizers import SentencePieceTokenizer, train_sentencepiece
from clip_jax.training import initialize

# 20 steps, a checkpoint every 10, averaged parameters.
SHORT = (
    "train.examples=640", "checkpoint.every_examples=320", "optim.ema_decay=0.9",
    "log.report=False", "log.tensorboard=False", "log.every_steps=1",
)  # fmt: skip
# One step that moves nothing: what is evaluated is what the run began from.
STILL = (
    "train.examples=32", "optim.warmup_examples=0", "optim.learning_rate=1e-30",
    "log.report=False", "log.tensorboard=False",
)  # fmt: skip
TEXTS = ["a red circle", "a blue square", "nothing at all"]


@pytest.fixture(scope="module")
def workdir(trainer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    code, output = trainer.run(folder, *SHORT)
    assert code == 0, output
    return folder


@pytest.fixture
def copy(workdir, tmp_path):
    return shutil.copytree(workdir, tmp_path / "copy")


def metrics(workdir):
    return json.loads((workdir / "result.json").read_text())["metrics"]


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def random_images(clip):
    size = clip.config.vision.image_size
    return np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)


def test_training_begins_from_what_the_run_evaluated(workdir, trainer, tmp_path):
    """The averaged parameters: the next run's figures, before it moves, are this one's last."""
    code, output = trainer.run(tmp_path, f"model.init_from={workdir}", *STILL)
    assert code == 0, output
    assert f"beginning from {workdir}" in output
    assert metrics(tmp_path) == metrics(workdir)
    began, first = (next(r["loss"] for r in records(w) if "loss" in r) for w in (tmp_path, workdir))
    assert began < 0.9 * first  # and that is not where a run begins from scratch


def test_loading_touches_nothing_and_conversion_keeps_the_numbers(workdir, tmp_path, capsys):
    before = sorted((p, p.stat().st_mtime_ns) for p in workdir.rglob("*"))
    clip = clip_jax.load(workdir)
    assert sorted((p, p.stat().st_mtime_ns) for p in workdir.rglob("*")) == before
    assert convert.main([str(workdir), str(tmp_path / "out"), "--to=clip_jax"]) == 0
    assert "does not hold" not in capsys.readouterr().out
    again = clip_jax.load(tmp_path / "out")
    assert again.fingerprint == clip.fingerprint
    np.testing.assert_array_equal(again.encode_text(TEXTS), clip.encode_text(TEXTS))
    images = random_images(clip)
    np.testing.assert_array_equal(again.encode_image(images), clip.encode_image(images))
    assert again.logit_scale == clip.logit_scale
    assert write.losses(clip.weights, "open_clip") == ["its tokenizer (sentencepiece)"]
    # transformers would pool at the wrong token: see ``hugging_face.is_siglip``.
    assert convert.main([str(workdir), str(tmp_path / "hf"), "--to=hugging_face"]) == 78
    assert not (tmp_path / "hf").exists()


def test_a_damaged_checkpoint_is_passed_over(copy, workdir, caplog):
    newest = max((copy / "checkpoints").iterdir(), key=lambda p: int(p.name))
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    for at in range(len(data) // 8, len(data), len(data) // 8):
        data[at] ^= 0x10
    largest.write_bytes(data)
    older = clip_jax.load(copy)
    assert f"step {newest.name}" in caplog.text and "is used" in caplog.text
    assert (older.encode_text(TEXTS) != clip_jax.load(workdir).encode_text(TEXTS)).any()


def test_a_run_begun_before_a_key_existed(copy, workdir):
    config = json.loads((copy / "config.json").read_text())
    del config["model"]["norm_epsilon"], config["optim"]["text_lr_multiplier"]
    (copy / "config.json").write_text(json.dumps(config))
    assert clip_jax.load(copy).fingerprint == clip_jax.load(workdir).fingerprint
    (copy / "config.json").write_text("{")
    with pytest.raises(LayoutError, match="config.json is not JSON"):
        clip_jax.load(copy)


def test_a_run_without_checkpoints_says_so(copy):
    shutil.rmtree(copy / "checkpoints")
    (copy / "checkpoints").mkdir()
    with pytest.raises(LayoutError, match="no whole checkpoint in .*: there is none yet"):
        clip_jax.load(copy)


@pytest.mark.slow
def test_another_resolution_and_text_length(workdir, trainer, tmp_path):
    code, output = trainer.run(
        tmp_path, f"model.init_from={workdir}", "model.vision.image_size=32",
        "tokenizer.context_length=16", *STILL,
    )  # fmt: skip
    assert code == 0, output
    # The tokenizer is made for these captions again, and is the same one.
    clip = clip_jax.load(tmp_path)
    assert (clip.config.vision.image_size, clip.config.text.context_length) == (32, 16)


def test_weights_of_another_model_are_refused(workdir):
    found = pretrained.find(workdir)
    run = found.config, found.tokenizer, found.preprocess
    vision, text = found.config.vision, found.config.text
    initialize.check(found, "w", *run)
    longer = SentencePieceTokenizer(found.tokenizer.model, 13)
    for wrong, message in (
        ((replace(run[0], activation="gelu"), *run[1:]),
         "model.activation: 'quick_gelu' -> 'gelu'"),
        ((replace(run[0], vision=replace(vision, num_layers=1)), *run[1:]),
         "model.vision.num_layers: 2 -> 1"),
        ((replace(run[0], vision=VARIANTS["RN-Test"].vision), *run[1:]),
         "model.image_tower: 'vit' -> 'resnet'"),
        ((replace(run[0], text=replace(text, width=64)), *run[1:]), "model.text.width: 32 -> 64"),
        ((run[0], longer, run[2]), "the tokenizer"),
        ((*run[:2], replace(run[2], resize="squash")), "data.resize: 'shortest' -> 'squash'"),
    ):  # fmt: skip
        with pytest.raises(
            LayoutError, match="model.init_from=w does not fit this config"
        ) as error:
            initialize.check(found, "w", *wrong)
        assert message in str(error.value)


def test_a_run_refuses_weights_of_another_model(workdir, trainer, tmp_path):
    code, output = trainer.run(
        tmp_path, f"model.init_from={workdir}", "model.activation=gelu", *STILL
    )
    assert code == 78, output
    assert "model.activation: 'quick_gelu' -> 'gelu'" in output
    assert "Traceback" not in output


def test_an_exchanged_tokenizer_is_refused(copy, tmp_path):
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), (200, 6))
    captions = ["".join(row) for row in letters]
    train_sentencepiece(captions, 32, tmp_path / "other.model")
    shutil.copy(tmp_path / "other.model", copy / "tokenizer.model")
    with pytest.raises(LayoutError, match="tokenizer fingerprint was .* when this run began"):
        clip_jax.load(copy)


def test_one_checkpoint_of_several(workdir):
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
    newest = clip_jax.load(workdir / "checkpoints" / str(steps[-1]))
    np.testing.assert_array_equal(
        newest.encode_text(TEXTS), clip_jax.load(workdir).encode_text(TEXTS)
    )
    older = clip_jax.load(workdir / "checkpoints" / str(steps[0]))
    assert (older.encode_text(TEXTS) != newest.encode_text(TEXTS)).any()


def test_a_run_tells_its_layout_itself(workdir):
    for options in (dict(layout="openai"), dict(activation="gelu")):
        with pytest.raises(LayoutError, match="is a run, which tells its layout"):
            clip_jax.load(workdir, **options)


def test_the_readmes_example_runs(root, workdir, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(workdir)
    monkeypatch.chdir(tmp_path)
    code = (root / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "classify" in code
    names = {}
    exec(code, names)
    assert "{'red circle': '" in capsys.readouterr().out
    np.testing.assert_allclose(names["probabilities"].sum(), 1, atol=1e-6)
