"""Damage to the containers: an error or the right numbers, never wrong ones and never a crash."""

import copy
import random
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from clip_jax.interop.torch import weight_file
from clip_jax.interop.torch.weight_file import WeightFileError

GOLDENS = [
    "import_vit/openai_plain_fp32.pt",
    "import_vit/openclip_train_ckpt.pt",
    "import_vit/openai_jit_fp16.pt",
    "import_rn/openai_jit_fp16.pt",
    "import_rn/openclip_plain.pt",
]
TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(5, dtype=np.float16),
    "c": np.array(7),
}


def contents(path):
    tensors = weight_file.read(path)
    return {name: (x.dtype, x.shape, x.tobytes()) for name, x in tensors.items()}


@pytest.fixture(scope="module", params=["ours", *GOLDENS])
def whole(request, tmp_path_factory):
    """The bytes of a file, where its records that are not numbers lie, and what it holds."""
    if request.param == "ours":
        path = tmp_path_factory.mktemp("ours") / "a.pt"
        weight_file.write(path, TENSORS)
    else:
        path = request.getfixturevalue("goldens") / "A_model" / request.param
    with zipfile.ZipFile(path) as archive:
        places = list(range(archive.start_dir, path.stat().st_size))
        for info in archive.infolist():
            number = info.filename.rpartition("/")[2].isdigit()
            size = 30 + len(info.filename) + (0 if number else info.file_size)
            places += range(info.header_offset, info.header_offset + size)
    return path.read_bytes(), places, contents(path)


def test_a_truncated_file_is_refused(whole, tmp_path):
    data, _, _ = whole
    path = tmp_path / "cut.pt"
    ends = {len(data) * i // 16 for i in range(16)} | {*range(5), len(data) - 1, len(data) - 22}
    for end in sorted(ends):
        path.write_bytes(data[:end])
        with pytest.raises(WeightFileError, match="cut.pt"):
            weight_file.read(path)


def test_a_flipped_bit_is_refused_or_harmless(whole, tmp_path):
    data, places, expected = whole
    path = tmp_path / "flipped.pt"
    rng = random.Random(0)
    chosen = rng.sample(places, 70) + [rng.randrange(len(data)) for _ in range(30)]
    refused = 0
    for place in chosen:
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert contents(path) == expected, place
        except WeightFileError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 15


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        weight_file.read(tmp_path / "absent.pt")
    with pytest.raises(IsADirectoryError):
        weight_file.read(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"version https://git-lfs.github.com/spec/v1\n", b"<html>", bytes(600)]
)
def test_another_kind_of_file_is_refused(tmp_path, data):
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(WeightFileError, match=r"a\.pt: is not a PyTorch file \(it begins with"):
        weight_file.read(tmp_path / "a.pt")


