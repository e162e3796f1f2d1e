"""State dicts out of PyTorch's files and into them."""

import argparse
import collections
import json
import os
import zipfile

import ml_dtypes
import numpy as np
import pytest

from clip_jax.interop.torch import weight_file
from clip_jax.interop.torch.weight_file import WeightFileError

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
DTYPES = [*map(np.dtype, DTYPES), np.dtype(ml_dtypes.bfloat16)]


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, x in expected.items():
        assert found[name].shape == x.shape and found[name].dtype == x.dtype, name
        assert found[name].tobytes() == x.tobytes(), name


def random_tensors(dtype):
    rng = np.random.default_rng(0)
    shapes = {"weight": (3, 4, 5), "bias": (7,), "scale": (), "none": (0, 4), "one": (1, 1)}
    tensors = {name: rng.uniform(0, 100, shape).astype(dtype) for name, shape in shapes.items()}
    return tensors | {"transposed": tensors["weight"].T, "every.second": tensors["bias"][::-2]}


@pytest.fixture
def folder(goldens):
    return goldens / "A_model"


def test_the_files_of_one_model_agree(folder):
    plain = weight_file.read(folder / "import_vit" / "openai_plain_fp32.pt")
    checkpoint = weight_file.read(folder / "import_vit" / "openclip_train_ckpt.pt")
    assert_equal(
        {n: checkpoint[n] for n in sorted(checkpoint)}, {n: plain[n] for n in sorted(plain)}
    )
    archive = weight_file.read(folder / "import_vit" / "openai_jit_fp16.pt")
    sizes = {n: int(archive.pop(n)) for n in ("input_resolution", "context_length", "vocab_size")}
    assert sizes == {"input_resolution": 32, "context_length": 77, "vocab_size": 128}
    assert any(x.dtype == np.float16 for x in archive.values())
    assert_equal({n: archive[n].astype(np.float32) for n in plain}, plain)
    assert archive.keys() == plain.keys()


def test_the_files_of_a_resnet_agree(folder):
    plain = weight_file.read(folder / "import_rn" / "openclip_plain.pt")
    archive = weight_file.read(folder / "import_rn" / "openai_jit_fp16.pt")
    assert_equal({n: archive[n].astype(np.float32) for n in plain}, plain)


@pytest.mark.parametrize("name", ["import_vit", "import_rn"])
def test_names_shapes_and_dtypes_are_those_of_torch(folder, name):
    found = weight_file.read(folder / name / "openai_jit_fp16.pt")
    expected = json.loads((folder / name / "jit_keys.json").read_text())
    assert {n: [list(x.shape), str(x.dtype)] for n, x in found.items()} == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_written_is_read(tmp_path, dtype):
    tensors = random_tensors(dtype)
    weight_file.write(tmp_path / "a.pt", tensors)
    assert_equal(weight_file.read(tmp_path / "a.pt"), tensors)


def test_names_and_byte_orders_survive(tmp_path):
    names = ["visual.ln.weight", "ü", "模型.a", " ", "a/../../b", "x" * 900]
    tensors = {name: np.array([1.5, -2], ">f4") for name in names}
    weight_file.write(tmp_path / "a.pt", tensors)
    found = weight_file.read(tmp_path / "a.pt")
    assert_equal(found, {name: np.array([1.5, -2], np.float32) for name in names})
    weight_file.write(tmp_path / "a.pt", {"none": np.zeros((0,), np.int8)})
    assert weight_file.read(tmp_path / "a.pt")["none"].shape == (0,)


def test_writing_is_deterministic_and_aligned(tmp_path):
    tensors = random_tensors(np.float32)
    for name in ("a.pt", "other.pt"):
        weight_file.write(tmp_path / name, tensors)
    data = (tmp_path / "a.pt").read_bytes()
    assert data == (tmp_path / "other.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.testzip() is None
        assert archive.read("archive/version") == b"3\n"
        assert archive.read("archive/byteorder") == b"little"
        for number, x in enumerate(tensors.values()):
            offset = archive.getinfo(f"archive/data/{number}").header_offset
            start = offset + 30 + sum(np.frombuffer(data, "<u2", 2, offset + 26).tolist())
            assert start % 64 == 0 and data[start : start + x.nbytes] == x.tobytes()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": np.zeros(2, np.uint16)}, "a is uint16; convert it to one of float64, "),
        ({"a": np.zeros(2, np.complex64)}, "a is complex64"),
        ({"a": np.array(["x"])}, "a is <U1"),
        ({"": np.zeros(2)}, "'' is no name"),
        ({3: np.zeros(2)}, "3 is no name"),
    ],
)
def test_what_torch_cannot_hold_leaves_the_old_file(tmp_path, tensors, message):
    (tmp_path / "a.pt").write_bytes(b"old")
    with pytest.raises(WeightFileError, match=message):
        weight_file.write(tmp_path / "a.pt", tensors)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    (tmp_path / "a.pt").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        weight_file.write(tmp_path / "a.pt", {"a": np.zeros(2)})
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.",
                                    "_orig_mod.module."])  # fmt: skip
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_state_dicts_and_training_checkpoints(fake_torch, tmp_path, wrapper, prefix, kind):
    expected = {"a.weight": np.ones((2, 3), np.float32), "module.b": np.array(3)}
    obj = kind({prefix + n: fake_torch.tensor(x) for n, x in expected.items()})
    if wrapper:
        obj = {"epoch": 3, "name": "run", wrapper: obj}
    assert_equal(weight_file.read(fake_torch.save(tmp_path / "a.pt", obj)), expected)
    assert_equal(weight_file.read(fake_torch.save_legacy(tmp_path / "a.pt", obj)), expected)


