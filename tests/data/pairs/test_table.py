"""Pairs in tables: CSV, TSV and JSONL files."""

import gzip
import json

import numpy as np
import pytest
from data_configs import data_config

from clip_jax.data.errors import DataError
from clip_jax.data.pairs import registry, table

RNG = np.random.default_rng(0)


def test_csv_tsv_and_jsonl_give_the_same_pairs(tmp_path):
    (tmp_path / "x.png").write_bytes(b"image")
    (tmp_path / "a.csv").write_text('image,caption\nx.png,"a, b"\n')
    (tmp_path / "b.tsv").write_text("image\tcaption\nx.png\ta, b\n")
    (tmp_path / "c.jsonl").write_text(json.dumps({"image": "x.png", "caption": "a, b"}) + "\n")
    for name in ("a.csv", "b.tsv", "c.jsonl"):
        source = registry.build(data_config(source="table", path=str(tmp_path / name)))
        assert len(source) == 1
        example = source.read(0, RNG)
        assert (example.image, example.caption) == (b"image", "a, b")
    both = registry.build(data_config(source="table", path=f"{tmp_path}/a.csv,{tmp_path}/*.tsv"))
    assert len(both) == 2


def test_one_of_several_captions_is_drawn(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    row = {"image": "x.png", "caption": ["one", "two"]}
    (tmp_path / "c.jsonl").write_text(json.dumps(row))
    source = registry.build(data_config(source="table", path=str(tmp_path / "c.jsonl")))
    drawn = {source.read(0, np.random.default_rng(i)).caption for i in range(20)}
    assert drawn == {"one", "two"}


def test_what_unicode_takes_for_a_line_end_does_not_end_a_row(tmp_path):
    captions = ["two\u2028lines", "next\x85line", "a\x0bb\x0cc\x1cd"]
    rows = [json.dumps({"image": "x.png", "caption": c}, ensure_ascii=False) for c in captions]
    (tmp_path / "a.jsonl").write_text("\r\n".join(rows), encoding="utf-8", newline="")
    (tmp_path / "a.csv").write_text("image,caption\n" + "".join(f"x.png,{c}\n" for c in captions))
    for name in ("a.jsonl", "a.csv"):
        source = table.TableSource(str(tmp_path / name), "image", "caption")
        assert [caption for _, caption in source.rows] == captions, name


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_quoted_caption_keeps_its_line_break(tmp_path, end):
    content = f'image,caption{end}x.png,"a cat{end}on a mat"{end}y.png,b{end}'
    (tmp_path / "a.csv").write_bytes(content.encode())
    source = table.TableSource(str(tmp_path / "a.csv"), "image", "caption")
    assert [caption for _, caption in source.rows] == [f"a cat{end}on a mat", "b"]


def test_rows_without_a_caption_or_an_image_are_counted(tmp_path):
    rows = [{"image": "x.png", "caption": c} for c in ("a", "", None, [], *"b" * 60)]
    rows += [{"caption": "c"}, {"image": "", "caption": "d"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = registry.build(data_config(source="table", path=f"{tmp_path}/a.jsonl"))
    assert [caption for _, caption in source.rows] == ["a", *"b" * 60]
    assert [group[:3] for group in source.left_out] == [
        ("no 'caption'", 3, f"{tmp_path}/a.jsonl:2"),
        ("no 'image'", 2, f"{tmp_path}/a.jsonl:65"),
    ]
    text = registry.describe_left_out(source)
    assert text.startswith("5 of 66 samples left out: 3: no 'caption'")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", 'image,caption\nx.png,"a cat\ny.png,b\nz.png,c\n', r"a.csv: .*quote not closed"),
        (
            "a.csv",
            'image,caption\nx.png,"a" cat\ny.png,b\n',
            r"a.csv: .*write them twice, between two",
        ),
        ("a.csv", "image;caption\nx.png;b\n", r"a.csv:1: one column.*separator seems to be ';'"),
        ("a.csv", "image\tcaption\nx.png\tb\n", r"separator seems to be '\\t', and that of a .csv"),
        ("a.tsv", "image,caption\nx.png,b\n", "a.tsv:1: one column.*seems to be ','"),
        ("a.csv", gzip.compress(b"image,caption\n"), "a.csv: compressed by gzip; make it a .csv"),
        ("a.csv", b"PAR1xxxx", "a.csv: a Parquet file; make it a .csv, .tsv or .jsonl file"),
        ("a.csv", "image,text\nx.png,b\n", r"a.csv:2: no 'caption'.*'image', 'text'.*caption_key"),
        ("a.csv", "image,caption\n", "no rows"),
        (
            "a.csv",
            "image,caption\nx.png,a cat, a dog\n",
            r"a.csv:2: 1 more field\(s\) than columns",
        ),
        (
            "a.csv",
            'image,caption\nx.png,"' + "y" * 200_000 + '"\n',
            "a.csv: after line .: field larger.*quote",
        ),
        ("a.csv", "image,caption\nx.png,caf\xe9\n".encode("latin-1"), "a.csv:2: not UTF-8.*save"),
        ("a.jsonl", '{"image": "x", "caption": "y"}\n\n{not json\n', "a.jsonl:3: not JSON"),
        ("a.jsonl", '["x.png", "a cat"]\n', "a.jsonl:1: the row is a list, not an object"),
        ("a.jsonl", '{"image": "x.png", "caption": 5}\n', "a.jsonl:1: 'caption' is 5, not text"),
        ("a.jsonl", '{"image": 5, "caption": "a"}\n', "a.jsonl:1: 'image' is 5, not a path"),
        ("a.jsonl", '{"image": "x", "caption": ["a", null]}\n', "'caption' is None, not text"),
        ("a.jsonl", '{"image": "x", "caption": []}\n', "a.jsonl:1: no 'caption' in this row"),
        ("a.txt", "x", "a.txt: tables are .csv, .tsv and .jsonl files"),
    ],
)
def test_bad_tables_name_file_row_and_key(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        registry.build(data_config(source="table", path=str(tmp_path / name)))
