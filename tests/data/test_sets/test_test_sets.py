"""Labelled and captioned sets: what they refuse, and folders and tables of images."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.image_file import BadImage
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.registry import open_dataset
from clip_jax.data.test_sets.types import (
    ClassificationDataset,
    Options,
    RetrievalDataset,
    from_arrays,
)

SQUARE = Preprocess(8)


def image(color=0, mode="RGB", size=(9, 8)):
    return Image.new("RGB", size, (color, 10, 200)).convert(mode)


def encoded(color=0, mode="RGB", kind="PNG"):
    file = io.BytesIO()
    image(color, mode).save(file, kind)
    return file.getvalue()


def write(path, color=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image(color, mode).save(path)
    return path


def labelled_set(labels, names=(), n=None, **more):
    labels = np.asarray(labels)
    images = [encoded(i) for i in range(len(labels) if n is None else n)]
    return ClassificationDataset("mine", "test", images, labels, names, fingerprint="x", **more)


def test_a_set_knows_its_classes():
    assert labelled_set([0, 2]).classes == 3
    assert labelled_set([0, 2], "abcde").classes == 5
    assert not labelled_set([0, 2]).multilabel
    several = labelled_set(np.array([[True, False, True]]))
    assert (several.classes, several.multilabel, len(several)) == (3, True, 1)
    assert labelled_set(np.array([1, 0], np.uint8)).labels.dtype == np.int32


@pytest.mark.parametrize(
    ("labels", "names", "n", "message"),
    [
        ([0, 1], (), 3, r"labels are int64\[2\], not int32\[3\]"),
        ([0.0, 1.0], (), 2, r"labels are float64\[2\]"),
        ([True, False], (), 2, r"labels are bool\[2\]"),
        ([[0, 1]], (), 1, r"labels are int64\[1, 2\]"),
        ([0, 2], "ab", 2, "labels are of 3 classes, but class_names has 2"),
        ([[True, False]], "abc", 1, "labels are of 2 classes, but class_names has 3"),
        ([0, -1], (), 2, "label -1 is negative"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, names, n, message):
    with pytest.raises(DataError, match=rf"mine test: .*{message}"):
        labelled_set(labels, names, n)


@pytest.mark.parametrize(
    ("owners", "message"),
    [([0], r"int64\[1\], not int32\[2\]"), ([0, 2], "goes from 0 to 2"), ([-1, 0], "from -1")],
)
def test_captions_that_do_not_fit_are_refused(owners, message):
    with pytest.raises(DataError, match=f"mine test: image_of_text .*{message}"):
        RetrievalDataset("mine", "test", [b"", b""], ["a", "b"], np.array(owners), "x")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_taken_rows_are_those_images(draw):
    labels = draw.draw(st.lists(st.integers(0, 4), min_size=1, max_size=9))
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    whole = from_arrays("mine", "test", pixels, np.array(labels), "abcde")
    rows = draw.draw(st.lists(st.integers(0, len(labels) - 1), max_size=6))
    part = whole.take(rows)
    assert [int(p[0, 0]) for p in part.images] == rows
    assert part.labels.tolist() == [labels[r] for r in rows]
    again = part.take(range(len(rows))[::-1])
    assert [int(p[0, 0]) for p in again.images] == rows[::-1]
    assert not rows or again.describe(0) == f"mine test: image {rows[-1]}"
    assert part.fingerprint == whole.take(rows).fingerprint != whole.fingerprint


def test_a_fingerprint_sees_pixels_labels_and_names():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    other = pixels.copy()
    other[1, 0, 0, 0] = 1
    cases = [
        (pixels, [0, 1], ("a", "b")),
        (other, [0, 1], ("a", "b")),
        (pixels, [1, 0], ("a", "b")),
        (pixels, [0, 1], ("a", "c")),
        (pixels.reshape(2, 4, 3, 4), [0, 1], ("a", "b")),
    ]
    prints = {from_arrays("m", "test", *case).fingerprint for case in cases}
    assert len(prints) == len(cases)
    assert from_arrays("m", "test", *cases[0]).fingerprint in prints


def test_any_image_can_be_loaded_and_a_bad_one_says_which(tmp_path):
    modes = {"RGBA": "png", "P": "png", "L": "png", "CMYK": "jpg", "1": "png", "RGB": "webp"}
    for i, (mode, ending) in enumerate(modes.items()):
        write(tmp_path / "a" / f"{i}.{ending}", 40, mode)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "broken.jpg").write_bytes(b"not an image")
    data = open_dataset(f"folder:{tmp_path}")
    for i in range(len(modes)):
        assert data.load(i, SQUARE).shape == (8, 8, 3)
        assert data.load(i, SQUARE).dtype == np.uint8
    with pytest.raises(BadImage, match=r"b/broken.jpg: .*cannot identify") as caught:
        data.load(len(modes), SQUARE)
    assert str(caught.value).count("broken.jpg") == 1
    (tmp_path / "b" / "broken.jpg").unlink()
    with pytest.raises(BadImage, match="FileNotFoundError: .*b/broken.jpg"):
        data.load(len(modes), SQUARE)
    array = from_arrays("mine", "test", np.zeros((1, 4, 4, 5), np.uint8), np.zeros(1, int))
    with pytest.raises(BadImage, match="mine test: image 0: .*channels last"):
        array.load(0, SQUARE)


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


def table(tmp_path, name, content):
    for i in range(4):
        write(tmp_path / "images" / f"{i}.png", i * 30)
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return f"csv:{path}"


def jsonl(*rows):
    return "\n".join(json.dumps(r, ensure_ascii=False) for r in rows)


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


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_uncompressed_images_are_told_apart_by_their_pixels(tmp_path, kind):
    (tmp_path / "t.csv").write_text("image,label\na/0.bmp,x\nb/0.bmp,y\n")
    spec = {"folder": f"folder:{tmp_path}", "csv": f"csv:{tmp_path}/t.csv"}[kind]
    found = []
    for color in (10, 20, 10):
        for name in "ab":
            write(tmp_path / name / "0.bmp", color)
        found.append(open_dataset(spec).fingerprint)
    assert found[0] == found[2] != found[1]


def test_rows_of_other_splits_may_lack_a_label(tmp_path):
    write(tmp_path / "0.png")
    rows = ["image,label,split", "0.png,cat,test", "0.png,,train", "0.png,dog,train"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    data = open_dataset(f"csv:{tmp_path}/t.csv", "test")
    assert data.class_names == ("cat", "dog") and len(data) == 1
    with pytest.raises(DataError, match=r"t.csv:3: 'label' is ''"):
        open_dataset(f"csv:{tmp_path}/t.csv", "train")
    (tmp_path / "t.csv").write_text("image,label,split\n0.png,cat,\n0.png,dog,\n")
    assert len(open_dataset(f"csv:{tmp_path}/t.csv", "test")) == 2


def test_a_table_of_labels(tmp_path):
    rows = [("0", "dog"), ("1", "a, b"), ("2", "dog"), ("3", "日本")]
    text = "image,label\n" + "".join(f'images/{i}.png,"{label}"\n' for i, label in rows)
    content = {
        "a.csv": text,
        "a.tsv": text.replace('"', "").replace(",l", "\tl").replace(".png,", ".png\t"),
        "a.jsonl": jsonl(*({"image": f"images/{i}.png", "label": x} for i, x in rows)),
    }
    for name, text in content.items():
        data = open_dataset(table(tmp_path, name, text))
        assert data.class_names == ("a, b", "dog", "日本"), name
        assert data.labels.tolist() == [1, 0, 1, 2], name
        assert data.load(3, SQUARE).shape == (8, 8, 3)
        assert data.describe(3).endswith("images/3.png")


def test_labels_may_be_numbers(tmp_path):
    spec = table(tmp_path, "a.csv", "image,label\nimages/0.png,2\nimages/1.png,0\n")
    assert open_dataset(spec).class_names == ()
    assert open_dataset(spec).labels.tolist() == [2, 0]
    named = open_dataset(spec, options=Options(class_names=("a", ("b", "B"), "c")))
    assert (named.labels.tolist(), named.class_names[1]) == ([2, 0], ("b", "B"))
    # Among names, "2" is a name.
    mixed = table(tmp_path, "b.csv", "image,label\nimages/0.png,2\nimages/1.png,cat\n")
    assert open_dataset(mixed).class_names == ("2", "cat")
    (tmp_path / "names.txt").write_text("7\n2\n")
    numerals = open_dataset(spec, options=Options(class_names=tmp_path / "names.txt"))
    assert numerals.labels.tolist() == [1, 0]  # "2" is the second name; there is no name "0"


def test_lists_of_labels_make_a_multi_label_set(tmp_path):
    rows = [["b", "a"], [], ["c"]]
    spec = table(
        tmp_path, "a.jsonl",
        jsonl(*({"image": f"images/{i}.png", "label": x} for i, x in enumerate(rows))),
    )  # fmt: skip
    data = open_dataset(spec)
    assert data.class_names == ("a", "b", "c")
    assert data.labels.tolist() == [[True, True, False], [False] * 3, [False, False, True]]
    spec = table(tmp_path, "a.jsonl", jsonl({"image": "images/0.png", "label": ["a"]},
                                            {"image": "images/1.png", "label": "a"}))  # fmt: skip
    with pytest.raises(DataError, match="a.jsonl:2: 'label' is 'a', but other rows have lists"):
        open_dataset(spec)


def test_splits_of_tables_share_their_classes(tmp_path):
    one = table(
        tmp_path, "one.csv",
        "image,label,split\nimages/0.png,b,train\nimages/1.png,a,validation\n"
        "images/2.png,c,test\n",
    )  # fmt: skip
    table(tmp_path, "t_train.csv", "image,label\nimages/0.png,b\n")
    table(tmp_path, "t_val.csv", "image,label\nimages/1.png,a\n")
    table(tmp_path, "t_test.csv", "image,label\nimages/2.png,c\n")
    for spec in (one, f"csv:{tmp_path}/t_{{split}}.csv"):
        for split, label, file in (("train", 1, 0), ("val", 0, 1), ("test", 2, 2)):
            data = open_dataset(spec, split)
            assert data.class_names == ("a", "b", "c")
            assert (data.labels.tolist(), data.images[0].name) == ([label], f"{file}.png")
    with pytest.raises(MissingData, match=r"no row of split 'dev'; .*'test', 'train', 'valid"):
        open_dataset(one, "dev")
    with pytest.raises(MissingData, match="t_dev.csv: no such file"):
        open_dataset(f"csv:{tmp_path}/t_{{split}}.csv", "dev")


def test_a_table_of_captions(tmp_path):
    spec = table(
        tmp_path, "c.jsonl",
        jsonl(
            {"image": "images/0.png", "caption": ["one", " two "]},
            {"image": "images/2.png", "caption": "drei"},
            {"image": "images/0.png", "caption": "四"},
        ),
    )  # fmt: skip
    data = open_dataset(spec)
    assert isinstance(data, RetrievalDataset)
    assert data.captions == ["one", "two", "drei", "四"]
    assert data.image_of_text.tolist() == [0, 0, 1, 0]
    assert [p.name for p in data.images] == ["0.png", "2.png"]
    both = table(tmp_path, "b.csv", "image,label,caption\nimages/0.png,x,a cat\n")
    assert isinstance(open_dataset(both), ClassificationDataset)
    assert open_dataset(both, options=Options(label_key="")).captions == ["a cat"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "image,label\nimages/9.png,b\n", "a.csv:2: no image .*9.png"),
        ("a.csv", "image,class\nimages/0.png,b\n", r"no column 'label' or 'caption', .*'class'"),
        (
            "a.csv",
            "file,label\nimages/0.png,b\n",
            r"a.csv:2: 'image' is None, not a path; .*file",
        ),
        ("a.csv", "image,label\nimages/0.png,\n", "a.csv:2: 'label' is '', not a class"),
        ("a.csv", "image,label\nimages/0.png,a,b\n", r"a.csv:2: 1 more field\(s\) than columns"),
        ("a.csv", "image,label\n", "a.csv: the table has no rows"),
        ("a.jsonl", '{"image": "images/0.png", "label": true}', "a.jsonl:1: 'label' is True"),
        ("a.jsonl", '{"image": "images/0.png", "label": 1.5}', "a.jsonl:1: 'label' is 1.5"),
        ("a.jsonl", '{"image": "images/0.png", "label": null}', "a.jsonl:1: 'label' is None"),
        ("a.jsonl", '{"image": "images/0.png", "caption": " "}', "1: 'caption' is ' ', not a c"),
        ("a.jsonl", '["images/0.png"]', "a.jsonl:1: the row is a list"),
        ("a.jsonl", '{"image": "x"\n', "a.jsonl:1: not JSON"),
        ("a.xlsx", "", "a.xlsx: tables are .csv, .tsv and .jsonl files"),
    ],
)
def test_bad_tables_name_file_and_row(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        open_dataset(table(tmp_path, name, content))


def test_a_label_outside_the_names_is_named(tmp_path):
    spec = table(tmp_path, "a.csv", "image,label\nimages/0.png,a\nimages/1.png,z\n")
    with pytest.raises(DataError, match=r"a.csv:3: 'label' is 'z', which is none of the 2 class n"):
        open_dataset(spec, options=Options(class_names=("a", "b")))
    spec = table(tmp_path, "a.csv", "image,label\nimages/0.png,2\n")
    with pytest.raises(DataError, match=r"a.csv:2: 'label' is '2', .* a number from 0 to 1"):
        open_dataset(spec, options=Options(class_names=("a", "b")))


def test_an_unknown_kind_names_those_there_are():
    with pytest.raises(DataError, match=r"'imagenet:x': 'imagenet' is not one of .*'folder'"):
        open_dataset("imagenet:x")


def test_threads_may_read(tmp_path):
    folders(tmp_path, *(f"{'ab'[i % 2]}/{i:03d}.png" for i in range(12)))
    data = open_dataset(f"folder:{tmp_path}")
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda i: data.load(i % 12, SQUARE), range(48)))
    assert all((many[i] == data.load(i % 12, SQUARE)).all() for i in range(48))
