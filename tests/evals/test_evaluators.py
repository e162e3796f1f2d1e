"""Evaluators of a training run: the numbers of the command, and errors before it begins."""

import csv
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from clip_jax import config as config_lib
from clip_jax.config import ConfigError
from clip_jax.data.errors import DataError
from clip_jax.data.pairs import registry
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.types import Options
from clip_jax.evals import embedder, evaluators, runner
from clip_jax.evals.datasets.resolve import resolve
from clip_jax.evals.feature_store import Store
from clip_jax.evals.tasks.registry import TASKS
from clip_jax.evals.types import EvalModel, EvalSettings
from clip_jax.runtime.mesh import create_mesh

COLOURS = {"blue": (30, 30, 200), "green": (30, 200, 30), "red": (200, 30, 30)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("scheduled")
    rng = np.random.default_rng(0)
    with open(root / "captions.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for split in ("train", "test"):
            for name, colour in COLOURS.items():
                (root / split / name).mkdir(parents=True)
                for i in range(6):
                    pixels = np.clip(rng.normal(colour, 200, (6, 6, 3)), 0, 255).astype(np.uint8)
                    Image.fromarray(pixels).save(root / split / name / f"{i}.png")
                    if split == "test":
                        rows.writerow([f"test/{name}/{i}.png", f"{name} number {i}"])
    return root


def tokenize(texts):
    return np.array([[name in t for name in ("red", "green", "blue")] for t in texts], np.int32)


def colours(mesh):
    def features(x):
        return x.astype(jnp.float32).mean((1, 2)) / 100

    def unit(x):
        return x / (jnp.linalg.norm(x, axis=1, keepdims=True) + 1e-6)

    return embedder.BatchedEmbedder(
        lambda x: unit(features(x)), lambda t: unit(t.astype(jnp.float32) + 0.1), features,
        mesh=mesh, batch_size=16, embed_dim=3, probe_dim=3,
    )  # fmt: skip


def config(*names, **changes):
    found = config_lib.defaults()
    found.eval.evaluators = names
    found.eval.update(changes)
    return found


def test_the_suites_numbers(data):
    mesh = create_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    specs = {
        "zero_shot": f"folder:{data}", "linear_probe": f"folder:{data}",
        "retrieval": f"csv:{data}/captions.csv",
    }  # fmt: skip
    names = [f"{task}@{spec}" for task, spec in specs.items()]
    prepared = evaluators.prepare(config(*names), Preprocess(6))
    model = EvalModel("", "", colours(mesh), tokenize, Preprocess(6), mesh)
    for each, (kind, spec) in zip(prepared, specs.items(), strict=True):
        (want,) = runner.run(model, [spec], [kind])
        got = evaluators.scalars(each.run(model))
        assert each.name == f"{kind}@{spec}" and got["n"] == want.n == 18
        assert {k: got[k] for k in want.metrics} == want.metrics
        assert next(iter(got)) == want.main_metric
        low, high = want.intervals[want.main_metric]
        assert got[f"{want.main_metric}_ci95"] == pytest.approx((high - low) / 2)


def test_the_protocol_is_the_configs(data):
    name = f"retrieval@csv:{data}/captions.csv"
    mesh = create_mesh({"data": 8})
    firsts = []
    for protocol in ("paper", "datacomp"):
        (task,) = evaluators.prepare(config(name, protocol=protocol), Preprocess(6))
        model = EvalModel("", "", colours(mesh), tokenize, Preprocess(6), mesh)
        firsts.append(task.run(model).main_metric)
    assert firsts == ["image_to_text_r@1", "mean_r@1"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("zero-shot@digits", ConfigError, "'zero-shot' is not one of"),
        (
            "zero_shot@ImageNett",
            ConfigError,
            "has 'zero_shot@ImageNett': .*ImageNett",
        ),
        ("zero_shot@folder:/nowhere", DataError, "eval.evaluators has 'zero_shot@folder:/nowhere'"),
        (
            "zero_shot@csv:{}/captions.csv",
            ConfigError,
            "takes a ClassificationDataset, but .*RetrievalDataset",
        ),
        ("retrieval@folder:{}", ConfigError, "takes a RetrievalDataset"),
        ("zero_shot@csv:{}/numbers.csv", ConfigError, "has no class names"),
        ("linear_probe@csv:{}/split.csv", ConfigError, "no row of split 'train'"),
        ("linear_probe@csv:{}/flat.csv", ConfigError, "train has images of test"),
        ("few_shot@folder:{}/few", ConfigError, "class 0 has 0 images to learn from"),
        ("overlap@folder:{}", ConfigError, "overlap needs overlap_with"),
        ("zero_shot@csv:{}/damaged.csv", DataError, r"eval.evaluators has .*damaged\.png"),
    ],
)
def test_what_cannot_run_is_told_at_the_start(data, name, kind, message):
    (data / "numbers.csv").write_text("image,label\ntest/red/0.png,0\n")
    (data / "split.csv").write_text("image,label,split\ntest/red/0.png,red,test\n")
    (data / "flat.csv").write_text("image,label\ntest/red/0.png,red\ntest/blue/0.png,blue\n")
    for place in ("train/b", "test/a", "test/b"):
        (data / "few" / place).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 6)).save(data / "few" / place / "0.png")
    (data / "damaged.csv").write_text("image,label\ndamaged.png,red\n")
    (data / "damaged.png").write_bytes(b"<html>")
    with pytest.raises(kind, match=message):
        evaluators.prepare(config(name.format(data)), Preprocess(6))


