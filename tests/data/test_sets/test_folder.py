"""Datasets in folders, one for each class."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from small_images import write

from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.registry import open_dataset
from clip_jax.data.test_sets.types import (
    Options,
)

SQUARE = Preprocess(8)


def folders(root, *names):
    for i, name in enumerate(names):
        write(root / name, i * 20)
    return root


def test_a_folder_for_each_class(tmp_path):
    folders(tmp_path, "dog/1.png", "Emu/deep/2.JPEG", "dog/.hidden.png", "été/x.webp")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".cache").mkdir()
    data = open_dataset(f"folder:{tmp_path}", "test")
    assert data.class_names == ("Emu", "dog", "empty", "été")
    assert data.labels.tolist() == [0, 1, 3]
    assert [data.describe(i) for i in range(3)] == [str(p) for p in data.images]
    assert data.images[2].name == "x.webp"
    assert (data.name, data.split) == (tmp_path.name, "test")


def test_splits_share_the_numbers_of_their_classes(tmp_path):
    folders(tmp_path, "train/a/1.png", "train/b/1.png", "train/c/1.png", "validation/b/1.png")
    train, val = (open_dataset(f"folder:{tmp_path}", split) for split in ("train", "val"))
    assert val.class_names == train.class_names == ("a", "b", "c")
    assert val.labels.tolist() == [1]
    assert val.fingerprint != train.fingerprint
    with pytest.raises(MissingData, match=r"no split 'test'; it has \['train', 'validation'\]"):
        open_dataset(f"folder:{tmp_path}", "test")


def test_a_class_may_be_called_train(tmp_path):
    folders(tmp_path, "aeroplane/1.png", "train/1.png")
    assert open_dataset(f"folder:{tmp_path}", "test").class_names == ("aeroplane", "train")


def test_class_names_of_folders(tmp_path):
    folders(tmp_path, "n01/1.png", "n02/1.png")
    (tmp_path / "classnames.json").write_text(
        '{"n02": ["gull", "sea gull"], "n01": "tern", "x": "y"}'
    )
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo of {c}\n{} .\n")
    data = open_dataset(f"folder:{tmp_path}")
    assert data.class_names == ("tern", ("gull", "sea gull"))
    assert data.templates == ("a photo of {}", "{} .")
    (tmp_path / "classnames.txt").write_text("Flußseeschwalbe\nカモメ\n", encoding="utf-8")
    assert open_dataset(f"folder:{tmp_path}").class_names == ("Flußseeschwalbe", "カモメ")
    named = open_dataset(f"folder:{tmp_path}", options=Options(class_names=("one", "two")))
    assert named.class_names == ("one", "two")
    (tmp_path / "classnames.txt").write_text("one\n")
    with pytest.raises(DataError, match=r"classnames.txt: 1 class names, but .* has 2 class folde"):
        open_dataset(f"folder:{tmp_path}")
    (tmp_path / "classnames.txt").unlink()
    (tmp_path / "classnames.json").write_text('{"n02": "gull"}')
    with pytest.raises(DataError, match="classnames.json: no name for 1 folders, such as 'n01'"):
        open_dataset(f"folder:{tmp_path}")


def test_a_folder_that_is_not_there_or_empty(tmp_path):
    with pytest.raises(MissingData, match="nowhere: no such folder"):
        open_dataset(f"folder:{tmp_path}/nowhere")
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="no images"):
        open_dataset(f"folder:{tmp_path}")


def test_folders_that_are_numbers_are_counted(tmp_path):
    for k in range(12):
        write(tmp_path / str(k) / "0.png", k)
    data = open_dataset(f"folder:{tmp_path}")
    assert data.class_names == tuple(map(str, range(12)))
    assert [data.describe(i).split("/")[-2] for i in range(12)] == [str(k) for k in range(12)]
    (tmp_path / "classnames.txt").write_text("\n".join("abcdefghijkl"))
    assert open_dataset(f"folder:{tmp_path}").class_names == tuple("abcdefghijkl")


def test_class_names_of_folders_in_another_order(tmp_path):
    for name in ("ant", "bee"):
        write(tmp_path / name / "0.png")
    (tmp_path / "classnames.txt").write_text("bee\nant\n")
    assert open_dataset(f"folder:{tmp_path}").class_names == ("ant", "bee")
    (tmp_path / "classnames.txt").write_text("bee\nwasp\n")
    with pytest.raises(DataError, match=r"classnames.txt: name 0 is 'bee', .* of class 1; names"):
        open_dataset(f"folder:{tmp_path}")


def test_a_folder_of_other_things_is_refused(tmp_path):
    write(tmp_path / "images" / "cat" / "0.png")
    (tmp_path / "meta").mkdir()
    with pytest.raises(DataError, match="images to meta only images has images"):
        open_dataset(f"folder:{tmp_path}")


def test_threads_may_read(tmp_path):
    folders(tmp_path, *(f"{'ab'[i % 2]}/{i:03d}.png" for i in range(12)))
    data = open_dataset(f"folder:{tmp_path}")
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda i: data.load(i % 12, SQUARE), range(48)))
    assert all((many[i] == data.load(i % 12, SQUARE)).all() for i in range(48))
