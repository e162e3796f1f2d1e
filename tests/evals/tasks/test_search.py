"""Texts of the gallery: chosen over all of them, and the images a plain search finds."""

import json

import numpy as np
import pytest

from clip_jax.evals.tasks import search


def plain(images, query):
    unit = images / np.linalg.norm(images, axis=1, keepdims=True)
    return np.argsort(-(unit @ query), kind="stable")[:5].tolist()


def rows(recalls):
    return [{"index": i, "n": 0 if r is None else 9, "recall": np.nan if r is None else r}
            for i, r in enumerate(recalls)]  # fmt: skip


def classes(recalls, templates=("a {}", "the {}")):
    rng = np.random.default_rng(0)
    k = len(recalls)
    images, weights = rng.normal(size=(40, 8)), rng.normal(size=(k, 8))
    names = [f"class {i}" if i % 2 else (f"class {i}", "synonym") for i in range(k)]
    labels = rng.integers(0, k, 40)
    found = search.of_classes(images, weights, labels, (names, templates), rows(recalls))
    return images, weights, labels, found


def test_classes_go_from_the_best_to_the_worst():
    recalls = [0.1, 0.9, None, 0.5, 0.3, 1.0, 0.0, 0.7, 0.5, 0.2, 0.6]
    images, weights, labels, found = classes(recalls)
    ranked = sorted((i for i, r in enumerate(recalls) if r is not None),
                    key=lambda i: (-recalls[i], i))  # fmt: skip
    chosen = [ranked[p] for p in (0, 1, 3, 5, 7, 9)]
    assert [q["text"] for q in found] == [f"class {k}" for k in chosen]
    for query, k in zip(found, chosen, strict=True):
        assert query["found"] == plain(images, weights[k])
        assert query["right"] == [bool(labels[i] == k) for i in query["found"]]
        assert query["recall"] == recalls[k]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(("recalls", "count"), [([0.5], 1), ([0.5, 0.7, 0.1], 3), ([None], 0)])
def test_few_classes_are_all_shown(recalls, count):
    *_, found = classes(recalls, ("a photo of {}.",))
    assert len(found) == len({q["text"] for q in found}) == count
    assert all(q["text"].startswith("a photo of class") for q in found)


def test_captions_are_spread_over_all():
    rng = np.random.default_rng(1)
    images, texts = rng.normal(size=(30, 8)), rng.normal(size=(60, 8))
    owner = np.arange(60) // 2
    captions = [f"caption {i}" for i in range(60)]
    found = search.of_captions(images, texts, captions, owner)
    assert [q["text"] for q in found] == [f"caption {i}" for i in (5, 15, 25, 35, 45, 55)]
    for query, m in zip(found, (5, 15, 25, 35, 45, 55), strict=True):
        assert query["found"] == plain(images, texts[m])
        assert query["right"] == [i == owner[m] for i in query["found"]]
    assert json.loads(json.dumps(found)) == found
    one = search.of_captions(images[:3], texts[:1], captions[:1], owner[:1])
    assert [len(q["found"]) for q in one] == [3]


def test_blocks_change_nothing(monkeypatch):
    want = classes([0.5, 0.1])[-1]
    monkeypatch.setattr(search, "_BLOCK", 7)
    assert classes([0.5, 0.1])[-1] == want