def test_a_picture_that_goes_bad_is_named(data, tmp_path, capsys):
    pixels = Image.new("RGB", (6, 6))
    rows = ["image,label"]
    for i in range(3):
        pixels.save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,red")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    (task,) = evaluators.prepare(config(f"zero_shot@csv:{tmp_path}/t.csv"), Preprocess(6))
    (tmp_path / "2.png").write_bytes(b"gone")
    # A run of weeks must not end because of it.
    mesh = create_mesh({"data": 8})
    model = EvalModel("", "", colours(mesh), tokenize, Preprocess(6), mesh)
    record = task.run(model)
    assert evaluators.scalars(record) == {} and f"{tmp_path}/2.png" in record.skipped


EMOJI = {
    "unseen_vendor": {"task": "zero_shot", "data": "emoji:unseen_vendor"},
    "held_out": {"task": "zero_shot", "data": "emoji:held_out"},
    "held_out_retrieval": {"task": "retrieval", "data": "emoji:held_out_retrieval"},
}


def test_the_short_form_is_that_of_old_runs():
    """Stored configs have eval.tasks with these names; metrics keep them."""
    want = {name: entry | {"every_examples": 0} for name, entry in EMOJI.items()}
    assert evaluators.from_config(tuple(EMOJI)) == evaluators.from_config(EMOJI) == want
    assert evaluators.from_config("retrieval, zero_shot@ImageNet") == {
        "retrieval": {"task": "retrieval", "data": "validation", "every_examples": 0},
        "zero_shot@ImageNet": {"task": "zero_shot", "data": "ImageNet", "every_examples": 0},
    }
    assert evaluators.from_config(None) == evaluators.from_config(()) == {}


def test_each_evaluator_has_a_period(data):
    c = config(every_examples=1000)
    c.eval.evaluators = {
        name: {"task": "zero_shot", "data": f"folder:{data}"} | more
        for name, more in (("often", {"every_examples": 10}), ("as_all", {}))
    }
    found = {e.name: e.every_examples for e in evaluators.prepare(c, Preprocess(6))}
    assert found == {"often": 10, "as_all": 1000}


@pytest.mark.parametrize(
    "entry", [{"task": "zero_shot"}, {"task": "a", "data": "b", "evry_examples": 1}, "zero_shot"]
)
def test_entries_of_another_form_are_named(entry):
    c = config()
    c.eval.evaluators = {"mine": entry}
    with pytest.raises(ConfigError, match=r"eval\.evaluators\.mine="):
        evaluators.prepare(c, Preprocess(6))


def test_unknown_names_are_named():
    with pytest.raises(ConfigError, match="eval.evaluators has 'imagenet', which is not one of"):
        evaluators.prepare(config("imagenet"), Preprocess(16))


