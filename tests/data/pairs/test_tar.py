"""Pairs in tar shards."""

import io
import pickle
import tarfile

import numpy as np
import pytest
from data_configs import data_config

from clip_jax.config import ConfigError
from clip_jax.data.errors import DataError
from clip_jax.data.pairs import registry
from clip_jax.data.tar_scan import ShardError

RNG = np.random.default_rng(0)


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


def shard(path, *names):
    with tarfile.open(path, "w") as archive:
        for name in names:
            data = name.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def build(folder, **changes):
    keys = {"image_key": "jpg", "caption_key": "txt"} | changes
    return registry.build(data_config(source="tar", path=f"{folder}/*.tar", **keys))


def test_what_is_left_out_is_counted_and_named(tmp_path):
    pairs = [f"{i}.{ending}" for i in range(40) for ending in ("jpg", "txt")]
    shard(tmp_path / "0.tar", *pairs, "a.png", "a.txt", "b.png", "b.txt", "c.jpg", "README")
    shard(tmp_path / "1.tar")  # all downloads failed
    source = build(tmp_path)
    assert len(source) == 40
    assert [(g.count, g.reason, g.weighs) for g in source.left_out] == [
        (2, "no .jpg, but .png, .txt", True), (1, "no .txt, but .jpg", True),
        (1, "no .jpg and no .txt, but a file without ending", False),
    ]  # fmt: skip
    text = registry.describe_left_out(source)
    assert text.startswith(
        f"4 of 44 samples left out: 2: no .jpg, but .png, .txt (first {tmp_path}/0.tar: a); "
        f"1: no .txt, but .jpg (first {tmp_path}/0.tar: c)"
    )
    assert len(build(tmp_path, image_key="jpg;png")) == 42


def test_more_than_a_share_of_the_data_left_out_is_an_error(tmp_path):
    shard(tmp_path / "0.tar", *(f"{i}.{e}" for i in range(300) for e in ("jpg", "txt")),
          *(f"x{i}.jpg" for i in range(12)), *(f"y{i}.json" for i in range(500)))  # fmt: skip
    assert len(build(tmp_path, max_bad_fraction=0.05)) == 300
    with pytest.raises(
        DataError,
        match=r"512 of 812.*more than data.max_bad_fraction=0.01 of the data; set data.ima",
    ):
        build(tmp_path)
    shard(tmp_path / "0.tar", "0.jpg", "0.txt", "1.jpg")
    with pytest.raises(DataError, match=r"1 of 2 samples left out"):
        build(tmp_path)  # half of it


def test_workers_do_not_get_what_is_left_out(tmp_path):
    shard(tmp_path / "0.tar", *(f"{i}.{e}" for i in range(9) for e in ("jpg", "txt")),
          *(f"meta/{i}.json" for i in range(5000)))  # fmt: skip
    source = build(tmp_path)
    assert source.left_out[0].count == 5000
    assert len(pickle.dumps(source)) < 5000


def test_a_name_that_occurs_twice_is_no_pair(tmp_path):
    """Of a name that occurs twice in a shard, nobody knows which belong together."""
    others = [f"{i}.{ending}" for i in range(5, 15) for ending in ("jpg", "txt")]
    shard(tmp_path / "0.tar", "0.jpg", "0.txt", *others, "0.jpg")
    source = build(tmp_path)
    assert "0.txt" not in [source.read(i, RNG).caption for i in range(len(source))]
    assert len(source) == 10
    assert source.left_out[0].reason == "two images or two captions of one name"


def test_without_any_pair_the_endings_are_named(tmp_path):
    shard(tmp_path / "0.tar", "0.png", "0.txt")
    with pytest.raises(
        DataError, match=r"0.tar: no sample has both .jpg.*1 samples have no .jpg, but .png, .txt"
    ):
        build(tmp_path)


def test_damaged_shards_are_named_together(tmp_path):
    for i in range(8):
        shard(tmp_path / f"{i}.tar", "0.jpg", "0.txt")
    for i in range(1, 8):
        (tmp_path / f"{i}.tar").write_bytes((tmp_path / f"{i}.tar").read_bytes()[:1500])
    with pytest.raises(ShardError, match=r"7 of 8 shards cannot be read:\n  .*1.tar") as error:
        build(tmp_path)
    assert "5.tar" in str(error.value) and "6.tar" not in str(error.value)
    assert "and 2 more" in str(error.value)


def test_captions_are_fields_of_json_and_not_its_text(tmp_path):
    members = {"0.jpg": b"0", "0.json": b'{"caption": "a dog", "n": 3}', "1.jpg": b"1",
               "1.json": b"[1]", "2.jpg": b"2", "2.json": b"{"}  # fmt: skip
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    source = build(tmp_path, caption_key="json:caption")
    assert source.read(0, RNG).caption == source.caption(0, RNG) == "a dog"
    for index in (1, 2):
        with pytest.raises(ValueError):
            source.read(index, RNG)
    with pytest.raises(
        DataError, match=r"no text 'n' \(data.caption_key\), but \['caption', 'n'\]"
    ):
        build(tmp_path, caption_key="json:n").read(0, RNG)
    for key in ("json", ".JSON", "txt;json:caption", "json:caption;txt", "json;txt", "json:"):
        with pytest.raises(ConfigError, match="give the field that is the caption"):
            build(tmp_path, caption_key=key)
