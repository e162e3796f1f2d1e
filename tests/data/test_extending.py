"""Sources, readers and augmentations that are defined outside the package."""

import hashlib
import pickle

import numpy as np
import pytest
from data_configs import data_config

from clip_jax.config import ConfigError
from clip_jax.data import transforms
from clip_jax.data.errors import DataError
from clip_jax.data.pairs import registry as sources
from clip_jax.data.pairs.base import Example, Source, caption_group
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.stream.rows import RowReader
from clip_jax.data.test_sets import registry as readers
from clip_jax.data.test_sets.types import from_arrays

LEVELS = {"dark": 20, "grey": 120, "light": 220}


class Levels(Source):
    """Images of one grey level each, named by it."""

    needs_path = True

    def __init__(self, names):
        self.names = names
        self.fingerprint = hashlib.sha256(" ".join(names).encode()).hexdigest()

    @classmethod
    def from_config(cls, data):
        return cls(data["path"].split("+"))

    def __len__(self):
        return len(self.names)

    def read(self, index, rng):
        image = np.full((9, 9, 3), LEVELS[self.names[index]], np.uint8)
        caption = self.caption(index, rng)
        return Example(image, caption, caption_group(caption))

    def caption(self, index, rng):
        return f"a {self.names[index]} image"

    def describe(self, index):
        return f"level {index}"


def test_a_source_from_outside(monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "levels", Levels)
    data = data_config(source="levels", path="dark+grey", augmentation="none")
    source = sources.build(data)
    assert sources.captions(source) == ["a dark image", "a grey image"]
    assert (source.groups, source.weights) == (None, None)
    reader = RowReader(
        pickle.loads(pickle.dumps(source)), lambda texts: [[len(t) for t in texts]], data, 4, 0
    )
    levels = {int(reader(position).images[0, 0, 0]) for position in range(2)}
    assert levels == {20, 120}


def test_its_validation_pairs_are_those_of_validation_path(monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "levels", Levels)
    data = data_config(source="levels", path="dark+grey", validation_path="light")
    assert sources.captions(sources.build_validation(data)) == ["a light image"]
    data.validation_path = ""
    with pytest.raises(ConfigError, match="data.validation_path is empty"):
        sources.build_validation(data)


def test_a_path_that_a_source_needs_must_be_given(monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "levels", Levels)
    with pytest.raises(ConfigError, match="data.path is empty: data.source='levels' needs it"):
        sources.build(data_config(source="levels"))


def test_a_source_without_a_method_is_refused():
    class Incomplete(Source):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()


def test_a_reader_from_outside(monkeypatch):
    def open_levels(path, split, options):
        names = path.split("+")
        images = [np.full((9, 9, 3), LEVELS[name], np.uint8) for name in names]
        return from_arrays("levels", split, images, np.arange(len(names)), options.names() or names)

    with pytest.raises(DataError, match="'levels' is not one of"):
        readers.open_dataset("levels:dark+light")
    monkeypatch.setitem(readers.READERS, "levels", open_levels)
    data = readers.open_dataset("levels:dark+light")
    assert (data.class_names, data.labels.tolist()) == (("dark", "light"), [0, 1])
    assert data.load(1, Preprocess(4)).tolist() == np.full((4, 4, 3), 220).tolist()


def test_an_augmentation_from_outside(monkeypatch):
    def negative(image, size, rng):
        return 255 - transforms.square_crop(image, size, rng)

    monkeypatch.setitem(transforms.AUGMENTATIONS, "negative", negative)
    data = data_config(source="synthetic", augmentation="negative")
    rows = {}
    for name in ("negative", "square_crop"):
        data.augmentation = name
        reader = RowReader(sources.build(data), lambda texts: [[0]], data, 8, 0)
        rows[name] = reader(3).images
    np.testing.assert_array_equal(rows["negative"], 255 - rows["square_crop"])