def test_emoji_evaluators(emoji_cache):
    c = config()
    c.eval.evaluators = EMOJI
    c.data.cache_dir = str(emoji_cache)
    unseen, held, pairs = (e.data.open("test") for e in evaluators.prepare(c, Preprocess(16)))
    assert (len(unseen), len(unseen.class_names)) == (1421, 1807)
    assert (len(held), len(held.class_names)) == (1064, 181)
    assert unseen.baselines.keys() == {"top1", "top5"}
    assert len(held.descriptions) == 181
    for name, texts in zip(held.class_names, held.descriptions, strict=True):
        assert all(name in t for t in texts[-2:])  # with its groups
        turned = [t.split() for t in texts[:-2]]  # the same words, beginning at another one
        assert len(turned) > 1
        assert len({tuple(sorted(t)) for t in turned}) == 1
        assert len({t[0] for t in turned}) > 1
    assert 170 < len(pairs.captions) <= 181
    assert len(set(pairs.captions)) == len(pairs.captions)


def test_the_names_result_stays_beside_that_of_descriptions(emoji_cache):
    mesh = create_mesh({"data": 8})

    def unit(x):
        flat = x.reshape(x.shape[0], -1)[:, :4].astype(jnp.float32) + 1
        return flat / jnp.linalg.norm(flat, axis=1, keepdims=True)

    def by_length(texts):
        return np.array([[len(t), *(t.encode() + b"  ")[:3]] for t in texts], np.int32)

    made = embedder.BatchedEmbedder(
        unit, unit, unit, mesh=mesh, batch_size=256, embed_dim=4, probe_dim=4,
    )  # fmt: skip
    model = EvalModel("", "", made, by_length, Preprocess(6), mesh)
    data = resolve("emoji:held_out", EvalSettings(options=Options(cache_dir=emoji_cache)))
    store = Store(None, "")
    record = TASKS["zero_shot"].run(model, data.open("test"), data, store)
    test = dataclasses.replace(data.open("test"), descriptions=())
    data.add("test", test)
    names = TASKS["zero_shot"].run(model, test, data, store)
    assert {k: record.metrics[f"names_{k}"] for k in ("top1", "top5")} == {
        k: names.metrics[k] for k in ("top1", "top5")
    }
    assert "names_top1" not in names.metrics
    assert record.intervals.keys() == record.metrics.keys()
    assert record.details["baselines"] == {"top1": 0.325, "top5": 0.568}


def retrieval_config(tmp_path, **changes):
    for i in range(3):
        Image.new("RGB", (20, 20), (i * 80, 0, 0)).save(tmp_path / f"{i}.png")
    rows = "".join(f"{i}.png,red number {i}\n" for i in range(3))
    (tmp_path / "pairs.csv").write_text(f"image,caption\n{rows}")
    c = config()
    c.eval.evaluators = ("retrieval",)
    c.data.update({"source": "table", "validation_path": str(tmp_path / "pairs.csv")} | changes)
    return c


def test_retrieval_reads_the_validation_pairs(tmp_path):
    (task,) = evaluators.prepare(retrieval_config(tmp_path), Preprocess(16))
    test = task.data.open("test")
    assert test.captions == ["red number 0", "red number 1", "red number 2"]
    pixels = np.stack([test.load(i, Preprocess(16)) for i in range(len(test))])
    np.testing.assert_array_equal(pixels[:, 8, 8, 0], [0, 80, 160])
    assert pixels.shape == (3, 16, 16, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_path": ""}, r"data.validation_path is empty"),
        ({"source": "emoji", "validation_path": "x"}, r"unseen_vendor, held_out and held_out_ret"),
    ],
)
def test_retrieval_needs_pairs_of_its_own(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        evaluators.prepare(retrieval_config(tmp_path, **changes), Preprocess(16))


def test_retrieval_on_the_training_pairs_is_refused(tmp_path):
    c = retrieval_config(tmp_path)
    c.data.path = c.data.validation_path
    trained_on = registry.build(c.data).fingerprint
    with pytest.raises(ConfigError, match="gives the pairs that are trained on"):
        evaluators.prepare(c, Preprocess(16), trained_on)


@pytest.mark.parametrize("spoil", ["missing", "damaged"])
def test_a_bad_validation_picture_is_named(tmp_path, spoil):
    c = retrieval_config(tmp_path)
    (tmp_path / "1.png").unlink()
    if spoil == "damaged":
        (tmp_path / "1.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"validation pair .*1\.png: "):
        evaluators.prepare(c, Preprocess(16))
