"""TFDS datasets in ArrayRecord files, opened as test sets without TensorFlow."""

import io
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets import tfds as tfds_reader
from clip_jax.data.test_sets.registry import open_dataset
from clip_jax.data.test_sets.types import Options, RetrievalDataset

SQUARE = Preprocess(4)
ROWS = {"train": 5, "validation": 3, "test": 4}


def image(color):
    file = io.BytesIO()
    Image.new("RGBA", (5, 4), (color, 0, 0, 255)).save(file, "PNG")
    file.seek(0)
    return file


class TinyLabelledSet(tfds.core.GeneratorBasedBuilder):
    """Image i has red = i."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["cat", "hund", "猫"])
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 4)),
                "label": label,
                "tags": tfds.features.Sequence(label),
                "number": np.int64,
                "text": tfds.features.Text(),
                "captions": tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64}),
            }),
        )  # fmt: skip

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(n) for split, n in ROWS.items()}

    def _generate_examples(self, n):
        for i in range(n):
            texts = [{"text": f"é {i}.{j}\nx", "id": j} for j in range(i % 3)]
            yield i, {"image": image(i), "label": (i * 2) % 3, "tags": list(range(i % 3)),
                      "number": i - 2, "text": f"text {i}", "captions": texts}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    builder = TinyLabelledSet(data_dir=str(folder), file_format="array_record")
    tfds.disable_progress_bar()
    builder.download_and_prepare()
    return folder


@pytest.fixture
def options(home, tmp_path):
    return Options(data_dir=home, cache_dir=tmp_path / "cache")


def reds(data):
    return [int(data.load(i, SQUARE)[0, 0, 0]) for i in range(len(data))]


def test_labels_and_names(options):
    data = open_dataset("tfds:tiny_labelled_set", "test", options)
    assert (data.name, data.split, data.class_names) == (
        "tiny_labelled_set", "test", ("cat", "hund", "猫"),
    )  # fmt: skip
    # TFDS shuffles; image and label stay together.
    assert sorted(reds(data)) == [0, 1, 2, 3]
    assert data.labels.tolist() == [(r * 2) % 3 for r in reds(data)]
    assert data.describe(1) == "TFDS tiny_labelled_set/1.2.0 test: record 1"
    assert data.images[0].startswith(b"\x89PNG")
    assert "tensorflow" not in sys.modules


def test_val_is_what_tfds_calls_validation(options):
    assert len(open_dataset("tfds:tiny_labelled_set", "val", options)) == 3
    assert len(open_dataset("tfds:tiny_labelled_set", "train[:40%]", options)) == 2


def test_a_prepared_folder_needs_no_builder(options, home):
    folder = home / "tiny_labelled_set" / "1.2.0"
    data = open_dataset(f"tfds:{folder}", "test", Options(cache_dir=options.cache_dir))
    named = open_dataset("tfds:tiny_labelled_set", "test", options)
    assert data.fingerprint == named.fingerprint
    assert reds(data) == reds(named)


def test_several_labels(options):
    open_dataset("tfds:tiny_labelled_set", "test", options)  # other labels in the same cache
    wanted = Options(options.data_dir, options.cache_dir, label_key="tags")
    data = open_dataset("tfds:tiny_labelled_set", "test", wanted)
    assert data.labels.tolist() == [[k < r % 3 for k in range(3)] for r in reds(data)]
    assert data.class_names == ("cat", "hund", "猫")


@pytest.mark.parametrize("key", ["captions/text", "text"])
def test_captions(options, key):
    wanted = Options(options.data_dir, options.cache_dir, label_key="", caption_key=key)
    for _ in range(2):  # read, then from the cache
        data = open_dataset("tfds:tiny_labelled_set", "train", wanted)
        assert isinstance(data, RetrievalDataset)
        got = [[] for _ in range(5)]
        for text, owner in zip(data.captions, data.image_of_text, strict=True):
            got[owner].append(text)
        several = key != "text"
        assert got == [
            [f"é {r}.{j} x" for j in range(r % 3)] if several else [f"text {r}"]
            for r in reds(data)
        ]  # fmt: skip


def test_labels_are_read_once(options, monkeypatch):
    first = open_dataset("tfds:tiny_labelled_set", "train", options)
    monkeypatch.setattr(tfds_reader, "_read_labels", lambda *a: pytest.fail("read again"))
    again = open_dataset("tfds:tiny_labelled_set", "train", options)
    assert again.labels.tolist() == first.labels.tolist()
    assert again.fingerprint == first.fingerprint
    monkeypatch.undo()
    for kept in (options.cache() / "labels").iterdir():
        kept.write_bytes(b"damaged")
    assert open_dataset("tfds:tiny_labelled_set", "train", options).fingerprint == first.fingerprint


def test_splits_and_labels_have_their_own_fingerprints(options):
    tags = Options(options.data_dir, options.cache_dir, label_key="tags")
    sets = [("train", options), ("test", options), ("test", tags)]
    prints = {open_dataset("tfds:tiny_labelled_set", *which).fingerprint for which in sets}
    assert len(prints) == 3


def test_what_cannot_be_opened_says_how_to_get_it(options):
    with pytest.raises(
        MissingData, match=r"'no_such_set'.*tfds.builder\('no_such_set', .*file_format='arra"
    ):
        open_dataset("tfds:no_such_set", "test", options)
    with pytest.raises(MissingData, match=r"split 'dev', in .*tfds.builder\('tiny_labelled_set'"):
        open_dataset("tfds:tiny_labelled_set", "dev", options)
    empty = Options(options.cache_dir, options.cache_dir)
    with pytest.raises(MissingData, match=r"split 'val'.*, data_dir='"):
        open_dataset("tfds:tiny_labelled_set", "val", empty)


def test_features_that_are_not_there_are_named(options):
    wrong = Options(options.data_dir, options.cache_dir, label_key="klass", caption_key="words")
    with pytest.raises(
        DataError, match=r"no features 'image' and 'klass' or 'words'; it has \['ca"
    ):
        open_dataset("tfds:tiny_labelled_set", "test", wrong)
    wrong = Options(options.data_dir, options.cache_dir, label_key="", caption_key="captions/word")
    with pytest.raises(
        DataError, match=r"record 0: no 'captions/word' \(there is \['id', 'text'\]"
    ):
        open_dataset("tfds:tiny_labelled_set", "test", wrong)


def test_a_label_that_is_no_class_is_named(options):
    number = Options(options.data_dir, options.cache_dir, label_key="number")
    with pytest.raises(DataError, match=r"record \d: 'number' is -\d, not of 0 classes"):
        open_dataset("tfds:tiny_labelled_set", "test", number)
    few = Options(options.data_dir, options.cache_dir, class_names=("a", "b"))
    with pytest.raises(DataError, match=r"record \d: 'label' is 2, not of 2 classes"):
        open_dataset("tfds:tiny_labelled_set", "test", few)


def test_threads_may_read(options):
    data = open_dataset("tfds:tiny_labelled_set", "train", options)
    want = reds(data)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: int(data.load(i % 5, SQUARE)[0, 0, 0]), range(40)))
    assert got == want * 8
