"""NumPy's ``.npz`` files, as big_vision writes them, read with nothing taken on their word.

``numpy.load`` allocates what the header of an array claims before it looks for the numbers, and
does not know bfloat16, which it writes as two bytes without a meaning.
"""

import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_BFLOAT16 = np.dtype("V2")  # what numpy makes of it
# Compression saves weights a tenth; zeros can be packed a thousand times as dense.
_MOST_UNPACKED = 50


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All arrays of a file, by name.

    Raises:
      OSError: there is no such file.
      ValueError: it is damaged, holds something other than arrays of numbers, or claims more than
        it holds.
    """
    size = Path(path).stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            unpacked = sum(m.file_size for m in members)
            if unpacked > _MOST_UNPACKED * size:
                raise ValueError(f"{size} bytes claim to hold {unpacked}")
            tensors = {}
            for member in members:
                with archive.open(member) as file:
                    tensors[member.filename.removesuffix(".npy")] = _array(member, file)
            return tensors
    except (
        zipfile.BadZipFile, EOFError, OSError, RuntimeError, SyntaxError, TypeError, KeyError,
        MemoryError, OverflowError, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError,
    ) as error:  # fmt: skip
        raise ValueError(f"{type(error).__name__}: {str(error)[:200]}") from error


def _array(member: zipfile.ZipInfo, file: BinaryIO) -> np.ndarray:
    name = member.filename[:200]
    if not member.filename.endswith(".npy"):
        raise ValueError(f"{name} is not an array")
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"{name} has version {version} of the format")
    shape, fortran, dtype = _HEADERS[version](file)
    if dtype == _BFLOAT16:
        dtype = np.dtype(ml_dtypes.bfloat16)
    elif dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {dtype}, not numbers")
    there = member.file_size - file.tell()
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != there:
        raise ValueError(f"{name} is {dtype}{list(shape)}, but has {there} bytes")
    data = file.read()  # also compares the checksum
    array = np.frombuffer(data, dtype)
    return array.reshape(shape, order="F" if fortran else "C")
