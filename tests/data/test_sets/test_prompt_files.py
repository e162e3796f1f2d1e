"""A user's files with class names and templates: what they may look like, and what is wrong."""

import json

import pytest

from clip_jax.data.errors import DataError
from clip_jax.data.test_sets import prompt_files


def write(tmp_path, name, content):
    path = tmp_path / name
    if not isinstance(content, bytes | str):
        content = json.dumps(content, ensure_ascii=False)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "want"),
    [
        ("a.txt", "cat\n  big dog \nγάτα\n", ("cat", "big dog", "γάτα")),
        ("a.txt", b"\xef\xbb\xbfcat\r\ndog\r\n\r\n\n", ("cat", "dog")),
        ("a.txt", "a\u2028b\nc", ("a\u2028b", "c")),
        ("a.names", "1\n2", ("1", "2")),
        ("a.json", ["cat", ["dog", "hound"], "{}"], ("cat", ("dog", "hound"), "{}")),
        ("a.JSON", '\ufeff["kissa"]', ("kissa",)),
        ("a.json", {"mine": ["cat"], "other": ["dog"]}, ("cat",)),
    ],
)
def test_class_names(tmp_path, name, content, want):
    assert prompt_files.read_class_names(write(tmp_path, name, content), ("unlike", "mine")) == want


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "a.txt: empty; it must have one class name a line"),
        ("a.txt", "cat\n\ndog\n", "a.txt:2: empty line"),
        ("a.txt", b"cat\ncaf\xe9\n", "a.txt:2: not UTF-8 .*save the file as UTF-8"),
        ("a.json", '[\n"cat",\n', "a.json:3: not JSON"),
        ("a.json", [], "a.json is empty, not a list of class names"),
        ("a.json", "7", "a.json is 7, not a list"),
        ("a.json", ["cat", 3], r"a.json\[1\] is 3, not a class name"),
        ("a.json", ["cat", ""], r"a.json\[1\] is empty, not a class name"),
        ("a.json", ["cat", []], r"a.json\[1\] is empty"),
        ("a.json", [["cat", None]], r"a.json\[0\]\[1\] is null"),
        ("a.json", {"yours": ["cat"]}, r"a.json: no entry 'unlike' or 'mine'; it has \['yours'\]"),
        ("a.json", {"mine": "cat"}, "a.json: 'mine' is text, not a list of class names"),
    ],
)
def test_bad_class_names_name_file_and_place(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        prompt_files.read_class_names(write(tmp_path, name, content), ("unlike", "mine"))


def test_gaps_keep_their_numbers(tmp_path):
    path = write(tmp_path, "a.txt", "near\n\nfar\n\n")
    assert prompt_files.read_class_names(path, gaps=True) == ("near", "", "far")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none.txt: cannot be read: No such file"):
        prompt_files.read_class_names(tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"none.json: cannot be read: No such file"):
        prompt_files.read_templates(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "content", "want"),
    [
        ("a.txt", "a {}.\nein {c}, {c}!\n{}の写真", ("a {}.", "ein {}, {}!", "{}の写真")),
        ("a.json", ["a {c}", "{}"], ("a {}", "{}")),
        ("a.json", {"mine": ["{c} 1"], "other": ["{c} 2"]}, ("{} 1",)),
        ("a.json", {"cat": ["a pet", "it purrs"], "dog": ["{c} barks"]},
         {"cat": ("a pet", "it purrs"), "dog": ("{} barks",)}),
        ("a.json", {"mine": {"cat": ["a pet"]}}, {"cat": ("a pet",)}),
    ],
)  # fmt: skip
def test_templates(tmp_path, name, content, want):
    assert prompt_files.read_templates(write(tmp_path, name, content), ("unlike", "mine")) == want


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "a {}\na photo\n", r"a.txt:2: 'a photo' has no '\{\}' \(or '\{c\}'\)"),
        ("a.txt", "a {}\n\nb {}\n", "a.txt:2: empty line; every line must have a template"),
        ("a.json", ["{}", "x"], r"a.json\[1\]: 'x' has no"),
        ("a.json", ["{}", 1], r"a.json\[1\] is 1, not a template"),
        ("a.json", {}, "a.json is empty"),
        ("a.json", {"mine": []}, "a.json: 'mine' is empty"),
        ("a.json", {"cat": []}, "a.json: 'cat' is empty, not a list of prompts"),
        ("a.json", {"cat": ["x", 2]}, r"a.json: 'cat'\[1\] is 2, not a prompt"),
    ],
)
def test_bad_templates_name_file_and_place(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        prompt_files.read_templates(write(tmp_path, name, content), ("unlike", "mine"))


def test_prompts_of_each_class():
    prompts = {"cat": ("a pet", "the {}"), "kitty": ("small {}",), "dog": ("barks",), "x": ("y",)}
    assert prompt_files.of_classes(prompts, ["dog", ["cat", "kitty"]]) == (
        ("barks",),
        ("a pet", "the cat", "small kitty"),
    )
    with pytest.raises(DataError, match="mine.json: no prompts for 1 of 2 classes: 'cow'"):
        prompt_files.of_classes(prompts, ["cow", "cat"], "mine.json")