def test_a_prefix_of_some_names_is_kept(fake_torch, tmp_path):
    expected = {"module.a": np.ones(2), "b": np.zeros(2)}
    obj = {n: fake_torch.tensor(x) for n, x in expected.items()}
    assert_equal(weight_file.read(fake_torch.save(tmp_path / "a.pt", obj)), expected)


def test_what_lies_beside_the_weights_is_ignored(fake_torch, tmp_path):
    expected = {"a": np.ones(2), "b": np.arange(3)}
    state = collections.OrderedDict((n, fake_torch.tensor(x)) for n, x in expected.items())
    state["version"] = 2
    obj = {
        "args": argparse.Namespace(
            lr=np.float64(0.1), device=fake_torch.made("torch.device", "cpu")
        ),
        "loss": np.float32(3),
        "dtype": fake_torch.name("torch.float16"),
        "size": fake_torch.made("torch.Size", [1, 2]),
        "optimizer": {"state": {0: {"exp_avg": fake_torch.tensor(np.ones(4))}}, "groups": [{}]},
        "state_dict": state,
        "model": {"layers": 12},
    }
    # A storage that is not asked for is not read either.
    path = fake_torch.save(tmp_path / "a.pt", obj, more={"data/2": b""})
    assert_equal(weight_file.read(path), expected)


def test_parameters(fake_torch, tmp_path):
    data, hooks = fake_torch.tensor(np.ones(2)), collections.OrderedDict()
    name = fake_torch.name
    plain = (fake_torch.storage(np.ones(2)), 0, (2,), (1,), True, hooks)
    obj = {
        "a": fake_torch.made("torch._utils._rebuild_parameter", data, True, hooks),
        "b": fake_torch.made("torch._utils._rebuild_parameter_with_state", data, True, hooks, {}),
        "c": fake_torch.made("torch._tensor._rebuild_from_type_v2",
                             name("torch._utils._rebuild_tensor_v2"),
                             name("torch.nn.parameter.Parameter"), plain, {"note": 1}),
    }  # fmt: skip
    found = weight_file.read(fake_torch.save(tmp_path / "a.pt", obj))
    assert_equal(found, {n: np.ones(2) for n in "abc"})


def test_views(fake_torch, tmp_path):
    base = np.arange(24, dtype=np.int32)
    storage = fake_torch.storage(base)
    obj = {
        "whole": fake_torch.view(storage, 0, (4, 6), (6, 1)),
        "transposed": fake_torch.view(storage, 0, (6, 4), (1, 6)),
        "part": fake_torch.view(storage, 7, (2, 3), (12, 2)),
        "repeated": fake_torch.view(storage, 3, (5, 2), (0, 1)),
        "scalar": fake_torch.view(storage, 23, (), ()),
        "empty": fake_torch.view(storage, 24, (0, 3), (3, 1)),
        "single": fake_torch.view(storage, 23, (1, 1), (2**40, 99)),
        "old": fake_torch.view(storage, 20, (2,), (3,), "_rebuild_tensor"),
    }
    found = weight_file.read(fake_torch.save(tmp_path / "a.pt", obj))
    grid = base.reshape(4, 6)
    expected = {
        "whole": grid, "transposed": grid.T, "part": base[[[7, 9, 11], [19, 21, 23]]],
        "repeated": np.tile(base[3:5], (5, 1)), "scalar": base[23],
        "empty": np.zeros((0, 3), np.int32), "single": base[23:].reshape(1, 1),
        "old": base[[20, 23]],
    }  # fmt: skip
    assert_equal(found, expected)
    assert np.shares_memory(found["whole"], found["part"])
    assert found["single"].flags.c_contiguous
    assert not any(x.flags.writeable for x in found.values())


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (7,), (1,)), (4, (3,), (1,)), (6, (), ()), (0, (2, 3), (4, 1)), (0, (2,), (2**62,)),
        (2**62, (1,), (1,)), (-1, (2,), (1,)), (5, (2,), (-1,)), (0, (-1,), (1,)), (0, (2,), ()),
        (0, (), (1,)), (0, (2**62,), (0,)), (0, (2**40, 0), (1, 1)), (0, (2**25,), (0,)),
        (0, (1,) * 33, (1,) * 33), (0, (2.0,), (1,)), (0, [2], [1]), ("0", (2,), (1,)),
        (0, (2**64,), (1,)), (True, (2,), (1,)), (0, (2**62,) * 32, (0,) * 32),
    ],
)  # fmt: skip
def test_a_tensor_outside_of_its_storage_is_refused(fake_torch, tmp_path, offset, shape, stride):
    storage = fake_torch.storage(np.arange(6.0))
    path = fake_torch.save(
        tmp_path / "a.pt", {"w": fake_torch.view(storage, offset, shape, stride)}
    )
    with pytest.raises(WeightFileError, match="a.pt: (w has|data.pkl has a tensor that is not)"):
        weight_file.read(path)


