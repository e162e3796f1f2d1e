"""CLIP_benchmark's webdataset folders: read as it reads them, and what is amiss is named."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.image_file import BadImage
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.registry import open_dataset
from clip_jax.data.test_sets.types import Options, RetrievalDataset

SQUARE = Preprocess(4)


def image(color, kind):
    file = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    Image.new("RGB", (5, 4), (color, 0, 0)).save(file, kind, **options)
    return file.getvalue()


def npy(*values):
    file = io.BytesIO()
    np.save(file, np.array(values))
    return file.getvalue()


def shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def webdataset(root, labels, ending="cls", shards=2, split="test", kinds=("WEBP",)):
    """Samples in turn to the shards; sample i is an image with red = i."""
    for k in range(shards):
        members = []
        for i in range(k, len(labels), shards):
            kind = kinds[i % len(kinds)]
            members.append((f"s{i:07d}.{kind.lower()}", image(i, kind)))
            members.append((f"s{i:07d}.{ending}", labels[i]))
        shard(root / split / f"{k}.tar", members)
    (root / split / "nshards.txt").write_text(f"{shards}\n")
    return root


def red(data, index):
    return int(data.load(index, SQUARE)[0, 0, 0])


def test_classes(tmp_path):
    root = webdataset(tmp_path / "wds_vtab-tiny_test", [b"1", b"0\n", b"2", b"1"])
    (root / "classnames.txt").write_text("Katze\nchien\n犬\n", encoding="utf-8")
    (root / "zeroshot_classification_templates.txt").write_text("a {c}.\n{c}: a photo\n")
    data = open_dataset(f"wds:{root}")
    assert (data.name, data.split, len(data)) == ("vtab-tiny", "test", 4)
    assert [(red(data, i), int(data.labels[i])) for i in range(4)] == [
        (0, 1),
        (2, 2),
        (1, 0),
        (3, 1),
    ]
    assert data.class_names == ("Katze", "chien", "犬")
    assert data.templates == ("a {}.", "{}: a photo")
    assert data.describe(2).endswith("test/1.tar: s0000001")
    assert open_dataset(f"wds:{root}").fingerprint == data.fingerprint
    plain = open_dataset(f"wds:{root}", options=Options(class_names=("x", "y", "z")))
    assert plain.class_names == ("x", "y", "z")


def test_without_names_there_are_none(tmp_path):
    data = open_dataset(f"wds:{webdataset(tmp_path, [b'1', b'0', b'4'])}")
    assert (data.class_names, data.templates, data.classes) == ((), (), 5)


def test_kinds_of_images_may_be_mixed(tmp_path):
    root = webdataset(tmp_path, [b"0"] * 4, shards=1, kinds=("PNG", "WEBP", "PNG"))
    data = open_dataset(f"wds:{root}")
    assert [red(data, i) for i in range(4)] == [0, 1, 2, 3]


def test_several_classes(tmp_path):
    labels = [npy(1, 0, 1), npy(0.0, 0.0, 0.0), npy(False, True, False)]
    root = webdataset(tmp_path, labels, "npy", shards=1)
    (root / "dataset_type.txt").write_text("multilabel\n")
    data = open_dataset(f"wds:{root}")
    assert data.multilabel
    assert data.labels.tolist() == [[True, False, True], [False] * 3, [False, True, False]]
    (root / "classnames.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="s0000000: .npy has 3 numbers, but there are 2 classes"):
        open_dataset(f"wds:{root}")


def test_captions(tmp_path):
    labels = [b"ein Hund\n\nun chien \r\n", "猫\u2028x".encode(), b"", b"a\nb\nc"]
    root = webdataset(tmp_path, labels, "txt", shards=1)
    (root / "dataset_type.txt").write_text("retrieval")
    data = open_dataset(f"wds:{root}")
    assert isinstance(data, RetrievalDataset)
    assert data.captions == ["ein Hund", "un chien", "猫\u2028x", "a", "b", "c"]
    assert data.image_of_text.tolist() == [0, 0, 1, 3, 3, 3]
    assert len(data) == 4


def test_a_fingerprint_sees_labels_and_names(tmp_path):
    prints = set()
    for i, (labels, names) in enumerate([(b"01", "a\nb"), (b"10", "a\nb"), (b"01", "a\nc")]):
        root = webdataset(tmp_path / str(i), [bytes([c]) for c in labels])
        (root / "classnames.txt").write_text(names)
        prints.add(open_dataset(f"wds:{root}").fingerprint)
    assert len(prints) == 3


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(MissingData, match="nowhere: no such folder; it should have test/nshards.t"):
        open_dataset(f"wds:{tmp_path}/nowhere")
    root = webdataset(tmp_path / "data", [b"0", b"1"])
    with pytest.raises(MissingData, match=r"train/nshards.txt is missing; .* splits \['test'\]"):
        open_dataset(f"wds:{root}", "train")
    (root / "test" / "1.tar").unlink()
    with pytest.raises(MissingData, match=r"test/1.tar is missing.*0 more of the 2 shards"):
        open_dataset(f"wds:{root}")
    (root / "test" / "nshards.txt").unlink()
    with pytest.raises(MissingData, match=r"nshards.txt is missing; there are 1 .tar files: write"):
        open_dataset(f"wds:{root}")
    (tmp_path / "other").mkdir()
    with pytest.raises(MissingData, match="is it a webdataset at all"):
        open_dataset(f"wds:{tmp_path}/other")


@pytest.mark.parametrize("text", ["", "two", "-1", "0", "1.0", "²"])
def test_a_number_of_shards_that_is_none(tmp_path, text):
    root = webdataset(tmp_path, [b"0"], shards=1)
    (root / "test" / "nshards.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="nshards.txt: .* is not a number of shards"):
        open_dataset(f"wds:{root}")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (b"cat", "0.tar: s0000001: .cls is 'cat', not a class number"),
        (b"-1", "s0000001: .cls is '-1'"),
        (b"", "s0000001: .cls is ''"),
        (b"2", "s0000001: class 2, but there are 2 class names"),
        (b"99999999999", "s0000001: .cls is '99999999999'"),
    ],
)
def test_a_label_that_is_no_class_is_named(tmp_path, label, message):
    root = webdataset(tmp_path, [b"0", label], shards=1)
    (root / "classnames.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=message):
        open_dataset(f"wds:{root}")


@pytest.mark.parametrize("label", [b"1 0", npy(1, 2), npy([1, 0], [0, 1]), npy("a"), b""])
def test_flags_that_are_none_are_named(tmp_path, label):
    root = webdataset(tmp_path, [npy(1, 0), label], "npy", shards=1)
    (root / "dataset_type.txt").write_text("multilabel")
    with pytest.raises(DataError, match="0.tar: s0000001: .npy "):
        open_dataset(f"wds:{root}")


def test_other_mistakes(tmp_path):
    root = webdataset(tmp_path / "a", [b"0"], shards=1)
    (root / "dataset_type.txt").write_text("video")
    with pytest.raises(DataError, match="dataset_type.txt: 'video' is not one of"):
        open_dataset(f"wds:{root}")
    (root / "dataset_type.txt").write_text("retrieval")
    with pytest.raises(DataError, match=r"0.tar: no sample has an image \(.webp.* and a .txt file"):
        open_dataset(f"wds:{root}")
    root = webdataset(tmp_path / "b", [b""], "txt", shards=1)
    (root / "dataset_type.txt").write_text("retrieval")
    with pytest.raises(DataError, match="b/test: no image has a caption"):
        open_dataset(f"wds:{root}")
    root = webdataset(tmp_path / "c", [b"caf\xe9"], "txt", shards=1)
    (root / "dataset_type.txt").write_text("retrieval")
    with pytest.raises(DataError, match="s0000000: .txt is not UTF-8"):
        open_dataset(f"wds:{root}")


def test_no_sample_is_left_out_without_a_word(tmp_path):
    """The training reader leaves incomplete samples out; here it would change n."""
    shard(tmp_path / "test" / "0.tar", [("1.png", b""), ("1.cls", b"0"), ("2.png", b"")])
    (tmp_path / "test" / "nshards.txt").write_text("1")
    with pytest.raises(DataError, match="0.tar: 1 samples have .* the first is 2"):
        open_dataset(f"wds:{tmp_path}")
    with pytest.raises(DataError, match="0.tar: 1 samples"):  # from the kept index too
        open_dataset(f"wds:{tmp_path}")


def test_a_truncated_shard_and_a_damaged_image(tmp_path):
    root = webdataset(tmp_path / "a", [b"0", b"1"], shards=1)
    path = root / "test" / "0.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    with pytest.raises(DataError, match="0.tar: (damaged|truncated).*download the shard again"):
        open_dataset(f"wds:{root}")
    path.write_bytes(whole.replace(b"RIFF", b"riff", 1))
    data = open_dataset(f"wds:{root}")
    with pytest.raises(BadImage, match="0.tar: s0000000: .*cannot identify"):
        data.load(0, SQUARE)
    assert red(data, 1) == 1


def test_an_index_is_kept_where_it_may_be_written(tmp_path):
    root = webdataset(tmp_path / "a", [b"0"], shards=1)
    open_dataset(f"wds:{root}", options=Options(cache_dir=tmp_path / "cache"))
    assert [p.name for p in (root / "test").glob("*.npz")] == [
        "0.tar.webp+png+jpg+jpeg-cls.index.npz"
    ]


def test_threads_may_read(tmp_path):
    data = open_dataset(f"wds:{webdataset(tmp_path, [b'0'] * 10)}")
    want = [red(data, i) for i in range(10)]
    assert sorted(want) == list(range(10))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: red(data, i % 10), range(40))) == want * 4
    with pytest.raises(IndexError):
        data.images[10]
