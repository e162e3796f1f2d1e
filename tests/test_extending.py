"""What docs/extending.md promises: every kind of extension in a file of one's own, end to end."""

import json
import os
import subprocess
import sys

import pytest

EXTENSIONS = """
import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from PIL import Image

from clip_jax import losses
from clip_jax.data import transforms
from clip_jax.data.pairs import registry as pairs
from clip_jax.data.pairs.base import Example, Source
from clip_jax.data.test_sets import registry as test_sets
from clip_jax.data.test_sets.types import ClassificationDataset
from clip_jax.evals.tasks import registry as tasks
from clip_jax.evals.tasks.base import Task
from clip_jax.evals.types import Result
from clip_jax.models import clip
from clip_jax.models.variants import VARIANTS

COLORS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}
NAMES = list(COLORS)


def square(index):
    return np.full((24, 24, 3), COLORS[NAMES[index % 3]], np.uint8)


# A data source.
class Squares(Source):
    def __init__(self):
        self.fingerprint = "squares-1"

    @classmethod
    def from_config(cls, data):
        return cls()

    def __len__(self):
        return 96

    def read(self, index, rng):
        return Example(square(index), self.caption(index, rng), index % 3)

    def caption(self, index, rng):
        return f"a {NAMES[index % 3]} square of the number {index % 7}"

    def describe(self, index):
        return f"square {index}"


pairs.SOURCES["squares"] = Squares


# An augmentation.
def mirrored(image, size, rng):
    image = image.convert("RGB").resize((size, size))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


transforms.AUGMENTATIONS["mirrored"] = mirrored


# A loss: half the softmax loss.
def half(mesh, options):
    softmax = losses.LOSSES["softmax"].implementations["dense"](mesh, options)

    def loss(*inputs):
        value, aux = softmax(*inputs)
        return 0.5 * value, aux

    return loss


losses.LOSSES["half"] = losses.Loss({"dense": half})


# An image tower.
@dataclasses.dataclass(frozen=True)
class MeanColorConfig:
    image_size: int = 16
    width: int = 8
    num_heads: int = 1


class MeanColor(nn.Module):
    width: int
    embed_dim: int

    @nn.compact
    def __call__(self, images, train=False, *rest):
        x = nn.Dense(self.width)(images.mean((1, 2)))
        return nn.Dense(self.embed_dim)(nn.tanh(x)).astype(jnp.float32)


clip.IMAGE_TOWERS[MeanColorConfig] = lambda model, options: MeanColor(
    model.config.vision.width, model.config.embed_dim
)
VARIANTS["Toy"] = dataclasses.replace(VARIANTS["ViT-Test/8"], vision=MeanColorConfig())


# A reader of test sets.
def open_squares(name, split, options):
    labels = np.arange(int(name)) % 3
    return ClassificationDataset(
        "Squares", split, [square(i) for i in labels], labels, NAMES, ["a {} square"],
        fingerprint=f"squares-{name}-{split}",
    )


test_sets.READERS["squares"] = open_squares


# A task.
class Spread(Task[ClassificationDataset]):
    name = "spread"
    title = "Spread of the embeddings"
    dataset_type = ClassificationDataset

    def run(self, model, test, data, store):
        images = store.get("images", model.embedder.images, test, model.preprocess)
        return Result(
            n=len(test), main_metric="spread", metrics={"spread": float(images.std(0).mean())},
            intervals={"spread": (0.0, 1.0)},
        )


tasks.TASKS["spread"] = Spread()
"""
CONFIG = """
import extensions  # registers
from clip_jax.config import defaults


def get_config():
    c = defaults()
    c.model.variant, c.model.dtype = "Toy", "float32"
    c.tokenizer.name, c.tokenizer.model_type = "sentencepiece", "word"
    c.tokenizer.vocab_size, c.tokenizer.context_length = 20, 12
    c.data.source, c.data.augmentation = "squares", "mirrored"
    c.loss.name = "half"
    c.train.batch_size, c.train.examples = 32, 32 * 8
    c.optim.warmup_examples = 32
    c.eval.evaluators = ("spread@squares:12",)
    c.log.tensorboard = False
    c.log.every_steps = 1
    return c
"""


@pytest.fixture
def command(tmp_path, trainer, root):
    """Runs a public command in a folder with the two files; returns exit code and output."""
    (tmp_path / "extensions.py").write_text(EXTENSIONS)
    (tmp_path / "my_config.py").write_text(CONFIG)

    def run(*arguments):
        path = os.pathsep.join([str(tmp_path), str(root)])
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=tmp_path, timeout=500, text=True,
            env=trainer.environment(PYTHONPATH=path), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout

    return run


def test_extensions_from_a_file_of_ones_own(command, tmp_path):
    code, output = command("clip_jax.train", "--config=my_config.py", "--workdir=run")
    assert code == 0, output
    assert "squares, 96 pairs" in output and "loss: half, dense" in output
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [x["loss"] for x in lines if "loss" in x]
    assert losses[-1] < losses[0] < 0.5 * 5  # half of log 32, and somewhat more at the start
    assert any("eval/spread@squares:12/spread" in x for x in lines)

    code, output = command(
        "clip_jax.evaluate", "--extensions=extensions", "--model=run", "--data=squares:12",
        "--tasks=spread,zero_shot", "--out=results", "--cache-dir=cache",
    )  # fmt: skip
    assert code == 0, output
    records = [json.loads(p.read_text()) for p in (tmp_path / "results/records").glob("*.json")]
    assert {(r["task"], r["n"], r["skipped"]) for r in records} == {
        ("spread", 12, ""), ("zero_shot", 12, "")
    }  # fmt: skip
    page = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    assert "<h3>Spread of the embeddings</h3>" in page

    code, output = command(
        "clip_jax.evaluate", "--extensions=no_such_module", "--model=run", "--data=squares:12"
    )
    assert code == 64 and "--extensions=no_such_module" in output
