"""The sources: what they read, and how they speak of what they cannot."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest

from clip_jax import config as config_lib
from clip_jax.config import ConfigError
from clip_jax.data import paths
from clip_jax.data.emoji import builder
from clip_jax.data.errors import DataError
from clip_jax.data.pairs import registry, table
from clip_jax.data.pairs.base import clean_caption
from clip_jax.data.pairs.synthetic import SyntheticSource

RNG = np.random.default_rng(0)


def data_config(**changes):
    data = config_lib.defaults().data
    data.update(changes)
    return data


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
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


def test_missing_files_name_the_key():
    with pytest.raises(DataError, match=r"data.path='/nowhere/\*.tar': no such file"):
        registry.build(data_config(source="tar", path="/nowhere/*.tar"))


def test_tar_shards_are_one_numbered_sequence(tmp_path):
    for shard in range(3):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for i in range(shard + 1):
                for ending in ("jpg", "txt"):
                    data = f"{ending} {shard}/{i}".encode()
                    info = tarfile.TarInfo(f"{i}.{ending}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    source = registry.build(
        data_config(source="tar", path=f"{tmp_path}/*.tar", image_key="jpg", caption_key="txt")
    )
    assert len(source) == 6
    got = [source.read(i, RNG) for i in range(6)]
    want = ["0/0", "1/0", "1/1", "2/0", "2/1", "2/2"]
    assert [g.caption for g in got] == [f"txt {w}" for w in want]
    assert [g.image for g in got] == [f"jpg {w}".encode() for w in want]
    assert "2.tar: 1" in source.describe(4)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(4, RNG) == got[4]
    assert registry.captions(copy) == [g.caption for g in got]
    assert copy.fingerprint == source.fingerprint


def tar_fingerprint(folder, members):
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    data = data_config(source="tar", path=f"{folder}/*.tar", image_key="jpg", caption_key="txt")
    return registry.build(data).fingerprint


def test_a_tar_fingerprint_sees_order_sizes_and_names(tmp_path):
    a, b = ("1.jpg", b"one"), ("1.txt", b"two")
    c, d = ("2.jpg", b"red"), ("2.txt", b"hue")
    cases = {
        "plain": [a, b, c, d],
        "reordered": [c, d, a, b],
        "swapped": [b, a, c, d],
        "renamed": [a, b, ("3.jpg", b"red"), ("3.txt", b"hue")],
        "sizes": [("1.jpg", b"on"), ("1.txt", b"twoo"), c, d],
        "longer": [a, b, c, d, ("note", bytes(20_000))],
    }
    prints = {name: tar_fingerprint(tmp_path / name, members) for name, members in cases.items()}
    assert len(set(prints.values())) == len(cases)
    assert tar_fingerprint(tmp_path / "again", cases["plain"]) == prints["plain"]


def test_tfds_datasets_are_read(emoji_cache, tmp_path):
    source = registry.build(
        data_config(
            source="tfds",
            path="emoji/all",
            caption_key="name",
            split="held_out",
            tfds_data_dir=str(builder.folder(emoji_cache, "all")),
        )
    )
    assert len(source) == 1064
    kept = registry.build_validation(
        data_config(
            source="tfds",
            path="emoji/all",
            caption_key="name",
            validation_split="unseen_vendor",
            tfds_data_dir=str(builder.folder(emoji_cache, "all")),
        )
    )
    assert len(kept) == 1421
    example = source.read(0, RNG)
    assert example.image.startswith(b"\x89PNG")
    assert example.caption
    with pytest.raises(DataError, match=r"data.path='no_such_set'.*TFDS cannot open it"):
        registry.build(data_config(source="tfds", path="no_such_set", tfds_data_dir=str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (b"a cat", "a cat"),
        ("a\x00b\nc", "a b c"),
        (b"caf\xe9", "caf\ufffd"),
        ("  x  ", "x"),
        ("y" * 10_000, "y" * 4096),
    ],
)
def test_captions_are_cleaned(text, want):
    assert clean_caption(text) == want


@pytest.mark.parametrize("text", [b"", "  \n", b"\x00\x01"])
def test_empty_captions_are_refused(text):
    with pytest.raises(DataError, match="empty caption"):
        clean_caption(text)


def pairs_table(tmp_path, count, **changes):
    rows = [{"image": f"{i}.png", "caption": f"caption {i}"} | changes for i in range(count)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return table.TableSource(str(tmp_path / "pairs.jsonl"), "image", "caption")


def test_captions_are_read_without_the_images(tmp_path):
    assert registry.captions(pairs_table(tmp_path, 3)) == ["caption 0", "caption 1", "caption 2"]
    several = pairs_table(tmp_path, 20, caption=["one", "two", "three"], image="pairs.jsonl")
    for i in range(20):
        drawn = several.caption(i, np.random.default_rng(i))
        assert drawn == several.read(i, np.random.default_rng(i)).caption


def test_a_sample_of_the_captions_is_spread_over_the_source(tmp_path):
    source = pairs_table(tmp_path, 1000)
    sample = registry.captions(source, 50)
    assert len(set(sample)) == 50
    numbers = [int(c.split()[1]) for c in sample]
    assert numbers == sorted(numbers)
    assert numbers[0] < 200
    assert numbers[-1] > 800
    assert registry.captions(source, 50) == sample != registry.captions(source, 50, seed=1)
    assert registry.captions(source, 2000) == registry.captions(source)


def test_unreadable_captions_are_left_out_within_the_budget(tmp_path, caplog):
    source = pairs_table(tmp_path, 100)
    for i in (3, 50):
        source.rows[i] = (f"{i}.png", "\x00")
    found = registry.captions(source, max_bad_fraction=0.01)
    assert len(found) == 98
    assert "caption 3" not in found
    assert "3.png: empty caption" in caplog.text
    with pytest.raises(DataError, match=r"2 of 100 captions .*max_bad_fraction=0.001.*50"):
        registry.captions(source, max_bad_fraction=0.001)
    with pytest.raises(DataError, match="3 of 3 captions could not be read"):
        registry.captions(pairs_table(tmp_path, 3, caption="\x00"), max_bad_fraction=0.5)


def test_synthetic_pairs_are_a_function_of_their_number():
    a, b = SyntheticSource(), SyntheticSource()
    for i in (0, 5, 4095):
        x, y = a.read(i, RNG), b.read(i, np.random.default_rng(9))
        np.testing.assert_array_equal(x.image, y.image)
        assert (x.caption, x.group) == (y.caption, y.group)
    assert len({a.read(i, RNG).caption for i in range(56)}) == 56


def test_validation_pairs_are_others(tmp_path):
    train = registry.build(data_config(source="synthetic"))
    other = registry.build_validation(data_config(source="synthetic"))
    assert train.fingerprint != other.fingerprint
    assert not (train.read(0, RNG).image == other.read(0, RNG).image).all()
    with pytest.raises(DataError, match=r"data.validation_path\).*/nowhere/a.csv"):
        registry.build_validation(data_config(source="table", validation_path="/nowhere/a.csv"))


def test_unknown_source_is_named():
    with pytest.raises(ConfigError, match="data.source='webdataset' is not one of"):
        registry.build(data_config(source="webdataset"))


def test_cache_dir_order(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIP_JAX_CACHE", str(tmp_path / "env"))
    assert paths.cache_dir(str(tmp_path / "given")) == tmp_path / "given"
    assert paths.cache_dir("") == tmp_path / "env"
    monkeypatch.delenv("CLIP_JAX_CACHE")
    assert paths.cache_dir("").parts[-2:] == (".cache", "clip_jax")
