"""Images for the report, read again from the data: the right ones, small, and never an error."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from clip_jax import config as config_lib
from clip_jax import evaluation
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets import registry
from clip_jax.data.test_sets.types import from_arrays
from clip_jax.evals import embedder, evaluators, runner
from clip_jax.evals.datasets import resolve
from clip_jax.evals.records import Record
from clip_jax.evals.types import EvalModel, EvalSettings
from clip_jax.report import examples, run_page
from clip_jax.report.types import ReportData
from clip_jax.runtime.mesh import create_mesh


def colour(i):
    return (7 * i % 256, 255 - i, i)


@pytest.fixture
def root(tmp_path):
    """Test images of one colour each, which tells them apart, and a table with their captions."""
    rows = []
    for i in range(12):
        path = tmp_path / "set" / "test" / f"class {i % 2}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (400, 200), colour(i)).save(path)
        rows.append({"image": str(path.relative_to(tmp_path)), "caption": f"caption {i}"})
        copy = tmp_path / "training" / "any" / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 50), colour(100 + i)).save(copy)
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def data(root):
    return [f"folder:{root}/set", f"csv:{root}/captions.jsonl"]


def settings(root):
    return EvalSettings(overlap_with=f"folder:{root}/training")


def numbers(test):
    """The image numbers in the order of the files' own numbers."""
    return sorted(range(len(test)), key=lambda i: test.describe(i).rsplit("/", 1)[1])


def records(root):
    """Records as an evaluation makes them, with queries written by hand."""
    how, (folder, table) = settings(root), [registry.open_dataset(spec) for spec in data(root)]
    training = resolve.resolve(data(root)[0], how).training_images()
    place = numbers(folder)
    common = {"split": "test", "protocol": "paper", "n": 12}
    search = [{"text": "class 1", "recall": 0.25, "found": [place[3], place[0]],
               "right": [True, False]}]  # fmt: skip
    captions = [{"text": f"caption {i}", "found": [i, 5], "right": [True, False]} for i in (1, 4)]
    pair = {"test": "t", "training": "r", "cosine": 0.97, "found": True, "correct": True}
    pairs = [pair | {"test_index": place[i], "training_index": i + 1} for i in range(8)]
    around = [p | {"found": i < 4} for i, p in enumerate(pairs)]
    return [
        Record("zero_shot", "set", **common, data_fingerprint=folder.fingerprint,
               class_names=["class 0", "class 1"], details={"search": search}),
        Record("retrieval", resolve.resolve(data(root)[1], how).title, **common,
               data_fingerprint=table.fingerprint, details={"search": captions}),
        Record("overlap", "set", **common, data_fingerprint=folder.fingerprint,
               main_metric="contamination", metrics={"contamination": 0.5},
               details={"pairs": pairs, "around": around, "unit": "cosine",
                        "training_fingerprint": training.fingerprint}),
        Record("zero_shot", "gone", **common, skipped="not here"),
    ]  # fmt: skip


def test_images_are_those_that_the_records_name(root):
    gallery, pairs = examples.load(records(root), data(root), settings(root))
    title = records(root)[1].dataset
    assert [(text, note) for text, _, note in gallery] == [
        ("caption 1", title), ("caption 4", title), ("class 1", "set, recall 25%"),
    ]  # fmt: skip
    for _, answers, _ in gallery:
        assert [right for _, right in answers] == [True, False]
        assert all(p.shape == (80, 160, 3) and p.dtype == np.uint8 for p, _ in answers)
    shown = [[tuple(p[40, 80].tolist()) for p, _ in answers] for _, answers, _ in gallery]
    assert shown == [[colour(1), colour(5)], [colour(4), colour(5)], [colour(3), colour(0)]]
    ((name, loaded),) = pairs.items()
    assert name == records(root)[2].file_name
    # The six most similar, of which four count, and what is just above and below the threshold.
    assert [tuple(a[40, 80].tolist()) for _, a, _ in loaded] == [colour(i) for i in range(7)]
    assert [tuple(b[9, 9].tolist()) for *_, b in loaded] == [colour(101 + i) for i in range(7)]
    assert [b.shape for *_, b in loaded] == [(50, 30, 3)] * 7  # small ones stay as they are


def test_what_changed_or_cannot_be_read_is_left_out(root):
    made, how = records(root), settings(root)
    place = numbers(registry.open_dataset(data(root)[0]))
    damaged = root / "set" / "test" / "class 1" / "03.png"
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    gallery, pairs = examples.load(made, data(root), how)
    assert [text for text, *_ in gallery] == ["caption 1", "caption 4"]
    [shown] = pairs.values()
    assert place[3] not in [pair["test_index"] for pair, *_ in shown] and len(shown) == 6
    (root / "set" / "test" / "class 0" / "98.png").write_bytes(b"one more")
    (root / "captions.jsonl").unlink()
    (root / "training" / "any" / "99.png").write_bytes(b"one more")
    assert examples.load(made, data(root), settings(root)) == ([], {})
    assert examples.load(made, [], settings(root)) == ([], {})


def test_without_training_images_there_are_no_pairs(root):
    gallery, pairs = examples.load(records(root), data(root), EvalSettings())
    assert len(gallery) == 3 and pairs == {}


