"""A model that knows colours, and test sets of them: evaluations without a trained network."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from clip_jax.data.preprocess import Preprocess
from clip_jax.evals import embedder, runner
from clip_jax.evals.types import EvalModel, EvalSettings
from clip_jax.runtime.mesh import create_mesh

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def write_folders(root):
    """Images in noisy colours, a folder a class; and a table of captions."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 11)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(colour, 300, (6, 6, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    with open(root / "captions.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for name in COLOURS:
            for i in range(4):
                rows.writerow([f"test/{name}/{i}.png", f"{name} number {i}"])


def tokenize(texts):
    """Which colours a text names."""
    return np.array([[name in t for name in COLOURS] for t in texts], np.int32)


def model(devices=8, batch_size=16, calls=None):
    mesh = create_mesh({"data": -1}, jax.devices()[:devices])

    def features(x):
        if calls is not None:
            jax.debug.callback(lambda: calls.append(1))
        return x.astype(jnp.float32).mean((1, 2)) / 100

    def unit(x):
        return x / (jnp.linalg.norm(x, axis=1, keepdims=True) + 1e-6)

    made = embedder.BatchedEmbedder(
        lambda x: unit(features(x)), lambda t: unit(t.astype(jnp.float32) + 0.1), features,
        mesh=mesh, batch_size=batch_size, embed_dim=3, probe_dim=3,
    )  # fmt: skip
    return EvalModel("colours", "0123", made, tokenize, Preprocess(6), mesh)


def run(folders, tasks=(), data=None, settings=None, **options):
    of = options.pop("of", None) or model()
    settings = settings or EvalSettings(shots=(1, 4, 100), seeds=2)
    return runner.run(of, data or [f"folder:{folders}"], tasks, settings, **options)
