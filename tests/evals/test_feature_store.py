"""Features kept on disk: read when they are of the same weights and data, and made otherwise."""

import dataclasses

import numpy as np
import pytest

from clip_jax.data.image_file import BadImage
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.types import ClassificationDataset, from_arrays
from clip_jax.evals import feature_store

PREPROCESS = Preprocess(8)


def data(n=10, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), np.uint8)
    return from_arrays("noise", "test", images, np.arange(n) % 3)


class Embed:
    """The first pixels of each image; counts the images, and stops before one of them."""

    def __init__(self, stop=None):
        self.seen, self.stop = 0, stop

    def __call__(self, rows):
        if self.stop is not None and self.seen >= self.stop:
            raise KeyboardInterrupt
        self.seen += len(rows)
        pixels = rows[np.arange(len(rows))]
        return pixels.reshape(len(pixels), 192)[:, :4].astype(np.float32)


def test_parts_are_maps_of_what_is_on_disk_or_are_kept(tmp_path):
    store, first, again = feature_store.Store(tmp_path, "model"), Embed(), Embed()
    want = store.get("images", first, data(), PREPROCESS)
    parts = list(store.parts("images", again, data(), PREPROCESS))
    np.testing.assert_array_equal(np.concatenate(parts), want)
    assert [len(part) for part in parts] == [4, 4, 2] and again.seen == 0
    assert all(isinstance(part, np.memmap) for part in parts)
    new = feature_store.Store(tmp_path / "new", "model")
    assert [len(p) for p in new.parts("images", again, data(), PREPROCESS)] == [4, 4, 2]
    assert again.seen == 10 and len(list((tmp_path / "new").iterdir())) == 3
    memory = feature_store.Store(None, "model")
    for _ in range(2):
        found = list(memory.parts("images", first, data(), PREPROCESS))
        memory.clear()
    np.testing.assert_array_equal(np.concatenate(found), want)
    assert first.seen == 20
    assert list(memory.parts("images", first, data(0), PREPROCESS)) == []


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(feature_store, "PART", 4)


def test_features_are_those_of_the_pictures_in_order(tmp_path):
    found = feature_store.Store(tmp_path, "model").get("images", Embed(), data(), PREPROCESS)
    want = np.stack(data().images).reshape(10, -1)[:, :4]
    np.testing.assert_array_equal(found, want)
    assert feature_store.Store(None, "model").get("images", Embed(), data(0), PREPROCESS).shape == (
        0,
        4,
    )


def test_what_is_there_is_read(tmp_path):
    first, again = Embed(), Embed()
    want = feature_store.Store(tmp_path, "model").get("images", first, data(), PREPROCESS)
    found = feature_store.Store(tmp_path, "model").get("images", again, data(), PREPROCESS)
    np.testing.assert_array_equal(found, want)
    assert (first.seen, again.seen) == (10, 0)
    for store, kind, other in (
        (feature_store.Store(tmp_path, "other weights"), "images", data()),
        (feature_store.Store(tmp_path, "model"), "features", data()),
        (feature_store.Store(tmp_path, "model"), "images", data(seed=1)),
        (feature_store.Store(None, "model"), "images", data()),
    ):
        embed = Embed()
        store.get(kind, embed, other, PREPROCESS)
        assert embed.seen == 10


def test_an_interrupted_set_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        feature_store.Store(tmp_path, "model").get("images", Embed(stop=8), data(), PREPROCESS)
    embed = Embed()
    found = feature_store.Store(tmp_path, "model").get("images", embed, data(), PREPROCESS)
    assert embed.seen == 2
    want = feature_store.Store(None, "model").get("images", Embed(), data(), PREPROCESS)
    np.testing.assert_array_equal(found, want)


def test_a_damaged_file_is_made_anew(tmp_path):
    want = feature_store.Store(tmp_path, "model").get("images", Embed(), data(), PREPROCESS)
    one, two, _ = sorted(tmp_path.glob("*.npy"))
    one.write_bytes(one.read_bytes()[:100])
    two.write_bytes(b"")
    embed = Embed()
    found = feature_store.Store(tmp_path, "model").get("images", embed, data(), PREPROCESS)
    assert embed.seen == 8
    np.testing.assert_array_equal(found, want)


def test_progress_and_memory(tmp_path):
    lines = []
    store = feature_store.Store(None, "model", lines.append)
    embed = Embed()
    for _ in range(2):
        store.get("images", embed, data(), PREPROCESS)
    assert embed.seen == 10 and len(lines) == 3
    assert "8 of 10 images" in lines[1]
    store.clear()
    store.get("images", embed, data(), PREPROCESS)
    assert embed.seen == 20


def test_an_unreadable_picture_is_named():
    broken = ClassificationDataset(
        "mine", "test", [b"no picture"], np.zeros(1, int), ("a",), fingerprint="x"
    )
    with pytest.raises(BadImage, match="mine test: image 0"):
        feature_store.Store(None, "model").get("images", Embed(), broken, PREPROCESS)


class Counted(list):
    """Images that count how often they are read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def test_images_that_fit_in_memory_are_decoded_once():
    one, two = (dataclasses.replace(data(10, seed), images=Counted(data(10, seed).images))
                for seed in (1, 2))  # fmt: skip
    size = 10 * 8 * 8 * 3
    cache = feature_store.PixelCache(2 * size - 1)  # too little for both
    want = [
        feature_store.Store(None, "m").get("images", Embed(), d, PREPROCESS) for d in (one, two)
    ]
    assert (one.images.reads, two.images.reads) == (10, 10)
    for _ in range(3):
        store = feature_store.Store(None, "m", pixels=cache)
        for dataset, features in zip((one, two), want, strict=True):
            got = store.get("images", Embed(), dataset, PREPROCESS)
            np.testing.assert_array_equal(got, features)
    assert (one.images.reads, two.images.reads) == (20, 40)
    # Other preprocessing gives other pixels.
    feature_store.Store(None, "m", pixels=cache).get(
        "images", Embed(), one, Preprocess(8, resize="squash")
    )
    assert one.images.reads == 30


def test_an_unreadable_image_is_not_cached():
    images = [*data(3).images[:2], b"no image"]
    broken = dataclasses.replace(data(3), images=images)
    cache = feature_store.PixelCache(2**20)
    for _ in range(2):
        with pytest.raises(BadImage, match="noise test: image 2"):
            store = feature_store.Store(None, "m", pixels=cache)
            store.get("images", Embed(), broken, PREPROCESS)
