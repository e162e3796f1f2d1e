"""The pickle machine: it executes nothing, and damage or malice ends in one kind of error."""

import argparse
import collections
import datetime
import io
import os
import pickle
import shutil
import struct
import tracemalloc

import numpy as np
import pytest

from clip_jax.interop.torch import unpickler, weight_file
from clip_jax.interop.torch.objects import Record, Storage, Unreadable
from clip_jax.interop.torch.weight_file import WeightFileError


def load(data):
    return unpickler.load(io.BytesIO(data), "data.pkl")[0]


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_those_of_pickle(protocol):
    big = 2**70
    value = {
        "a": [1, -1, 300, 70000, big, -big, 2.5, None, True, False],
        3: ("x", (), (1,)),
        "": {},
    }
    value |= {"long": tuple(range(20)), "text": "ü" * 300, (1, "b"): [[]], "d": (1, 2)}
    assert load(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(2, 6))
def test_objects_beside_the_weights_are_inert(protocol):
    value = {
        "namespace": argparse.Namespace(lr=1.0, names=["a"]),
        "scalar": np.float64(3),
        "array": np.arange(5),
        "when": datetime.datetime(2021, 1, 1),
        "default": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("aab"),
        "set": {1, 2},
        "ordered": collections.OrderedDict(b=1, a=2),
    }
    found = load(pickle.dumps(value, protocol))
    kinds = {key: type(x) for key, x in found.items()}
    assert kinds.pop("ordered") is kinds.pop("default") is dict
    assert kinds.pop("set") in (list, Record)  # protocol 2 and 3 call set([1, 2])
    assert set(kinds.values()) == {Record}
    assert found["ordered"] == {"b": 1, "a": 2} and found["default"] == {"a": [1]}
    assert found["namespace"].state == {"lr": 1.0, "names": ["a"]}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (shutil.rmtree, "shutil.rmtree"),
        (eval, "builtins.eval"),
        (getattr, "builtins.getattr"),
        (open, "io.open"),
        (pickle.loads, "_?pickle.loads"),
    ],
)
def test_a_call_of_anything_else_is_refused_by_name(tmp_path, function, name, protocol):
    marker = tmp_path / "marker"
    data = pickle.dumps({"a": [Hostile(function, f"touch {marker}")]}, protocol)
    if protocol < 3:
        name = name.replace("builtins", "__builtin__")
    with pytest.raises(Unreadable, match=rf"data.pkl refers to {name}, .*nothing was executed"):
        load(data)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    ["os.system", "torch.load", "torch.hub.load", "torch._utils._rebuild_qtensor", "__torch.A",
     "torch.ComplexFloatStorage", "numpy.load", "collections.namedtuple", "builtins.type"],
)  # fmt: skip
def test_a_name_is_refused_even_where_nothing_calls_it(name):
    module, _, member = name.rpartition(".")
    with pytest.raises(Unreadable, match=f"refers to {name},"):
        load(f"\x80\x02c{module}\n{member}\n.".encode("latin-1"))


@pytest.mark.parametrize(
    "data",
    [
        b"cbuiltins\nobject\n(dR.",  # a call with a dict
        b"](tR.",  # a call of a list
        b"ccollections\nOrderedDict\n}b.",  # a state given to a name
        b"]}b.",  # a state given to a list
        b"cbuiltins\nobject\n(Vx\nVy\nu.",  # items set on a name
        b"}(Vx\nu.",  # a key without a value
        b"}]Vy\ns.",  # a list as a key
        b"})\x85\x85Vy\ns.",  # tuples in tuples as a key
        b"ccollections\nOrderedDict\n(I1\ntR.",
        b"ccollections\nOrderedDict\n(](]]etR.",
        b"]]\x93.",  # a name made of lists
        b"(.", b"1.", b"0.", b".", b"R.", b"h\x00.", b"t.", b"\x85.", b"2.",
        b"(i__main__\nX\n.", b"(c__main__\nX\no.", b"\x82\x01.", b"Vx\nQ.", b"Pkey\n.", b"\xff.",
    ],
)  # fmt: skip
def test_a_malformed_pickle_is_an_error(data):
    with pytest.raises(Unreadable, match=r"^data.pkl "):
        load(b"\x80\x02" + data)


def test_every_truncation_is_an_error():
    data = pickle.dumps({"a": [1, "b", (2.5, None)], "c": {"d": 2**40}}, 2)
    for end in range(len(data)):
        with pytest.raises(Unreadable):
            load(data[:end])


def test_nesting_does_not_overflow():
    depth = 100_000
    for data in (b"]" * depth + b"a" * (depth - 1), b")" + b"\x85" * depth):
        load(b"\x80\x02" + data + b".")
    key = b")" + b"\x85" * depth
    for data in (b"}" + key + b"Ns", b"}(" + key + b"Nu", b"\x8f(" + key + b"\x90h\x07"):
        with pytest.raises(Unreadable):
            load(b"\x80\x02" + data + b".")