def test_tensors_that_share_a_few_numbers_are_refused(fake_torch, tmp_path):
    storage = fake_torch.storage(np.arange(6.0))
    one = fake_torch.view(storage, 0, (2**12, 2**12), (0, 0))
    path = fake_torch.save(tmp_path / "a.pt", {"w": one})
    assert weight_file.read(path)["w"].shape == (2**12, 2**12)
    path = fake_torch.save(tmp_path / "a.pt", {str(n): one for n in range(100)})
    with pytest.raises(WeightFileError, match="a.pt: has tensors of 1677721600 elements"):
        weight_file.read(path)


def test_a_lazy_view_is_refused(fake_torch, tmp_path):
    arguments = fake_torch.storage(np.ones(2)), 0, (2,), (1,), False, {}, {"neg": True}
    obj = {"a": fake_torch.made("torch._utils._rebuild_tensor_v2", *arguments)}
    with pytest.raises(WeightFileError, match="lazy view"):
        weight_file.read(fake_torch.save(tmp_path / "a.pt", obj))


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        ({}, "holds a dict"),
        ({"epoch": 3, "model": {"a": 1}}, r"holds a dict \['epoch', 'model'\]"),
        ([1, 2], "holds a list"),
        (None, "holds a NoneType"),
        ({"deep": {"deeper": {}}}, "save it with torch.save"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(fake_torch, tmp_path, obj, message):
    with pytest.raises(WeightFileError, match=message):
        weight_file.read(fake_torch.save(tmp_path / "a.pt", obj))
    path = fake_torch.save(tmp_path / "a.pt", {3: fake_torch.tensor(np.ones(2))})
    with pytest.raises(WeightFileError, match="no names"):
        weight_file.read(path)


def script_module(fake_torch, **attributes):
    return fake_torch.made("__torch__.a.___torch_mangle_3.Module", state=attributes)


def test_torchscript(fake_torch, tmp_path):
    proj = fake_torch.tensor(np.ones((2, 2), np.float16))
    scale = fake_torch.tensor(np.array(3))
    linear = script_module(fake_torch, weight=proj, training=False, names=["a"])
    root = script_module(
        fake_torch,
        training=True,
        block=script_module(fake_torch, **{"0": linear, "1": script_module(fake_torch)}),
        scale=scale,
        sizes=fake_torch.made("torch.jit._pickle.build_intlist", [1, 2]),
        tied=linear,
        unset=None,
    )
    path = fake_torch.save(tmp_path / "a.pt", root, more={"constants.pkl": fake_torch.dumps(())})
    expected = {"scale": np.array(3), "block.0.weight": np.ones((2, 2), np.float16)}
    assert_equal(weight_file.read(path), expected | {"tied.weight": expected["block.0.weight"]})


def test_modules_that_contain_themselves_are_refused(fake_torch, tmp_path):
    loop = script_module(fake_torch)
    loop.state = {"self": loop}
    path = fake_torch.save(tmp_path / "a.pt", loop)
    with pytest.raises(WeightFileError, match="attributes"):
        weight_file.read(path)
    diamond = script_module(fake_torch, a=1)
    for _ in range(60):
        diamond = script_module(fake_torch, a=diamond, b=diamond)
    path = fake_torch.save(tmp_path / "a.pt", diamond)
    with pytest.raises(WeightFileError, match="more than 100000 attributes"):
        weight_file.read(path)
