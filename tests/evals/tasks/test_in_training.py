"""Tasks, the embedder they see, and the report's pictures."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from clip_jax import config as config_lib
from clip_jax.data.errors import DataError
from clip_jax.data.pairs import registry
from clip_jax.data.preprocess import Preprocess
from clip_jax.evals import embedder
from clip_jax.evals.tasks import in_training
from clip_jax.report import run_examples, run_page
from clip_jax.runtime.mesh import create_mesh


def simple_embedder(mesh_sizes, batch_size, calls=None):
    """Embeds a picture or tokens by their first numbers; counts the shapes it is given."""
    calls = [] if calls is None else calls

    def embed(x):
        calls.append(x.shape)
        flat = x.reshape(x.shape[0], -1)[:, :4].astype(jnp.float32) + 1
        return flat / jnp.linalg.norm(flat, axis=1, keepdims=True)

    return embedder.sharded(
        embed, embed, embed, mesh=create_mesh(mesh_sizes), batch_size=batch_size, image_size=4,
        embed_dim=4, probe_dim=4,
    )  # fmt: skip


def images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), np.uint8)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
@pytest.mark.parametrize("batch_size", [7, 8, 64])
def test_batch_size_and_devices_change_nothing(sizes, batch_size):
    want = simple_embedder({"data": 8}, 8).images(images(53))
    got = simple_embedder(sizes, batch_size).images(images(53))
    assert got.shape == (53, 4)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_odd_numbers_of_rows_use_one_shape():
    calls = []
    e = simple_embedder({"data": 8}, 16, calls)
    for n in (0, 1, 15, 16, 17, 40):
        assert e.images(images(n)).shape == (n, 4)
    assert set(calls) == {(16, 4, 4, 3)}


def test_every_batch_is_told_of():
    beats = []
    e = embedder.sharded(
        *[lambda x: jnp.ones((16, 4))] * 3, mesh=create_mesh({"data": 8}), batch_size=16,
        image_size=4, embed_dim=4, probe_dim=4, on_batch=lambda: beats.append(1),
    )  # fmt: skip
    e.images(images(40))
    e.texts(np.zeros((17, 4), np.int32))
    assert len(beats) == 3 + 2


def tokenize(texts):
    return np.array([[len(t), *t.encode()[:3]] for t in texts], np.int32)


def zero_shot_task(n=20):
    return in_training.ZeroShotTask(
        "zero", images(n), np.arange(n) % 5, ["ant", "bear", "cat", "dog", "eel"], ("a {}",),
        baselines={"top1": 0.2},
    )  # fmt: skip


def retrieval_task(n=12):
    return in_training.RetrievalTask(
        "pairs", images(n), [f"text {i}" for i in range(n)], np.arange(n)
    )


def test_tasks_return_their_metrics():
    e = simple_embedder({"data": 8}, 8)
    found = zero_shot_task().run(e, tokenize)
    assert {"top1", "top5", "n"} <= found.keys()
    assert found["top5"] == 1.0
    found = retrieval_task().run(e, tokenize)
    assert found["n"] == 12
    assert 0 <= found["text_to_image_r@1"] <= found["text_to_image_r@5"] <= 1


def test_descriptions_replace_the_names_whose_result_stays_beside():
    e = simple_embedder({"data": 8}, 8)
    plain = zero_shot_task()
    swapped = dataclasses.replace(plain, descriptions=[[n] for n in reversed(plain.class_names)])
    found, names = swapped.run(e, tokenize), plain.run(e, tokenize)
    assert found["names_top1"] == names["top1"]
    assert found["names_top5"] == names["top5"]
    mirrored = dataclasses.replace(
        plain, class_names=plain.class_names[::-1], templates=("{}",)
    ).run(e, tokenize)
    assert found["top1"] == mirrored["top1"]
    assert "names_top1" not in names


def test_the_gallery_fills_every_part_of_the_report(tmp_path):
    e = simple_embedder({"data": 8}, 8)
    both = [zero_shot_task(), retrieval_task()]
    values = {t.name: t.run(e, tokenize) for t in both}
    page = run_examples.build("t", [("model", "x")], [], both, values, e, tokenize, 10.0)
    assert page.similarity.matrix.shape == (10, 10)
    np.testing.assert_array_equal(
        page.similarity.matrix,
        e.texts(tokenize(page.similarity.captions)) @ e.images(np.stack(page.similarity.images)).T,
    )
    assert len(page.predictions) == 12
    assert all(len(p.guesses) == 5 for p in page.predictions)
    assert [len(q.answers) for q in page.text_to_image] == [5] * 4
    assert len(page.image_to_text) == 4
    assert any(r.baseline == 0.2 for r in page.results)
    paths = run_page.write_report(tmp_path, page)
    assert all(p.stat().st_size > 10_000 for p in paths)


def test_emoji_tasks(emoji_cache):
    c = config_lib.defaults()
    c.data.cache_dir = str(emoji_cache)
    c.eval.tasks = ("unseen_vendor", "held_out", "held_out_retrieval")
    unseen, held, pairs = in_training.prepare(c, Preprocess(16))
    assert unseen.images.shape == (1421, 16, 16, 3)
    assert len(unseen.class_names) == 1807
    assert held.images.shape[0] == 1064
    assert len(held.class_names) == 181
    assert unseen.baselines.keys() == {"top1", "top5"}
    assert len(held.descriptions) == 181
    for name, texts in zip(held.class_names, held.descriptions, strict=True):
        assert all(name in t for t in texts[-2:])  # with its groups
        turned = [t.split() for t in texts[:-2]]  # the same words, beginning at another one
        assert len(turned) > 1
        assert len({tuple(sorted(t)) for t in turned}) == 1
        assert len({t[0] for t in turned}) > 1
    assert 170 < len(pairs.texts) <= 181
    assert len(set(pairs.texts)) == len(pairs.texts)


def retrieval_config(tmp_path, **changes):
    for i in range(3):
        Image.new("RGB", (20, 20), (i * 80, 0, 0)).save(tmp_path / f"{i}.png")
    rows = "".join(f"{i}.png,red number {i}\n" for i in range(3))
    (tmp_path / "pairs.csv").write_text(f"image,caption\n{rows}")
    c = config_lib.defaults()
    c.eval.tasks = ("retrieval",)
    c.data.update({"source": "table", "validation_path": str(tmp_path / "pairs.csv")} | changes)
    return c


def test_retrieval_reads_the_validation_pairs(tmp_path):
    (task,) = in_training.prepare(retrieval_config(tmp_path), Preprocess(16))
    assert task.texts == ["red number 0", "red number 1", "red number 2"]
    np.testing.assert_array_equal(task.images[:, 8, 8, 0], [0, 80, 160])
    assert task.images.shape == (3, 16, 16, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_path": ""}, r"data.validation_path is empty"),
        ({"source": "emoji", "validation_path": "x"}, r"unseen_vendor, held_out and held_out_ret"),
    ],
)
def test_retrieval_needs_pairs_of_its_own(tmp_path, changes, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        in_training.prepare(retrieval_config(tmp_path, **changes), Preprocess(16))


def test_retrieval_on_the_training_pairs_is_refused(tmp_path):
    c = retrieval_config(tmp_path)
    c.data.path = c.data.validation_path
    trained_on = registry.build(c.data).fingerprint
    with pytest.raises(config_lib.ConfigError, match="gives the pairs that are trained on"):
        in_training.prepare(c, Preprocess(16), trained_on)


@pytest.mark.parametrize("spoil", ["missing", "damaged"])
def test_a_bad_validation_picture_is_named(tmp_path, spoil):
    c = retrieval_config(tmp_path)
    (tmp_path / "1.png").unlink()
    if spoil == "damaged":
        (tmp_path / "1.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"validation pair .*1\.png: "):
        in_training.prepare(c, Preprocess(16))


def test_unknown_tasks_are_named():
    c = types.SimpleNamespace(eval=types.SimpleNamespace(tasks=("imagenet",)))
    with pytest.raises(ValueError, match="eval.tasks has 'imagenet', which is not one of"):
        in_training.prepare(c, Preprocess(16))
