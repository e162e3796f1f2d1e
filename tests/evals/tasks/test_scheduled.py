"""Tasks of the suite in a training run: the suite's numbers, and errors before it begins."""

import csv

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from clip_jax import config as config_lib
from clip_jax.config import ConfigError
from clip_jax.data.errors import DataError
from clip_jax.data.preprocess import Preprocess
from clip_jax.evals import embedder, runner
from clip_jax.evals.tasks import in_training
from clip_jax.evals.types import EvalModel
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

    return embedder.sharded(
        lambda x: unit(features(x)), lambda t: unit(t.astype(jnp.float32) + 0.1), features,
        mesh=mesh, batch_size=16, image_size=6, embed_dim=3, probe_dim=3,
    )  # fmt: skip


def config(*names, **changes):
    found = config_lib.defaults()
    found.eval.tasks = names
    found.eval.update(changes)
    return found


def test_the_suites_numbers(data):
    mesh = create_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    specs = {
        "zero_shot": f"folder:{data}", "linear_probe": f"folder:{data}",
        "retrieval": f"csv:{data}/captions.csv",
    }  # fmt: skip
    names = [f"{task}@{spec}" for task, spec in specs.items()]
    prepared = in_training.prepare(config(*names), Preprocess(6), "", mesh)
    model = EvalModel("", "", colours(mesh), tokenize, Preprocess(6), mesh)
    for task, (kind, spec) in zip(prepared, specs.items(), strict=True):
        (want,) = runner.run(model, [spec], [kind])
        got = task.run(model.embedder, tokenize)
        assert task.name == f"{kind}@{spec}" and got["n"] == want.n == 18
        assert {k: got[k] for k in want.metrics} == want.metrics
        assert next(iter(got)) == want.main_metric
        low, high = want.intervals[want.main_metric]
        assert got[f"{want.main_metric}_ci95"] == pytest.approx((high - low) / 2)


def test_the_protocol_is_the_configs(data):
    name = f"retrieval@csv:{data}/captions.csv"
    mesh = create_mesh({"data": 8})
    firsts = []
    for protocol in ("paper", "datacomp"):
        (task,) = in_training.prepare(config(name, protocol=protocol), Preprocess(6), "", mesh)
        firsts.append(next(iter(task.run(colours(mesh), tokenize))))
    assert firsts == ["image_to_text_r@1", "mean_r@1"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("zero-shot@digits", ConfigError, "'zero-shot' is not one of"),
        ("zero_shot@ImageNett", ConfigError, "eval.tasks has 'zero_shot@ImageNett': .*ImageNett"),
        ("zero_shot@folder:/nowhere", DataError, "eval.tasks has 'zero_shot@folder:/nowhere'"),
        (
            "zero_shot@csv:{}/captions.csv",
            ConfigError,
            "takes a ClassificationDataset, but .*RetrievalDataset",
        ),
        ("retrieval@folder:{}", ConfigError, "takes a RetrievalDataset"),
        ("zero_shot@csv:{}/numbers.csv", ConfigError, "has no class names"),
        ("linear_probe@csv:{}/split.csv", ConfigError, "no row of split 'train'"),
        ("linear_probe@csv:{}/flat.csv", ConfigError, "train has pictures of test"),
        ("few_shot@folder:{}/few", ConfigError, "class 0 has 0 pictures to learn from"),
        ("overlap@folder:{}", ConfigError, "overlap needs overlap_with"),
        ("zero_shot@csv:{}/damaged.csv", DataError, r"eval.tasks has .*damaged\.png"),
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
        in_training.prepare(config(name.format(data)), Preprocess(6))


def test_a_picture_that_goes_bad_is_named(data, tmp_path, capsys):
    pixels = Image.new("RGB", (6, 6))
    rows = ["image,label"]
    for i in range(3):
        pixels.save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,red")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    (task,) = in_training.prepare(config(f"zero_shot@csv:{tmp_path}/t.csv"), Preprocess(6))
    (tmp_path / "2.png").write_bytes(b"gone")
    # A run of weeks must not end of it.
    assert task.run(colours(create_mesh({"data": 8})), tokenize) == {}
    said = capsys.readouterr().out
    assert f"eval.tasks, zero_shot@csv:{tmp_path}/t.csv: left out this time: " in said
    assert f"{tmp_path}/2.png" in said