def test_a_zip_file_of_another_kind_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("model.json", b"{}")
    with pytest.raises(WeightFileError, match="0 data.pkl records"):
        weight_file.read(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("b/data.pkl", b"\x80\x02}.")
    with pytest.raises(WeightFileError, match="2 data.pkl records"):
        weight_file.read(tmp_path / "a.pt")


def test_two_records_of_one_name_are_refused(tmp_path):
    weight_file.write(tmp_path / "a.pt", TENSORS)
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive, pytest.warns(UserWarning):
        archive.writestr("archive/data/0", bytes(24))
    with pytest.raises(WeightFileError, match="two records archive/data/0"):
        weight_file.read(tmp_path / "a.pt")


def test_compressed_numbers_are_refused(fake_torch, tmp_path):
    obj = {"a": fake_torch.tensor(np.zeros(1000, np.float32))}
    path = fake_torch.save(tmp_path / "a.pt", obj)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    with pytest.raises(WeightFileError, match="byteorder compressed.*zip -0"):
        weight_file.read(path)


def test_a_record_that_claims_a_huge_size_is_refused(tmp_path):
    weight_file.write(tmp_path / "a.pt", {"a": np.zeros(4, np.float32)})
    data = bytearray((tmp_path / "a.pt").read_bytes())
    entry = data.rindex(b"archive/data/0") - 46
    assert data[entry : entry + 4] == b"PK\x01\x02"
    for sizes in ((16, 2**31), (2**31, 2**31), (17, 17)):
        data[entry + 20 : entry + 28] = struct.pack("<II", *sizes)
        (tmp_path / "b.pt").write_bytes(data)
        with pytest.raises(WeightFileError, match="b.pt"):
            weight_file.read(tmp_path / "b.pt")


@pytest.mark.parametrize("numel", [0, 3, 5, 2**40])
def test_a_storage_of_another_size_than_declared_is_refused(fake_torch, tmp_path, numel):
    storage = fake_torch.storage(np.arange(4.0, dtype=np.float32), numel)
    obj = {"visual.proj": fake_torch.view(storage, 0, (min(numel, 1),), (1,))}
    path = fake_torch.save(tmp_path / "a.pt", obj)
    with pytest.raises(WeightFileError, match="a.pt: visual.proj: storage 0 has 16 bytes, not"):
        weight_file.read(path)
    path = fake_torch.save_legacy(tmp_path / "a.pt", obj)
    with pytest.raises(WeightFileError, match="a.pt: storage 0 has another size"):
        weight_file.read(path)


def test_each_tensor_of_a_shared_storage_is_checked(fake_torch, tmp_path):
    storage = fake_torch.storage(np.arange(4.0, dtype=np.float32))
    claim = copy.copy(storage)
    claim.numel = 1000
    obj = {
        "a": fake_torch.view(storage, 0, (4,), (1,)),
        "b": fake_torch.view(claim, 100, (4,), (1,)),
    }
    with pytest.raises(WeightFileError, match="a.pt: b: storage 0 has 16 bytes, not 1000"):
        weight_file.read(fake_torch.save(tmp_path / "a.pt", obj))
    with pytest.raises(WeightFileError, match="a.pt: storage 0 has another size"):
        weight_file.read(fake_torch.save_legacy(tmp_path / "a.pt", obj))


def test_a_missing_storage_is_refused(fake_torch, tmp_path):
    obj = {"a": fake_torch.tensor(np.zeros(3, np.float32))}
    fake_torch.storages.clear()
    with pytest.raises(WeightFileError, match="has no record model/data/0"):
        weight_file.read(fake_torch.save(tmp_path / "a.pt", obj))
    with pytest.raises(WeightFileError, match="has no storage 0"):
        weight_file.read(fake_torch.save_legacy(tmp_path / "a.pt", obj))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int16", "uint8"])
@pytest.mark.parametrize("byteorder", ["little", "big", None])
def test_byte_orders(fake_torch, tmp_path, dtype, byteorder):
    expected = np.arange(1, 7).astype(dtype).reshape(2, 3)
    obj = {"a": fake_torch.tensor(expected), "b": fake_torch.tensor(expected.T.copy())}
    found = weight_file.read(fake_torch.save(tmp_path / "a.pt", obj, byteorder))
    assert found["a"].dtype == expected.dtype and found["a"].dtype.isnative
    np.testing.assert_array_equal(found["a"], expected)
    np.testing.assert_array_equal(found["b"], expected.T)


def test_an_unknown_byte_order_is_refused(fake_torch, tmp_path):
    obj = {"a": fake_torch.tensor(np.zeros(3, np.float32))}
    path = fake_torch.save(tmp_path / "a.pt", obj, more={"byteorder": b"middle"})
    with pytest.raises(WeightFileError, match="byte order 'middle'"):
        weight_file.read(path)


def test_the_format_before_1_6(fake_torch, tmp_path):
    weight = np.arange(12, dtype=np.float16).reshape(3, 4)
    shared = fake_torch.storage(np.arange(5.0).astype(ml_dtypes.bfloat16))
    obj = {
        "a": fake_torch.tensor(weight),
        "b": fake_torch.view(shared, 1, (2,), (2,), "_rebuild_tensor"),
        "c": fake_torch.view(shared, 0, (), ()),
        "step": 3,
    }
    path = fake_torch.save_legacy(tmp_path / "a.pt", obj)
    found = weight_file.read(path)
    assert list(found) == ["a", "b", "c"]
    np.testing.assert_array_equal(found["a"], weight)
    assert found["b"].tolist() == [1, 3] and found["c"].shape == ()
    data = path.read_bytes()
    for damaged in (data + b"\0", *(data[: len(data) * i // 64] for i in range(64)), data[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(WeightFileError, match="a.pt"):
            weight_file.read(path)


def test_a_pickle_that_torch_did_not_write_is_refused(fake_torch, tmp_path):
    data = b"".join(fake_torch.dumps(x) for x in (1, 1001, {}, {}, []))
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(WeightFileError, match="a pickle, but not one of torch.save"):
        weight_file.read(tmp_path / "a.pt")