def test_few_datasets_captions_and_classes_by_turns(root, monkeypatch):
    opened = []
    monkeypatch.setattr(
        examples, "_queries",
        lambda record, test, titles: opened.append(record.dataset) or [("q", [], record.dataset)],
    )  # fmt: skip
    some = [{"text": "q", "found": [], "right": []}]
    made = [Record("zero_shot", f"z{k}", "test", "paper", class_names=["c"] * k,
                   details={"search": some}) for k in (3, 9, 5)]  # fmt: skip
    made += [Record("retrieval", f"r{n}", "test", "paper", n=n, details={"search": some})
             for n in (10, 20)]  # fmt: skip
    gallery, _ = examples.load(made, [], EvalSettings())
    assert [source for *_, source in gallery] == ["r20", "z9", "r10"] == opened
    made = [dataclasses.replace(r, details={}) if r.task == "retrieval" else r for r in made]
    gallery, _ = examples.load(made, [], EvalSettings())
    assert [source for *_, source in gallery] == ["z9", "z5", "z3"]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "CMYK", "1"])
def test_thumbnails_of_any_mode(mode):
    image = Image.fromarray(np.full((300, 90), 200, np.uint8))
    image = Image.fromarray(np.full((300, 90), 51400, np.uint16)) if mode == "I;16" else image
    image = image if mode == "I;16" else image.convert(mode)
    data = from_arrays("x", "test", [np.zeros((2, 2, 3), np.uint8)], np.array([0]))
    for given in [image, *([np.asarray(image)] if mode in ("L", "RGBA") else [])]:
        small = examples.thumbnail(dataclasses.replace(data, images=[given]), 0)
        assert small.shape == (160, 48, 3) and small.dtype == np.uint8
        assert image.size == (90, 300)  # the data's own image is not made smaller
        if mode not in ("1", "CMYK"):
            assert abs(small.astype(int) - 200).max() <= 1
    assert examples.thumbnail(data, 1) is None


def test_the_report_has_the_images_also_of_records_that_were_read(root, tmp_path, monkeypatch):
    made = records(root)[:3]
    monkeypatch.setattr(runner, "run", lambda *args, **options: made)
    monkeypatch.setattr(evaluation.clip_benchmark, "write", lambda *_: None)
    monkeypatch.setattr(evaluation.datacomp, "write", lambda *_: None)

    class Clip:
        def as_evaluated(self, name):
            return None

    row = {"name": "set", "n": 12, "n_overlap": 6, "contamination": 0.5, "all": 0.5, "clean": 0.5,
           "overlap": 0.5, "difference": 0.0, "p_value": 0.5, "low": 0.1, "high": 0.9}  # fmt: skip
    more = {"row": row, "by": "embedding", "threshold": 0.95, "training_pictures": 12}
    made[2] = dataclasses.replace(made[2], details=made[2].details | more)
    evaluation.evaluate(Clip(), data(root), settings=settings(root), out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert page.count("<img") == 2 * 3 + 2 * 7
    assert "set, recall 25%" in page and "caption 4" in page


def test_examples_fill_every_part_of_a_runs_report(root, tmp_path):
    mesh = create_mesh({"data": 8})

    def unit(x):
        flat = x.reshape(x.shape[0], -1)[:, :4].astype(jnp.float32) + 1
        return flat / jnp.linalg.norm(flat, axis=1, keepdims=True)

    def tokenize(texts):
        return np.array([[len(t), *t.encode()[-3:]] for t in texts], np.int32)

    made = embedder.BatchedEmbedder(
        unit, unit, unit, mesh=mesh, batch_size=8, embed_dim=4, probe_dim=4,
    )  # fmt: skip
    model = EvalModel("m", "", made, tokenize, Preprocess(4), mesh)
    given = [f"zero_shot@{data(root)[0]}", f"retrieval@{data(root)[1]}"]
    c = config_lib.defaults()
    c.eval.evaluators = given
    prepared = evaluators.prepare(c, Preprocess(4))
    measured = {e.name: e.run(model) for e in prepared}
    pairs = [(measured[e.name], e.data.open("test")) for e in prepared]
    shown = examples.of_run(pairs)
    table = pairs[1][1]
    assert shown["similarity"].matrix.shape == (10, 10)
    rows = measured[given[1]].details["similarity"]["images"]
    pixels = np.stack([table.load(i, Preprocess(4)) for i in rows])
    want = made.texts(tokenize(shown["similarity"].captions)) @ made.images(pixels).T
    np.testing.assert_allclose(shown["similarity"].matrix, want, atol=1e-6)
    assert len(shown["predictions"]) == 12
    assert all(len(p.guesses) == 2 for p in shown["predictions"])
    assert [len(q.answers) for q in shown["text_to_image"]] == [5] * 6
    assert [q.text[:8] for q in shown["text_to_image"]] == ["caption "] * 6
    assert len(shown["image_to_text"]) == 4
    made_of = ReportData("t", [("model", "x")], [], examples.results(measured), **shown)
    paths = run_page.write_report(tmp_path, made_of)
    assert all(p.stat().st_size > 10_000 for p in paths)
    # A run with zero-shot alone has example images too.
    alone = examples.of_run(pairs[:1])
    assert alone.keys() == {"predictions", "text_to_image"} and len(alone["predictions"]) == 12
    assert examples.of_run([]) == {}


def test_baselines_stand_beside_their_metrics():
    record = Record("zero_shot", "d", "test", "paper", 5, "top1", {"top5": 0.75, "top1": 0.5},
                    {"top1": (0.25, 0.75)}, details={"baselines": {"top1": 0.2}})  # fmt: skip
    first, second = examples.results({"mine": record})
    assert first == ("mine", "top1", 0.5, 5, 0.25, 0.2)
    assert second == ("mine", "top5", 0.75, 5, None, None)
