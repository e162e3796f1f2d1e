"""The cache folder, arrays in it, and the files that a list of patterns names."""

import numpy as np
import pytest

from clip_jax.data import paths
from clip_jax.data.errors import DataError


def test_cache_dir_order(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIP_JAX_CACHE", str(tmp_path / "env"))
    assert paths.cache_dir(str(tmp_path / "given")) == tmp_path / "given"
    assert paths.cache_dir("") == tmp_path / "env"
    monkeypatch.delenv("CLIP_JAX_CACHE")
    assert paths.cache_dir("").parts[-2:] == (".cache", "clip_jax")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run[1]").mkdir()
    (tmp_path / "a,b").mkdir()
    names = [f"{i:05}.tar" for i in range(12)]
    for name in (*names, "00000.tar.jpg-txt.index.npz", "run[1]/x.tar", "a,b/x.tar"):
        (tmp_path / name).touch()
    return tmp_path


def names(pattern):
    return [str(p) for p in paths.matching_files(pattern)]


def test_patterns_ranges_and_lists(folder):
    assert names("*.tar") == [f"{i:05}.tar" for i in range(12)]
    assert names("{00003..00010}.tar") == [f"{i:05}.tar" for i in range(3, 11)]
    assert names("00011.tar, 00001.tar,") == ["00001.tar", "00011.tar"]
    assert names("000{0..1}{0..1}.tar") == ["00000.tar", "00001.tar", "00010.tar", "00011.tar"]


def test_index_files_are_no_data(folder):
    assert names("00000*") == ["00000.tar"]
    with pytest.raises(DataError, match="no such file"):
        paths.matching_files("00000.tar.*")


def test_a_path_that_exists_is_taken_as_it_is(folder):
    assert names("run[1]/x.tar") == ["run[1]/x.tar"]
    assert names("a,b/x.tar") == ["a,b/x.tar"]
    assert names("00000.tar,run[1]/x.tar") == ["00000.tar", "run[1]/x.tar"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("00000.tar,missing.tar", r"\(missing.tar\): no such file"),
        ("00000.tar,other/*.tar", r"\(other/\*.tar\): no such file"),
        ("{00010..00012}.tar", r"\(00012.tar\): no such file"),
        ("{5..3}.tar", r"the range \{5..3\} is empty: no such file"),
        ("00000.tar,{5..3}.tar", r"the range \{5..3\} is empty"),
        (" , ", "no such file"),
        ("run[1]", r"is a folder; give the files in it, such as 'run\[1\]/\*'"),
    ],
)
def test_every_part_of_a_list_must_be_there(folder, pattern, message):
    with pytest.raises(DataError, match=message):
        paths.matching_files(pattern)


def test_arrays_that_cannot_be_kept_are_there_all_the_same(tmp_path, monkeypatch, caplog):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paths, "write_atomically", full)
    made = paths.cached_arrays(tmp_path / "x.npz", lambda: {"a": np.arange(3)})
    assert made["a"].tolist() == [0, 1, 2]
    paths.cached_arrays(tmp_path / "y.npz", lambda: {"a": np.arange(3)})
    assert caplog.text.count("cannot be kept: [Errno 28] No space left") == 1


def test_no_flipped_bit_in_kept_arrays_is_a_traceback(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    make = lambda: {"a": np.arange(5), "b": np.array(["x", "yy"])}  # noqa: E731
    paths.cached_arrays(path, make)
    whole = path.read_bytes()
    monkeypatch.setattr(paths, "write_atomically", lambda path, content: None)
    for bit in range(0, 8 * len(whole), 3):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        found = paths.cached_arrays(path, make, lambda arrays: {"a", "b"} <= arrays.keys())
        assert found["a"].tolist() == list(range(5))
