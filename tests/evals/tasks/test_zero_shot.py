"""Zero-shot classification as a task: its numbers, and whose classes and templates it takes."""

import json

import numpy as np
import pytest
from colours import COLOURS, run

from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets import registry
from clip_jax.data.test_sets.types import Options
from clip_jax.evals.metrics import classification
from clip_jax.evals.types import EvalSettings


def test_zero_shot_is_what_its_parts_give(folders):
    (record,) = run(folders, ["zero_shot"])
    data = registry.open_dataset(f"folder:{folders}", "test", Options())
    pixels = np.stack([data.load(i, Preprocess(6)) for i in range(len(data))])
    names = sorted(COLOURS)
    weights = np.array([[n == c for c in COLOURS] for n in names], float) + 0.1
    want = classification.measure(pixels.astype(float).mean((1, 2)), weights, data.labels)
    assert record.metrics["top1"] == want["top1"]
    assert record.metrics["mean_per_class_recall"] == pytest.approx(want["mean_per_class_recall"])


def test_templates_fit_data_of_ones_own(folders):
    for templates, want in (("plain", "a photo of a {}."), ("names", "{}")):
        settings = EvalSettings(templates=templates)
        (record,) = run(folders, ["zero_shot"], settings=settings)
        assert record.templates == [want]
    (record,) = run(folders, ["zero_shot"], settings=EvalSettings(templates="subset7"))
    assert "of ImageNet's templates" in record.skipped


def test_names_of_ones_own_take_the_protocols_templates(folders, tmp_path):
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"cifar10": [f"nom {i}" for i in range(10)]}))
    (tmp_path / "t.csv").write_text(f"image,label\n{folders}/test/red/0.png,9\n")
    settings = EvalSettings(class_file=str(names))
    (record,) = run(folders, ["zero_shot"], [f"CIFAR10=csv:{tmp_path}/t.csv"], settings)
    assert record.class_names[9] == "nom 9" and len(record.templates) == 18


def test_own_classes_and_templates(folders, tmp_path):
    (tmp_path / "names.txt").write_text("bleu\nvert\nrouge\n", encoding="utf-8")
    (tmp_path / "templates.txt").write_text("une photo {c}\n", encoding="utf-8")
    settings = EvalSettings(
        class_file=str(tmp_path / "names.txt"), template_file=str(tmp_path / "templates.txt")
    )
    (record,) = run(folders, ["zero_shot"], settings=settings)
    assert record.class_names == ["bleu", "vert", "rouge"]
    assert record.templates == ["une photo {}"]
    assert record.value == pytest.approx(1 / 3)  # the tokenizer knows none of these
