"""Groups of images: checked, taken along with their images, read from tables."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.data.errors import DataError
from clip_jax.data.test_sets.registry import open_dataset
from clip_jax.data.test_sets.types import ClassificationDataset, Options, from_arrays

AGES = ("young", "old", "old", "young")
ROWS = [f"{i}.png,{label},{age}" for i, (label, age) in enumerate(zip("baba", AGES, strict=True))]


def a_set(**groups):
    pixels = np.zeros((4, 4, 4), np.uint8)
    plain = from_arrays("mine", "test", pixels, np.array([0, 1, 0, 1]), "ab")
    return ClassificationDataset(
        "mine", "test", plain.images, plain.labels, "ab", fingerprint="x", groups=groups
    )


def table(tmp_path, name="a.csv", rows=ROWS, head="image,label,age"):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"x" * (i + 1))
    (tmp_path / name).write_text("\n".join([head, *rows] if head else rows) + "\n")
    return f"csv:{tmp_path / name}"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=6))
def test_groups_go_with_their_images(rows):
    part = a_set(age=AGES, shoe=list("wxyz")).take(rows)
    assert part.groups == {
        "age": tuple(AGES[r] for r in rows), "shoe": tuple("wxyz"[r] for r in rows),
    }  # fmt: skip
    again = part.take(range(len(rows))[::-1])
    assert again.groups["shoe"] == tuple("wxyz"[r] for r in rows[::-1])
    assert from_arrays("m", "test", np.zeros((1, 4, 4), np.uint8), [0]).groups == {}


@pytest.mark.parametrize(
    ("ages", "message"),
    [
        (AGES[:3], r"groups\['age'\] has 3 entries, but there are 4 images"),
        (("a", "", "a", "b"), r"groups\['age'\] is '' for image 1"),
        (("a", "b", 3, "b"), r"groups\['age'\] is 3 for image 2"),
        (("a", "b", "c", "all"), r"'all' for image 3"),
    ],
)
def test_groups_that_do_not_fit_are_refused(ages, message):
    with pytest.raises(DataError, match=rf"mine test: .*{message}"):
        a_set(age=ages)


def test_columns_of_a_table(tmp_path):
    keyed = Options(group_keys=("age",))
    spec = table(tmp_path)
    assert open_dataset(spec, options=keyed).groups == {"age": AGES}
    rows = [{"image": f"{i}.png", "label": "a", "age": i, "s": " x "} for i in range(4)]
    spec = table(tmp_path, "b.jsonl", [json.dumps(row) for row in rows], head="")
    found = open_dataset(spec, options=Options(group_keys=("s", "age"))).groups
    assert list(found.items()) == [("s", ("x",) * 4), ("age", ("0", "1", "2", "3"))]
    split = table(tmp_path, "c.csv", [f"{r},{s}" for r, s in
                  zip(ROWS, ("train", "test", "test", "train"), strict=True)],
                  "image,label,age,split")  # fmt: skip
    assert open_dataset(split, "test", keyed).groups == {"age": ("old", "old")}


def test_a_fingerprint_knows_groups_and_without_them_is_what_it_was(tmp_path):
    spec = table(tmp_path)
    plain = open_dataset(spec)
    assert plain.groups == {}
    assert plain.fingerprint == FINGERPRINT
    keyed = open_dataset(spec, options=Options(group_keys=("age",))).fingerprint
    other = open_dataset(spec, options=Options(group_keys=("label",))).fingerprint
    assert len({FINGERPRINT, keyed, other}) == 3
    assert keyed == open_dataset(spec, options=Options(group_keys=("age",))).fingerprint


# Of the table without groups: what has been embedded is found by it.
FINGERPRINT = "ba93b24e1576e071c1e47982a2ca22f208d6a290b948f58eaee5fc92380debfa"


@pytest.mark.parametrize(
    ("rows", "key", "message"),
    [
        (ROWS, "race", r"a.csv:2: no column 'race'; the row has \['age', 'image', 'label'\]"),
        ([ROWS[0], "1.png,a,"], "age", "a.csv:3: 'age' is '', not the name of a group"),
        ([ROWS[0], "1.png,a, "], "age", "a.csv:3: 'age' is ' ', not the name of a group"),
        ([ROWS[0], "1.png,a"], "age", "a.csv:3: 'age' is None, not the name of a group"),
        ([ROWS[0], "1.png,a,all"], "age", "a.csv:3: 'age' is 'all', not the name of a group"),
    ],
)
def test_a_cell_without_a_group_is_named(tmp_path, rows, key, message):
    with pytest.raises(DataError, match=message):
        open_dataset(table(tmp_path, rows=rows), options=Options(group_keys=(key,)))
    assert len(open_dataset(table(tmp_path, rows=rows))) == len(rows)


@pytest.mark.parametrize("value", [True, 1.5, None, ["a"]])
def test_a_group_is_a_text_or_a_whole_number(tmp_path, value):
    row = json.dumps({"image": "0.png", "label": "a", "age": value})
    spec = table(tmp_path, "a.jsonl", [row], head="")
    with pytest.raises(DataError, match="a.jsonl:1: 'age' is .*, not the name of a group"):
        open_dataset(spec, options=Options(group_keys=("age",)))
