"""The two containers of PyTorch's weight files: where the pickle is and where the numbers are.

Storages are read one at a time and only when asked for, so that a training checkpoint costs no
memory for its optimizer state.
"""

import contextlib
import io
import os
import re
import struct
import sys
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from clip_jax.interop.torch import unpickler
from clip_jax.interop.torch.objects import Storage, Unreadable
from clip_jax.interop.torch.unpickler import LARGEST_PICKLE

_CHUNK = 2**22  # bytes: what reading needs beside the result
_MAGIC = 0x1950A86A20F9469CFC6C
_ZIP_START = b"PK\x03\x04"
_DATA = re.compile(r"[^/]+/data\.pkl")


@contextlib.contextmanager
def _damage(record: str) -> Iterator[None]:
    """Turns what zipfile and the file system raise on damaged data into one error."""
    try:
        yield
    except Unreadable:
        raise
    except (
        zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, OverflowError, struct.error
    ) as error:  # fmt: skip
        reason = str(error)[:200] or type(error).__name__
        raise Unreadable(f"{record} is damaged or truncated ({reason}); fetch it again") from error


def _fill(data: np.ndarray, source: BinaryIO) -> None:
    view = memoryview(data)
    done = 0
    while done < len(view):
        count = source.readinto(view[done : done + _CHUNK])
        if not count:
            raise EOFError(f"{len(view) - done} bytes are missing")
        done += count


class ZipContainer:
    """What torch.save writes since PyTorch 1.6, and TorchScript archives.

    Attributes:
      root: the saved object, as ``unpickler.load`` returns it.
      byteorder: "little" or "big".
    """

    def __init__(self, file: BinaryIO):
        self._size = file.seek(0, os.SEEK_END)
        with _damage("the zip directory"):
            self._zip = zipfile.ZipFile(file)
            self._check_members()
        pickles = [name for name in self._members if _DATA.fullmatch(name)]
        if len(pickles) != 1:
            raise Unreadable(
                f"is a zip file with {len(pickles)} data.pkl records, where torch.save writes one; "
                "save the state dict with torch.save (PyTorch 1.6 or newer)"
            )
        self._folder = pickles[0].removesuffix("data.pkl")
        order = self._folder + "byteorder"
        self.byteorder = "little"  # older files do not say: PyTorch wrote them on such machines
        if order in self._members:
            self.byteorder = self._read(order).tobytes().decode("latin-1")
        if self.byteorder not in ("little", "big"):
            raise Unreadable(f"has the byte order {self.byteorder[:20]!r}; fetch the file again")
        # TorchScript's constants hold no weights; they are only looked through.
        if self._folder + "constants.pkl" in self._members:
            self._load("constants.pkl")
        self.root = self._load("data.pkl")

    def _check_members(self) -> None:
        """Compares the directory with the header of every member: no checksum covers the names."""
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if info.filename in self._members:
                raise Unreadable(f"has two records {info.filename[:200]}; save it again")
            self._members[info.filename] = info
            self._zip.open(info).close()
        if sum(info.compress_size for info in self._members.values()) > self._size:
            raise Unreadable("has records that overlap; fetch the file again")

    def _load(self, name: str) -> object:
        data = self._read(self._folder + name, LARGEST_PICKLE)
        return unpickler.load(io.BytesIO(data), name)[0]

    def _read(self, name: str, most: int | None = None) -> np.ndarray:
        info = self._members.get(name)
        if info is None:
            raise Unreadable(f"has no record {name[:200]}; fetch or save the file again")
        if info.compress_type != zipfile.ZIP_STORED:
            raise Unreadable(f"has {name} compressed, which PyTorch never does; repack with zip -0")
        if info.file_size > min(self._size, most or self._size):
            raise Unreadable(f"has {name} with {info.file_size} bytes, too many; fetch it again")
        data = np.empty(info.file_size, np.uint8)
        with _damage(name), self._zip.open(info) as member:
            _fill(data, member)
            member.read(1)  # zipfile compares the checksum when it meets the end
        return data

    def storage(self, storage: Storage) -> np.ndarray:
        """The bytes of a storage as they lie in the file: uint8[n].

        Raises:
          Unreadable: they are missing or damaged.
        """
        return self._read(f"{self._folder}data/{storage.key}")


class LegacyContainer:
    """What torch.save wrote before PyTorch 1.6: pickles, then the storages, without checksums.

    Attributes: as ``ZipContainer``.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        file.seek(0)
        head = io.BytesIO(file.read(LARGEST_PICKLE))
        names = ("magic number", "protocol", "system", "data", "storage keys")
        magic, protocol, system, data, keys = (unpickler.load(head, n) for n in names)
        if magic[0] != _MAGIC or protocol[0] != 1001 or not isinstance(system[0], dict):
            raise Unreadable("is a pickle, but not one of torch.save; save it with torch.save")
        self.byteorder = "little" if system[0].get("little_endian", True) else "big"
        self.root, storages = data
        self._places = self._find(head.tell(), keys[0], storages)

    def _find(self, position: int, keys: object, storages: dict[str, Storage]) -> dict:
        """Key of a storage -> where its numbers start, and how many bytes they are."""
        size = self._file.seek(0, os.SEEK_END)
        places = {}
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise Unreadable("has no list of storages; fetch the file again")
        for key in keys:
            self._file.seek(position)
            count = int.from_bytes(self._file.read(8), self.byteorder)
            if key not in storages or count != storages[key].numel:
                raise Unreadable(f"storage {key[:200]} has another size than the data says; "
                                 "fetch the file again")  # fmt: skip
            places[key] = (position + 8, count * storages[key].dtype.itemsize)
            position += 8 + places[key][1]
        if position != size:
            raise Unreadable(f"has {size} bytes and should have {position}; fetch the file again")
        return places

    def storage(self, storage: Storage) -> np.ndarray:
        """The bytes of a storage as they lie in the file: uint8[n].

        Raises:
          Unreadable: they are missing.
        """
        if storage.key not in self._places:
            raise Unreadable(f"has no storage {storage.key[:200]}; fetch the file again")
        start, size = self._places[storage.key]
        data = np.empty(size, np.uint8)
        self._file.seek(start)
        with _damage(f"storage {storage.key}"):
            _fill(data, self._file)
        return data


Container = ZipContainer | LegacyContainer


def read_container(file: BinaryIO) -> Container:
    """Tells the formats apart by the first bytes.

    Raises:
      Unreadable: it is neither, or it is damaged.
    """
    start = file.read(4)
    if start == _ZIP_START:
        return ZipContainer(file)
    if start[:1] == b"\x80":
        return LegacyContainer(file)
    raise Unreadable(
        f"is not a PyTorch file (it begins with {start!r}); give a file that torch.save or "
        "torch.jit.save wrote"
    )


def native_bytes(data: np.ndarray, itemsize: int, byteorder: str) -> np.ndarray:
    """Numbers in this machine's byte order, in place: uint8[n] -> uint8[n]."""
    if itemsize > 1 and byteorder != sys.byteorder:
        data.view(f"u{itemsize}").byteswap(inplace=True)
    return data
