"""The shard index: random access, and damage found instead of skipped."""

import gc
import io
import os
import pathlib
import pickle
import tarfile
from concurrent import futures

import numpy as np
import pytest

from clip_jax.data import tar_index, tar_scan


def write_shard(path, samples=5, endings=("jpg", "txt")):
    with tarfile.open(path, "w") as archive:
        for i in range(samples):
            for ending in endings:
                data = f"{ending} of sample {i}".encode() * (i + 1)
                info = tarfile.TarInfo(f"{i:05d}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def read(index, row):
    data = index.path.read_bytes()
    a, b, c, d = index.spans[row]
    return data[a : a + b], data[c : c + d]


def test_spans_point_at_the_members(tmp_path):
    index = tar_index.load_index(write_shard(tmp_path / "a.tar"), "jpg", "txt", tmp_path)
    assert len(index) == 5
    for i in range(5):
        image, text = read(index, i)
        assert image == f"jpg of sample {i}".encode() * (i + 1)
        assert text == f"txt of sample {i}".encode() * (i + 1)


def test_the_index_is_kept_and_used_and_renewed(tmp_path):
    shard = write_shard(tmp_path / "a.tar")
    tar_index.load_index(shard, "jpg", "txt", tmp_path)
    kept = tar_index.index_path(shard, "jpg", "txt", tmp_path)
    assert kept.is_file()
    stamp = kept.stat().st_mtime_ns
    tar_index.load_index(shard, "jpg", "txt", tmp_path)
    assert kept.stat().st_mtime_ns == stamp
    write_shard(shard, samples=7)
    assert len(tar_index.load_index(shard, "jpg", "txt", tmp_path)) == 7
    kept.write_bytes(b"damaged")
    assert len(tar_index.load_index(shard, "jpg", "txt", tmp_path)) == 7


def test_an_unwritable_folder_puts_the_index_in_the_cache(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    shard = write_shard(folder / "a.tar")
    # Root may write into any folder, whatever its mode.
    monkeypatch.setattr(tar_index.os, "access", lambda path, mode: path != folder)
    for _ in range(2):  # made, then found
        assert len(tar_index.load_index(shard, "jpg", "txt", tmp_path / "cache")) == 5
    assert [p.name for p in folder.iterdir()] == ["a.tar"]
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1


def test_no_cut_and_no_flipped_header_goes_unnoticed(tmp_path):
    """A stream reader ends at a damaged header as if the archive did; the index must not."""
    whole = write_shard(tmp_path / "whole.tar", samples=4).read_bytes()
    rng = np.random.default_rng(0)
    clean = tar_index.load_index(tmp_path / "whole.tar", "jpg", "txt", tmp_path)
    for trial in range(120):
        data = bytearray(whole)
        if trial % 3 == 0:
            end = int(clean.spans[-1].max()) + 512
            data = data[: int(rng.integers(100, end))]
        else:
            data[int(rng.integers(0, 8 * 1024))] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"{trial}.tar"
        path.write_bytes(data)
        try:
            index = tar_index.load_index(path, "jpg", "txt", tmp_path)
        except tar_scan.ShardError as error:
            assert str(path) in str(error)
            continue
        # A flip in a file's contents or in its name cannot be seen here, but nothing else is lost.
        assert len(index) >= 3


def test_incomplete_samples_are_left_out(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("1.jpg", "1.txt", "2.jpg", "3.txt"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    index = tar_index.load_index(path, "jpg", "txt", tmp_path)
    assert index.keys.tolist() == ["1"]
    for _ in range(2):  # scanned, then from the kept index
        index = tar_index.load_index(path, "jpg", "txt", tmp_path)
        assert index.incomplete.tolist() == ["2", "3"]


def test_a_file_may_have_one_of_several_endings(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("1.jpg", "1.txt", "2.PNG", "2.txt", "3.gif", "3.txt"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    index = tar_index.load_index(path, "jpg;png", "txt", tmp_path)
    assert index.keys.tolist() == ["1", "2"]
    assert [read(index, i) for i in range(2)] == [(b"1.jpg", b"1.txt"), (b"2.PNG", b"2.txt")]
    assert index.incomplete.tolist() == ["3"]


def indexed(tmp_path, count, samples=5, endings=("jpg", "txt")):
    shards = [write_shard(tmp_path / f"{i}.tar", samples, endings) for i in range(count)]
    return tar_index.TarShards([tar_index.load_index(s, "jpg", "txt", tmp_path) for s in shards])


def test_a_sample_is_read_whole_wherever_its_two_files_lie(tmp_path):
    for folder, endings in (("next", ("jpg", "txt")), ("turned", ("txt", "jpg"))):
        (tmp_path / folder).mkdir()
        shards = indexed(tmp_path / folder, 2, endings=endings)
        for i in range(len(shards)):
            assert shards.sample(i) == (shards[i], shards.text(i))
    # Far apart: the texts lie behind all images.
    path = tmp_path / "far.tar"
    with tarfile.open(path, "w") as archive:
        for ending in ("jpg", "txt"):
            for i in range(3):
                info = tarfile.TarInfo(f"{i}.{ending}")
                info.size = 100_000
                archive.addfile(info, io.BytesIO(f"{ending}{i}".encode().ljust(100_000)))
    shards = tar_index.TarShards([tar_index.load_index(path, "jpg", "txt", tmp_path)])
    for i in range(3):
        image, text = shards.sample(i)
        assert (image[:4], text[:4]) == (f"jpg{i}".encode(), f"txt{i}".encode())
        assert len(image) == len(text) == 100_000


def open_files(folder):
    links = pathlib.Path("/proc/self/fd").iterdir()
    return sum(str(link.resolve()).startswith(f"{folder}/") for link in links)


@pytest.mark.skipif(not pathlib.Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_shards_stay_open_up_to_a_number_and_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_index, "MOST_OPEN", 3)
    shards = indexed(tmp_path, 6)
    want = [shards[i] for i in range(len(shards))]
    assert open_files(tmp_path) == 3
    with futures.ThreadPoolExecutor(8) as pool:
        order = np.random.default_rng(0).integers(0, len(shards), 2000).tolist()
        for i, image in zip(order, pool.map(shards.__getitem__, order), strict=True):
            assert image == want[i]
    assert open_files(tmp_path) == 3
    copy = pickle.loads(pickle.dumps(shards))
    assert copy[7] == want[7]
    del copy, shards
    gc.collect()
    assert open_files(tmp_path) == 0


def test_a_shard_that_was_cut_since_is_said_and_no_caption_is_shortened(tmp_path):
    shards = indexed(tmp_path, 1, samples=2)
    offset, size = shards.indices[0].spans[1, 2:].tolist()
    assert len(shards.text(1)) == size
    with open(tmp_path / "0.tar", "r+b") as file:
        file.truncate(offset + size - 1)
    for read in (shards.sample, shards.text):
        with pytest.raises(tar_scan.ShardError, match=rf"0.tar: cut .*byte {offset + size - 1}"):
            read(1)
    assert shards.sample(0) == (shards[0], shards.text(0))


def test_a_file_system_may_give_less_than_was_asked_for(tmp_path, monkeypatch):
    shards = indexed(tmp_path, 1)
    want = [shards.sample(i) for i in range(5)]
    pread = os.pread
    monkeypatch.setattr(tar_index.os, "pread", lambda f, n, at: pread(f, min(n, 7), at))
    assert [shards.sample(i) for i in range(5)] == want


def test_reading_ahead_forgives_what_cannot_be_read(tmp_path):
    shards = indexed(tmp_path, 2)
    (tmp_path / "0.tar").unlink()
    shards.will_read([7, 0, 3, 9])
    assert shards.sample(9) == (shards[9], shards.text(9))
    with pytest.raises(FileNotFoundError):
        shards.sample(0)
