"""Files of NumPy: bfloat16 comes back, and no header is taken on its word."""

import io
import zipfile

import ml_dtypes
import numpy as np
import pytest

from clip_jax.interop import npz_file, weights
from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.write import write


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back(tmp_path, save):
    arrays = {
        "a/b": np.arange(6.0).reshape(2, 3), "fortran": np.asfortranarray(np.ones((3, 2))),
        "half": np.ones((2, 2), ml_dtypes.bfloat16) * 3, "scalar": np.array(2, np.int32),
        "none": np.zeros((0, 4), np.float32), "big": np.arange(3, dtype=">f4"),
    }  # fmt: skip
    arrays["fortran"][1, 0] = 5
    save(tmp_path / "a.npz", **arrays)
    found = npz_file.read(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].shape == array.shape and found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_bfloat16_of_big_vision(tmp_path, made):
    path = write(tmp_path / "model.npz", made("siglip"), "big_vision", "bfloat16")
    found = weights.read(path).variables["params"]["text_tower"]["projection"]["kernel"]
    want = made("siglip").variables["params"]["text_tower"]["projection"]["kernel"]
    np.testing.assert_array_equal(found, want.astype(ml_dtypes.bfloat16).astype(np.float32))


def packed(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def array(shape, descr="<f4", data=b"", fields=None):
    file = io.BytesIO()
    header = fields or {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


MAGIC = b"\x93NUMPY\x01\x00"
OBJECT = io.BytesIO()
np.save(OBJECT, np.array([{}]), allow_pickle=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (array((10**12,)), "has 0 bytes"),
        (array((10**30, 10**30, 0, 1)), ""),
        (array((-1,), data=b"abcd"), "bytes"),
        (array((2,), data=bytes(12)), "has 12 bytes"),
        (array((2,), "<U4", bytes(32)), "not numbers"),
        (array((2,), "|V4", bytes(8)), "not numbers"),
        (array((2,), "<c8", bytes(16)), "not numbers"),
        (OBJECT.getvalue(), "not numbers"),
        (b"abc", ""),
        (b"\x93NUMPY\x09\x00" + bytes(100), "version"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", ""),
        (MAGIC + b"\xff\x0f" + b"(" * 4095, ""),
        (MAGIC + b"\x04\x00" + b"1234", ""),
    ],
)
def test_what_is_no_array(tmp_path, data, message):
    path = packed(tmp_path / "a.npz", **{"params/img/x.npy": data})
    with pytest.raises(LayoutError, match=rf"a.npz is not a whole .npz file.*{message}"):
        weights.read(path)


def test_other_members_and_damage(tmp_path):
    with pytest.raises(LayoutError, match="a.txt is not an array"):
        weights.read(packed(tmp_path / "a.npz", **{"a.txt": b"abc"}))
    zeros = array((10**7,), "|u1", bytes(10**7))
    with pytest.raises(LayoutError, match="bytes claim to hold 1000"):
        weights.read(packed(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, **{"a.npy": zeros}))
    noise = np.random.default_rng(0).normal(size=2000).astype(np.float32)
    np.savez_compressed(tmp_path / "a.npz", a=noise)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    for place in range(0, len(data), 97):
        damaged = data.copy()
        damaged[place] ^= 0xFF
        (tmp_path / "a.npz").write_bytes(damaged)
        try:
            found = npz_file.read(tmp_path / "a.npz")
        except ValueError:
            continue
        assert list(found) == ["a"] and np.array_equal(found["a"], noise)
