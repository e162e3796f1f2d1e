"""Instances of look-alikes: the published files of Winoground and SugarCrepe, and what is wrong."""

import json

import numpy as np
import pytest
from PIL import Image

from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets import registry
from clip_jax.data.test_sets.registry import open_dataset
from clip_jax.data.test_sets.types import CompositionalityDataset, Options


def image(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 8), (colour, 10, 200)).save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_text(whole, encoding="utf-8")
    return f"selection:{path}"


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def described(data):
    """Instance by instance: names of images, captions."""
    return [
        (
            [p.name for p, i in zip(data.images, data.instance_of_image, strict=True) if i == k],
            [c for c, i in zip(data.captions, data.instance_of_text, strict=True) if i == k],
        )
        for k in data.instances
    ]


def winoground(root):
    """As its repository has it: data/examples.jsonl, and data/images.zip unpacked."""
    for i in range(4):
        image(root / "images" / f"ex_{i // 2}_img_{i % 2}.png", 40 * i)
    rows = [
        {
            "id": i, "image_0": f"ex_{i}_img_0", "image_1": f"ex_{i}_img_1",
            "caption_0": f"{i}: an old person kisses a young person",
            "caption_1": f"{i}: a young person kisses an old person",
            "tag": "Adjective-Age", "secondary_tag": "", "num_main_preds": 1,
            "collapsed_tag": "Object",
        }
        for i in range(2)
    ]  # fmt: skip
    return write(root / "examples.jsonl", lines(*rows))


def sugar_crepe(root):
    """As its repository has it: data/add_att.json, with numbers left out."""
    return write(root / "add_att.json", {
        "0": {"filename": "000000252219.jpg", "caption": "City dwellers walk by. ",
              "negative_caption": "Disabled city dwellers walk by."},
        "7": {"filename": "000000085329.jpg", "caption": "A drawing.",
              "negative_caption": "A tattooed drawing."},
        "8": {"filename": "000000252219.jpg", "caption": "A man begs.",
              "negative_caption": "A tall man begs."},
    })  # fmt: skip


def test_winoground(tmp_path):
    data = open_dataset(winoground(tmp_path))
    assert isinstance(data, CompositionalityDataset)
    assert described(data) == [
        ([f"ex_{i}_img_0.png", f"ex_{i}_img_1.png"],
         [f"{i}: an old person kisses a young person", f"{i}: a young person kisses an old person"])
        for i in range(2)
    ]  # fmt: skip
    assert (data.name, data.split, len(data)) == ("examples", "test", 4)
    assert data.load(3, Preprocess(8))[0, 0].tolist() == [120, 10, 200]
    assert data.describe(2).endswith("images/ex_1_img_0.png")


@pytest.mark.parametrize("folder", ["data", "data/val2017", "elsewhere/coco"])
def test_sugar_crepe(tmp_path, folder):
    spec = sugar_crepe(tmp_path / "data")
    for name in ("000000252219", "000000085329"):
        image(tmp_path / folder / f"{name}.jpg")
    root = tmp_path / folder if "coco" in folder else ""
    data = open_dataset(spec, options=Options(image_root=root))
    assert described(data) == [
        (["000000252219.jpg"], ["City dwellers walk by.", "Disabled city dwellers walk by."]),
        (["000000085329.jpg"], ["A drawing.", "A tattooed drawing."]),
        (["000000252219.jpg"], ["A man begs.", "A tall man begs."]),
    ]
    assert data.images_each.tolist() == [1, 1, 1] and data.captions_each.tolist() == [2, 2, 2]
    assert {p.parent for p in data.images} == {tmp_path / folder}


def test_the_general_form(tmp_path):
    for name in ("a.png", "b.png", "c.webp"):
        image(tmp_path / name)
    rows = [
        {"images": ["a", "b.png"], "captions": ["eins", " zwei ", "三"], "note": 1},
        {"images": ["c.webp"], "captions": ["vier", "fünf"]},
    ]
    want = [(["a.png", "b.png"], ["eins", "zwei", "三"]), (["c.webp"], ["vier", "fünf"])]
    for name, content in (("x.jsonl", lines(*rows)), ("x.json", rows), ("X.JSONL", lines(*rows))):
        assert described(open_dataset(write(tmp_path / name, content))) == want
    assert (
        described(open_dataset(write(tmp_path / "y.json", dict(zip("pq", rows, strict=True)))))
        == want
    )


def test_the_users_folder_comes_first(tmp_path):
    spec = winoground(tmp_path)
    image(tmp_path / "other" / "ex_1_img_1.png", 77)
    data = open_dataset(spec, options=Options(image_root=tmp_path / "other"))
    assert [p.parent.name for p in data.images] == ["images"] * 3 + ["other"]


