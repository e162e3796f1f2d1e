"""Files are written whole or not at all, by one function."""

import ast
import os

import pytest

from clip_jax.runtime.atomic import write_atomically


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "x.json"
    for content in (b"old", b"new"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "x.json"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError("power cut")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="power cut"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_contents_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path, monkeypatch
):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))
        )
    write_atomically(tmp_path / "x", b"")
    assert calls == ["fsync", "replace", "fsync"]


def test_there_is_no_other_writer(root):
    """Renaming a folder is something else: the checkpoints and the emoji dataset do it."""
    users = {
        path.relative_to(root / "clip_jax").as_posix()
        for path in (root / "clip_jax").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in ("fsync", "replace")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    assert users == {"runtime/atomic.py", "training/verification.py", "data/emoji/builder.py"}
