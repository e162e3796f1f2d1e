"""The report of an evaluation whose tasks are those of the package, as ``evaluate`` makes it."""

import dataclasses
import re

import numpy as np

from clip_jax.evals.datasets import published
from clip_jax.evals.datasets.catalog import CATALOG
from clip_jax.evals.metrics.intervals import wilson
from clip_jax.evals.records import Record
from clip_jax.evals.tasks import registry
from clip_jax.report import eval_page
from clip_jax.report.sections.view import View

NASTY = "<b>&\"' 🦊 漢字 $x^$ שלום"
ESCAPED = "&lt;b&gt;&amp;&#34;&#39; 🦊 漢字 $x^$ שלום"
LONG = "an exceedingly long class name that nobody would print " * 3
NAMES = ["tabby cat", "🦊 fox", "富士山", LONG, "<script>alert(1)</script>", "crème brûlée", "שלום"]
MODEL = "ViT-B/32"

COMMON = {
    "split": "test",
    "protocol": "paper",
    "model": MODEL,
    "model_fingerprint": "5ac99f1e20b1" * 5 + "0123",
    "data_fingerprint": "d" * 64,
    "preprocess": {"image_size": 224, "resize": "shortest", "interpolation": "bicubic",
                   "mean": [0.48145466, 0.4578275, 0.40821073], "fill": 0},
    "seconds": 41.5,
}  # fmt: skip


def measured(task, dataset, n, metric, value, details=None, **more):
    return Record(
        task=task, dataset=dataset, n=n, main_metric=metric, metrics={metric: value},
        intervals={metric: wilson(value, n)}, details=details or {}, **(COMMON | more),
    )  # fmt: skip


def confused(rng, names, n=50):
    rows = []
    for i, name in enumerate(names):
        recall = float(rng.uniform(0, 1))
        other = int((i + 1) % len(names))
        rows.append({"index": i, "name": name, "n": n, "recall": recall, "precision": 0.5,
                     "taken_for": names[other], "taken_for_n": int((1 - recall) * n)})  # fmt: skip
    rows.append({"index": len(names), "name": "never seen", "n": 0, "recall": None,
                 "precision": None, "taken_for": "", "taken_for_n": 0})  # fmt: skip
    return rows


def zero_shot(rng, name, entry, value):
    names = [f"{NAMES[i % 7]} {i}" for i in range(min(entry.classes, 30))]
    details = {"plain": {entry.metric: max(value - float(rng.uniform(-0.02, 0.08)), 0.01)}}
    if entry.kind == "classification":
        details["per_class"] = confused(rng, names)
    value += float(rng.uniform(-0.004, 0.004))
    found = measured("zero_shot", name, entry.test, entry.metric, value, details,
                     class_names=names, templates=["a photo of a {}."] * 80)  # fmt: skip
    return dataclasses.replace(found, metrics=found.metrics | {"top1": value})


def few_shot(rng, name, entry, zero):
    means = [zero + 0.13 * (i - 1.5) * (1 - zero) for i in range(5)]
    curve = [
        {"shots": 2**i, "mean": mean, "std": 0.04 / (i + 1), "values": [mean] * 3}
        for i, mean in enumerate(means)
    ]
    worth = {"shots": 3.4, "bound": "", "most": 16}
    details = {"curve": curve, "zero_shot": zero, "efficiency": worth}
    return measured("few_shot", name, entry.test, "top1@16", means[-1], details)


def realistic():
    """Some forty records of OpenAI's ViT-B/32, with a few datasets missing."""
    rng = np.random.default_rng(0)
    missing = ("Birdsnap", "Kinetics700", "HatefulMemes", "UCF101")
    records = []
    for name, entry in CATALOG.items():
        if entry.kind == "retrieval":
            values = {f"{way}_r@{k}": v for way, v0 in (("image_to_text", 0.79),
                      ("text_to_image", 0.59)) for k, v in ((1, v0), (5, v0 + 0.1),
                      (10, v0 + 0.15))}  # fmt: skip
            found = measured("retrieval", name, 5 * entry.test, "image_to_text_r@1", 0.79)
            records.append(dataclasses.replace(found, metrics=values))
            continue
        if name in missing:
            why = (f"{name} ({entry.title}), split 'test', is not here: get it by `hf download "
                   f"clip-benchmark/wds_{name.lower()} --repo-type=dataset`.")  # fmt: skip
            records.append(Record(task="any", dataset=name, skipped=why, **COMMON))
            continue
        known = published.published(name, "zero_shot", model=MODEL, metric=entry.metric)
        value = known[0].value if known else 0.45
        records.append(zero_shot(rng, name, entry, value))
        if probe := published.published(name, "linear_probe", "paper", MODEL, entry.metric):
            better = probe[0].value + float(rng.uniform(-0.004, 0.004))
            if len(records) % 3 == 0:
                records.append(measured("linear_probe", name, entry.test, entry.metric, better))
            if len(records) % 4 == 0:
                records.append(few_shot(rng, name, entry, value))
    records.append(zero_shot(rng, NASTY, CATALOG["CIFAR10"], 0.31))
    records.append(zero_shot(rng, LONG, CATALOG["CIFAR10"], 0.62))
    return records


def gallery():
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (20, 24, 3), np.uint8) for _ in range(6)]
    return [
        (NASTY, [(image, i == 1) for i, image in enumerate(images)]),
        (LONG, images),
    ]


def render(records, gallery=(), pairs=None, **fields):
    """The page as one string."""
    return eval_page.render(View(records, registry.TASKS, gallery, pairs or {}, **fields))


def section(html, name):
    """A section of a page, "" if it is not there."""
    found = re.search(f'<section id="{name}".*?</section>', html, re.DOTALL)
    return found[0] if found else ""