def test_a_few_bytes_cannot_claim_much_memory():
    assert load(b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b".") is None
    claims = [
        b"\x8d" + struct.pack("<Q", 2**62), b"\x8e" + struct.pack("<Q", 2**40),
        b"X" + struct.pack("<I", 2**31), b"\x8b" + struct.pack("<i", 2**30),
    ]  # fmt: skip
    for claim in claims:
        with pytest.raises(Unreadable):
            load(b"\x80\x04" + claim + b"abc.")


def whole(data):
    """Opcodes as a whole pickle."""
    return b"\x80\x02" + data + b"."


NONES = b"](" + b"N" * 50_000 + b"eq\x000"  # a list of them, in memo 0
TUPLE = b"(" + b"N" * 50_000 + b"tq\x000"
TEXT = b"X" + struct.pack("<I", 10**6) + b"x" * 10**6


@pytest.mark.parametrize(
    "data",
    [
        # Each round of a few bytes copies a list that was met before.
        NONES + b"ctorch\nSize\nq\x010](" + b"h\x01h\x00\x85R" * 100 + b"e",
        TUPLE + b"ctorch\nSize\nq\x010](" + b"h\x01h\x00\x85R" * 100 + b"e",
        b"](" + b"K\x01K\x02\x86" * 20_000 + b"eq\x000ccollections\nOrderedDict\nq\x010]("
        + b"h\x01h\x00\x85R" * 100 + b"e",
        # So does a text of which a tuple is made, and one that is put into a name.
        TEXT + b"q\x000ctorch\nSize\nh\x00\x85R",
        b"X\x09\x00\x00\x00__torch__q\x000" + TEXT + b"q\x010](" + b"h\x00h\x01\x93" * 100 + b"e",
        # And these walk through a long tuple each time.
        TUPLE + b"}(" + b"h\x00N" * 1000 + b"u",
        TUPLE + b"](" + b"ctorch._utils\n_rebuild_parameter\nh\x00R" * 1000 + b"e",
    ],
)  # fmt: skip
def test_what_was_met_before_cannot_be_multiplied(data, monkeypatch):
    monkeypatch.setattr(unpickler, "_MOST_COPIED", 100_000)
    tracemalloc.start()
    with pytest.raises(Unreadable):
        load(whole(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Of the widest case: the copied elements that are allowed here, and the pickle itself.
    assert peak < 30e6


def test_a_long_integer_is_no_key():
    with pytest.raises(Unreadable, match="not a plain value"):
        load(whole(b"}\x8a\xff" + b"\x01" * 255 + b"Ns"))


def test_the_number_of_steps_is_bounded(monkeypatch):
    monkeypatch.setattr(unpickler, "_MOST_STEPS", 1000)
    load(whole(b"]" * 900))
    with pytest.raises(Unreadable, match="more than 1000 steps"):
        load(whole(b"]" * 1100))


def storage_reference(kind="FloatStorage", key="0", numel=4, *, tag="storage", more=()):
    items = b"".join(pickle.dumps(x, 2)[2:-1] for x in (tag,))
    items += f"ctorch\n{kind}\n".encode()
    items += b"".join(pickle.dumps(x, 2)[2:-1] for x in (key, "cpu", numel, *more))
    return b"\x80\x02(" + items + b"tQ."


def test_storages_are_references():
    storage = load(storage_reference())
    assert isinstance(storage, Storage)
    assert (storage.key, storage.dtype, storage.numel) == ("0", np.float32, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"tag": "module"},
        {"kind": "Size"},
        {"key": 0},
        {"numel": -1},
        {"numel": 2**63},
        {"numel": True},
        {"numel": "4"},
        {"more": [("1", 0, 2)]},
    ],
)
def test_other_references_are_refused(changes):
    with pytest.raises(Unreadable, match="storage"):
        load(storage_reference(**changes))


def test_a_hostile_file_is_refused_and_runs_nothing(fake_torch, tmp_path):
    marker = tmp_path / "marker"
    bad, good = Hostile(os.system, f"touch {marker}"), fake_torch.tensor(np.ones(2))
    script = fake_torch.made("__torch__.model.Clip", state={"a": good})
    hooked = fake_torch.made("__torch__.model.Clip", state={"a": good, "hook": bad})
    checkpoint = {"state_dict": {"a": good}, "optimizer": {"state": [{"deep": (1, [bad])}]}}
    cases = [
        ({"a": good, "b": bad}, {}),
        (checkpoint, {}),
        (hooked, {}),
        (script, {"constants.pkl": fake_torch.dumps((good, bad))}),
        ({"a": fake_torch.made("torch._utils._rebuild_parameter", good, bad, {})}, {}),
    ]
    for obj, more in cases:
        path = fake_torch.save(tmp_path / "a.pt", obj, more=more)
        with pytest.raises(WeightFileError, match=r"a\.pt: .*posix\.system.*nothing was executed"):
            weight_file.read(path)
    with pytest.raises(WeightFileError, match="posix.system"):
        weight_file.read(fake_torch.save_legacy(tmp_path / "a.pt", checkpoint))
    assert not marker.exists()
