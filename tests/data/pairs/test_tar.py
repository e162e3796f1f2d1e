"""Pairs in tar shards."""

import io
import pickle
import tarfile

import numpy as np
from data_configs import data_config

from clip_jax.data.pairs import registry

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