def test_a_fingerprint_sees_captions_and_images(tmp_path):
    spec = winoground(tmp_path)
    first = open_dataset(spec).fingerprint
    assert open_dataset(spec).fingerprint == first
    content = (tmp_path / "examples.jsonl").read_text()
    write(tmp_path / "examples.jsonl", content.replace("kisses", "hugs"))
    second = open_dataset(spec).fingerprint
    Image.new("RGB", (99, 98)).save(tmp_path / "images" / "ex_1_img_1.png")
    assert len({first, second, open_dataset(spec).fingerprint}) == 3


def test_what_is_not_here_is_missing(tmp_path):
    with pytest.raises(MissingData, match=r"none.jsonl: no such file; it should be .jsonl or"):
        open_dataset(f"selection:{tmp_path}/none.jsonl")
    spec = sugar_crepe(tmp_path)
    image(tmp_path / "val2017" / "000000252219.jpg")
    message = r"add_att.json, entry '7': no image 000000085329.jpg in .*val2017; .*--image-root"
    with pytest.raises(MissingData, match=message):
        open_dataset(spec)


GOOD = {"images": ["a.png"], "captions": ["one", "two"]}
CREPE = {"filename": "a.png", "caption": "one", "negative_caption": "two"}
GROUND = {"image_0": "a", "image_1": "a", "caption_0": "one", "caption_1": "two"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["a.png"], "the row is a list, not an object"),
        (GOOD | {"images": "a.png"}, "'images' is 'a.png', not a list of texts"),
        (GOOD | {"captions": []}, r"'captions' is \[\], not a list of texts"),
        (GOOD | {"captions": ["one", 2]}, "'captions' has 2, not a text"),
        (GOOD | {"captions": ["one", " "]}, "'captions' has ' ', not a text"),
        (GOOD | {"captions": ["one"]}, "one image and one caption, nothing to choose"),
        (CREPE | {"negative_caption": None}, "'negative_caption' has None, not a text"),
        (CREPE | {"filename": 3}, "'filename' has 3, not a text"),
        (GROUND | {"caption_1": ""}, "'caption_1' has '', not a text"),
        ({"image": "a.png", "caption": "x"}, r"the row has \['caption', 'image'\], but should have "
         r"images, captions \(general\); or image_0, image_1, caption_0, caption_1 \(Winogr"),
    ],
)  # fmt: skip
def test_a_row_that_is_wrong_is_named(tmp_path, row, message):
    image(tmp_path / "a.png")
    with pytest.raises(DataError, match=f"x.jsonl:2: {message}"):
        open_dataset(write(tmp_path / "x.jsonl", lines(GOOD, row)))
    with pytest.raises(DataError, match=f"x.json, entry 'k': {message}"):
        open_dataset(write(tmp_path / "x.json", {"g": CREPE, "k": row}))
    with pytest.raises(DataError, match=f"y.json, entry 1: {message}"):
        open_dataset(write(tmp_path / "y.json", [GROUND, row]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", "", "x.jsonl: there are no instances"),
        ("x.json", "{}", "x.json: there are no instances"),
        ("x.json", "7", "x.json: it holds neither an object of rows nor a list of"),
        ("x.json", '{"a": ', "x.json: not JSON"),
        ("x.jsonl", "{]", "x.jsonl:1: not JSON"),
        ("x.csv", "image,caption", "x.csv: instances are in .jsonl or .json files"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        open_dataset(write(tmp_path / name, content))


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        ([0], [0, 0], r"instance_of_image is int64\[1\], not int32\[2\]"),
        ([0, 0], [0.0, 0.0], r"instance_of_text is float64\[2\]"),
        ([0, 1], [0, 0], "instance 1 has no caption"),
        ([4, 4], [4, 2], "instance 2 has no image"),
        ([3, 7], [3, 7], "instance 3 has one image and one caption"),
    ],
)
def test_instances_that_do_not_fit_are_refused(images, texts, message):
    with pytest.raises(DataError, match=f"mine test: {message}"):
        CompositionalityDataset(
            "mine", "test", [b"", b""], ["a", "b"], np.array(images), np.array(texts), "x"
        )
    with pytest.raises(DataError, match="mine test: there are no instances"):
        CompositionalityDataset("mine", "test", [], [], np.zeros(0, int), np.zeros(0, int), "x")


def test_every_reader_is_known():
    assert "selection" in registry.READERS
    with pytest.raises(DataError, match="'selections' is not one of .*'selection'"):
        open_dataset("selections:x")
