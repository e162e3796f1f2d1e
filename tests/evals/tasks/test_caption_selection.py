"""Image-caption selection in the suite: scores by another way of counting, records, formats."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_page import render
from PIL import Image

from clip_jax.data.preprocess import Preprocess
from clip_jax.evals import embedder, runner
from clip_jax.evals.exports import clip_benchmark
from clip_jax.evals.types import EvalModel
from clip_jax.runtime.mesh import create_mesh

SIZE = 6


def tokenize(texts):
    """Captions are numbers: "3 1 2" is a direction."""
    assert all(t[0].isdigit() for t in texts), "a prefix"
    return np.array([[int(part) for part in t.split()] for t in texts], np.int32)


def model(devices=8, batch_size=16):
    mesh = create_mesh({"data": -1}, jax.devices()[:devices])

    def unit(x):
        return x / jnp.linalg.norm(x, axis=1, keepdims=True)

    made = embedder.BatchedEmbedder(
        lambda x: unit(x.astype(jnp.float32).mean((1, 2))), lambda t: unit(t.astype(jnp.float32)),
        lambda x: x.astype(jnp.float32).mean((1, 2)), mesh=mesh, batch_size=batch_size,
        embed_dim=3, probe_dim=3,
    )  # fmt: skip
    return EvalModel("numbers", "0123", made, tokenize, Preprocess(SIZE), mesh)


def drawn(root, count, pictures, captions, seed=0):
    """Instances of random directions, with the cosines of each: [images, captions]."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    rows, cosines = [], []
    for i in range(count):
        colours = rng.integers(1, 255, (pictures, 3))
        texts = rng.integers(1, 255, (captions, 3))
        texts[0] = np.clip(colours[0] + rng.integers(-90, 90, 3), 1, 255)  # near its picture
        for j, colour in enumerate(colours):
            pixels = np.broadcast_to(colour.astype(np.uint8), (SIZE, SIZE, 3))
            Image.fromarray(np.ascontiguousarray(pixels)).save(root / "images" / f"{i}_{j}.png")
        rows.append({
            "images": [f"{i}_{j}" for j in range(pictures)],
            "captions": [" ".join(map(str, text)) for text in texts],
        })  # fmt: skip
        cosines.append([
            [sum(map(float, a * b)) / math.dist(a, [0] * 3) / math.dist(b, [0] * 3) for b in texts]
            for a in colours
        ])  # fmt: skip
    return rows, cosines


def written(root, rows, name="x.jsonl"):
    text = (
        "".join(json.dumps(row) + "\n" for row in rows) if name == "x.jsonl" else json.dumps(rows)
    )
    (root / name).write_text(text)
    return f"selection:{root / name}"


def wilson(hits, n, z=1.959963984540054):
    """The roots of (p - x)^2 = z^2 x (1 - x) / n."""
    p = hits / n
    return sorted(np.roots([1 + z * z / n, -2 * p - z * z / n, p * p]))


def test_winoground_scores(tmp_path):
    rows, cosines = drawn(tmp_path, 40, 2, 2)
    names = ("image_0", "image_1", "caption_0", "caption_1")
    rows = [dict(zip(names, (*r["images"], *r["captions"]), strict=True)) for r in rows]
    (record,) = runner.run(model(), [written(tmp_path, rows)])
    text = [c[0][0] > c[0][1] and c[1][1] > c[1][0] for c in cosines]
    image = [c[0][0] > c[1][0] and c[1][1] > c[0][1] for c in cosines]
    hits = {
        "text_score": sum(text), "image_score": sum(image),
        "group_score": sum(map(all, zip(text, image, strict=True))),
    }  # fmt: skip
    assert len(set(hits.values())) == 3 and 0 < hits["group_score"] < 40
    assert record.metrics == {name: count / 40 for name, count in hits.items()}
    assert (record.task, record.main_metric, record.n) == ("caption_selection", "group_score", 40)
    assert set(record.intervals) == set(hits)
    for name, count in hits.items():
        assert record.intervals[name] == pytest.approx(wilson(count, 40))
    assert record.details == {"pictures": 80, "captions": 80} and not record.skipped


