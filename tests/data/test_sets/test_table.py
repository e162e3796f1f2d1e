"""Datasets in tables, of labels and of captions."""

import json

import pytest
from small_images import write

from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.registry import open_dataset
from clip_jax.data.test_sets.types import (
    ClassificationDataset,
    Options,
    RetrievalDataset,
)

SQUARE = Preprocess(8)


def table(tmp_path, name, content):
    for i in range(4):
        write(tmp_path / "images" / f"{i}.png", i * 30)
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return f"csv:{path}"


def jsonl(*rows):
    return "\n".join(json.dumps(r, ensure_ascii=False) for r in rows)


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