def test_sugar_crepe_has_one_score(tmp_path):
    rows, cosines = drawn(tmp_path, 30, 1, 2)
    rows = {
        str(3 * i): {"filename": f"images/{r['images'][0]}.png", "caption": r["captions"][0],
                     "negative_caption": r["captions"][1]}
        for i, r in enumerate(rows)
    }  # fmt: skip
    (record,) = runner.run(model(1, 7), [written(tmp_path, rows, "add_att.json")])
    hits = sum(c[0][0] > c[0][1] for c in cosines)
    assert 0 < hits < 30
    assert record.metrics == {"text_score": hits / 30}
    assert (record.main_metric, record.n, len(record.intervals)) == ("text_score", 30, 1)
    assert record.intervals["text_score"] == pytest.approx(wilson(hits, 30))
    shown = clip_benchmark.convert(record)
    assert shown["task"] == "image_caption_selection"
    assert shown["metrics"] == {"text_acc": hits / 30, "acc": hits / 30}


@pytest.mark.parametrize(("pictures", "captions"), [(3, 1), (2, 3), (3, 2)])
def test_other_shapes(tmp_path, pictures, captions):
    rows, cosines = drawn(tmp_path, 20, pictures, captions, seed=1)
    (record,) = runner.run(model(), [written(tmp_path, rows)])
    own = range(min(pictures, captions))
    text = [all(c[i][i] >= max(c[i]) for i in own) for c in cosines]
    image = [all(c[i][i] >= max(row[i] for row in c) for i in own) for c in cosines]
    want = {"text_score": np.mean(text)} if captions > 1 else {}
    want |= {"image_score": np.mean(image)} if pictures > 1 else {}
    both = len(want) == 2
    if both:
        want["group_score"] = np.mean(np.logical_and(text, image))
    assert record.metrics == pytest.approx(want) and 0 < record.value < 1
    assert record.main_metric == ("group_score" if both else "image_score")
    acc = clip_benchmark.convert(record)["metrics"]["acc"]
    assert acc == record.value


def test_a_mix_has_what_all_instances_have(tmp_path):
    one, a = drawn(tmp_path / "one", 6, 1, 2)
    two, b = drawn(tmp_path / "two", 6, 2, 2, seed=1)
    for rows, home in ((one, "one"), (two, "two")):
        for row in rows:
            row["images"] = [f"{home}/images/{name}" for name in row["images"]]
    (record,) = runner.run(model(), [written(tmp_path, one + two)])
    right = [c[0][0] > c[0][1] and (len(c) == 1 or c[1][1] > c[1][0]) for c in a + b]
    assert record.metrics == {"text_score": sum(right) / 12}
    for row in two:
        row["captions"] = row["captions"][:1]
    (record,) = runner.run(model(), [written(tmp_path, one + two)])
    assert "put each kind in a file of its own" in record.skipped


def test_what_is_wrong_or_of_another_kind(tmp_path):
    spec = written(tmp_path, [{"images": ["a"], "captions": ["1 2 3", "3 2 1"]}])
    (record,) = runner.run(model(), [spec])
    assert "x.jsonl:1: no image a.png" in record.skipped
    Image.new("RGB", (8, 8), (9, 5, 1)).save(tmp_path / "a.png")
    assert runner.run(model(), [spec], ["zero_shot", "retrieval"]) == []
    (record,) = runner.run(model(), [spec], ["zero_shot", "caption_selection"])
    assert record.metrics == {"text_score": 0.0}


def test_the_report_shows_it(tmp_path):
    rows, _ = drawn(tmp_path, 40, 2, 2)
    (record,) = runner.run(model(), [written(tmp_path, rows)], folder=tmp_path / "records")
    page = render([record])
    assert "Image-caption selection" in page and "group score, n\xa0=\xa040" in page
    assert f'data-head="Result">{100 * record.value:.1f}%<' in page
    section = page[page.index('id="metrics"') :]
    assert all(f">{100 * share:.1f}%<" in section for share in record.metrics.values())
    said = []
    (again,) = runner.run(model(), [written(tmp_path, rows)], folder=tmp_path / "records",
                         say=said.append)  # fmt: skip
    assert again.metrics == record.metrics and any("(read)" in line for line in said)
