"""PyTorch weight files (``.pt``, ``.pth``, ``.bin``), read and written without PyTorch.

Reading executes nothing that the file says, and never gives damaged weights back: the checksums
of the zip format are verified. (The format from before PyTorch 1.6 has none.)
"""

import contextlib
import math
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from clip_jax.interop.torch.container import Container, native_bytes, read_container
from clip_jax.interop.torch.objects import DTYPES, Record, Storage, Tensor, Unreadable
from clip_jax.runtime import distributed
from clip_jax.runtime.atomic import whole_file

_WRAPPERS = ("state_dict", "model_state_dict", "model")  # entries of training checkpoints
_PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile
# A few bytes must not claim terabytes: modules may contain each other, strides may be 0.
_LONGEST_NAME = 1000
_MOST_ATTRIBUTES = 100_000
_MOST_REPEATED = 2**24
_MOST_SHARED = 8  # tied layers are several tensors on one storage
_ALIGNMENT = 64  # bytes; as torch.save does, so that a mapped file can be used in place
_STORAGE_NAMES = {dtype: name.removeprefix("torch.") for name, dtype in DTYPES.items()}


class WeightFileError(ValueError):
    """A file that is not a whole, harmless PyTorch weight file; the message says which and why."""

    exit_code = distributed.BAD_DATA


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the state dict of a PyTorch file, and ignores all else in it.

    The file may hold a state dict; a training checkpoint with one under ``state_dict``,
    ``model_state_dict`` or ``model``; or, as OpenAI's published models, a TorchScript archive,
    whose state dict is every tensor among its modules' attributes. ``module.`` and
    ``_orig_mod.`` are stripped where every name begins with them.

    Returns:
      Name -> array, in the file's order, with the tensor's shape and dtype (floats, bfloat16,
      integers, bool). The arrays are read-only, may be strided, and share memory where the
      tensors did.

    Raises:
      OSError: there is no such file, or it cannot be opened.
      WeightFileError: the file is damaged, of another kind, without a state dict, or it refers to
        something that weights do not need.
    """
    with _opened(path) as container:
        tensors = _state_dict(container.root)
        for name, tensor in tensors.items():
            _check_extent(name, tensor)
        _check_total(tensors)
        storages: dict[tuple[str, int], np.ndarray] = {}
        return {n: _array(n, t, container, storages) for n, t in tensors.items()}


def names(path: str | os.PathLike) -> list[str]:
    """The names that ``read`` would return, without the numbers; raises as it does."""
    with _opened(path) as container:
        return list(_state_dict(container.root))


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Container]:
    """Names the file in whatever is raised about its contents."""
    with open(path, "rb") as file:
        try:
            yield read_container(file)
        except Unreadable as error:
            raise WeightFileError(f"{os.fspath(path)}: {error}") from error


def _state_dict(root: object) -> dict[str, Tensor]:
    if isinstance(root, Record):
        tensors = _attributes(root)
    elif isinstance(root, dict):
        candidates = [root.get(key) for key in _WRAPPERS] + [root]
        tensors = next(filter(None, map(_tensors, candidates)), {})
    else:
        tensors = {}
    if not tensors:
        keys = [key[:50] for key in root if isinstance(key, str)] if isinstance(root, dict) else []
        raise Unreadable(
            f"holds a {type(root).__name__} {keys[:5]} and no tensors at its top or under "
            f"{', '.join(_WRAPPERS)}; save it with torch.save(model.state_dict(), path)"
        )
    return _without_prefixes(tensors)


def _tensors(candidate: object) -> dict[str, Tensor]:
    if not isinstance(candidate, dict):
        return {}
    tensors = {name: value for name, value in candidate.items() if isinstance(value, Tensor)}
    if not all(isinstance(name, str) and name for name in tensors):
        raise Unreadable("has tensors under keys that are no names; save model.state_dict() alone")
    return tensors


def _attributes(root: Record) -> dict[str, Tensor]:
    """Dotted path -> tensor, for a tree of TorchScript modules."""
    tensors: dict[str, Tensor] = {}
    pending, seen = [("", root)], 0
    while pending:
        prefix, module = pending.pop()
        state = module.state if isinstance(module.state, dict) else {}
        children = []
        for name, value in state.items():
            if not isinstance(value, Tensor | Record):
                continue
            seen += 1
            if not isinstance(name, str) or len(prefix) + len(name) > _LONGEST_NAME:
                raise Unreadable(
                    "has attributes without a name of reasonable length; save it again"
                )
            if seen > _MOST_ATTRIBUTES:
                raise Unreadable(f"has more than {_MOST_ATTRIBUTES} attributes; save it again")
            if isinstance(value, Tensor):
                tensors[prefix + name] = value
            else:
                children.append((f"{prefix}{name}.", value))
        pending.extend(reversed(children))
    return tensors


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES * 2:  # either may be around the other
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _check_extent(name: str, tensor: Tensor) -> None:
    """Refuses a tensor that reaches outside of its storage, or repeats it beyond reason."""
    shape, stride, numel = tensor.shape, tensor.stride, tensor.storage.numel
    if len(shape) != len(stride) or len(shape) > 32:
        problem = f"{len(shape)} dimensions and {len(stride)} strides"
    elif math.prod(d or 1 for d in shape) > max(numel, _MOST_REPEATED):
        problem = f"the shape {shape} on a storage of {numel}"
    else:
        last = tensor.offset + sum((d - 1) * s for d, s in zip(shape, stride, strict=True))
        if not math.prod(shape) or last < numel:
            return
        problem = f"element {last} on a storage of {numel}"
    raise Unreadable(f"{name[:200]} has {problem}; fetch or save the file again")


def _check_total(tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors that share and repeat a few numbers until they fill the memory.

    As arrays they cost nothing yet, but every copy of them does.
    """
    stored = sum({t.storage.key: t.storage.numel for t in tensors.values()}.values())
    claimed = sum(math.prod(t.shape) for t in tensors.values())
    if claimed > _MOST_SHARED * stored + _MOST_REPEATED:
        raise Unreadable(
            f"has tensors of {claimed} elements that share storages of {stored}; clone them "
            "before saving"
        )


def _array(name: str, tensor: Tensor, container: Container, loaded: dict) -> np.ndarray:
    """The array of a checked tensor; ``loaded`` keeps the storages that others may share."""
    storage = tensor.storage
    data = _storage(name, storage, container, loaded)
    if not math.prod(tensor.shape):
        array = np.empty(tensor.shape, storage.dtype)
    else:
        # PyTorch leaves the stride of a dimension of 1 undefined.
        stride = [s if d > 1 else 1 for d, s in zip(tensor.shape, tensor.stride, strict=True)]
        offset, *strides = [storage.dtype.itemsize * s for s in (tensor.offset, *stride)]
        array = np.ndarray(tensor.shape, storage.dtype, data, offset, strides)
    array.flags.writeable = False
    return array


def _storage(name: str, storage: Storage, container: Container, loaded: dict) -> np.ndarray:
    itemsize = storage.dtype.itemsize
    key = (storage.key, itemsize)
    data = loaded[key] if key in loaded else container.storage(storage)
    # Also where it is shared: each tensor states again how large the storage is.
    if data.nbytes != storage.numel * itemsize:
        raise Unreadable(
            f"{name[:200]}: storage {storage.key[:200]} has {data.nbytes} bytes, not "
            f"{storage.numel} x {storage.dtype}; fetch or save the file again"
        )
    if key not in loaded:
        loaded[key] = native_bytes(data, itemsize, container.byteorder)
    return data


def write(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict that ``torch.load(path, weights_only=True)`` reads, on the CPU.

    An existing file is replaced, whole or not at all; equal tensors in equal order give equal
    bytes. The dtypes are those that ``read`` can return.

    Raises:
      OSError: the file cannot be written.
      WeightFileError: a name is empty or no string, or PyTorch has no such dtype.
    """
    for name, x in tensors.items():
        if not isinstance(name, str) or not name:
            raise WeightFileError(f"{os.fspath(path)}: {name!r} is no name for a tensor")
        if x.dtype.newbyteorder("=") not in _STORAGE_NAMES:
            known = ", ".join(map(str, _STORAGE_NAMES))
            raise WeightFileError(
                f"{os.fspath(path)}: {name} is {x.dtype}; convert it to one of {known}"
            )
    with (
        whole_file(Path(path)) as partial,
        open(partial, "wb") as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        _add(archive, file, "data.pkl", _pickle(tensors))
        _add(archive, file, "byteorder", b"little")
        for number, x in enumerate(tensors.values()):
            x = np.asarray(x, x.dtype.newbyteorder("<"), order="C")
            _add(archive, file, f"data/{number}", x.reshape(-1).view(np.uint8))
        _add(archive, file, "version", b"3\n")


def _add(archive: zipfile.ZipFile, file: BinaryIO, name: str, data: object) -> None:
    """Adds a record, uncompressed and aligned; PyTorch reads it in place when it maps the file."""
    info = zipfile.ZipInfo(f"archive/{name}", date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # Unix, on every system
    large = len(data) >= 2**30
    header = 30 + len(info.filename) + 4 + (20 if large else 0)
    padding = -(file.tell() + header) % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=large) as member:
        member.write(data)


def _pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The opcodes of an OrderedDict of tensors whose storages are numbered in order."""
    parts = [b"\x80\x02ccollections\nOrderedDict\n)R("]
    for number, (name, x) in enumerate(tensors.items()):
        storage = _STORAGE_NAMES[x.dtype.newbyteorder("=")].encode()
        stride = [math.prod(d or 1 for d in x.shape[axis + 1 :]) for axis in range(x.ndim)]
        parts += [
            _text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(",
            b"(", _text("storage"), b"ctorch\n", storage, b"\n",
            _text(str(number)), _text("cpu"), _integer(x.size), b"tQ",
            _integer(0), _integers(x.shape), _integers(stride),
            b"\x89", b"ccollections\nOrderedDict\n)R", b"tR",
        ]  # fmt: skip
    return b"".join([*parts, b"u."])


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(number: int) -> bytes:
    return b"\x8a\x09" + number.to_bytes(9, "little")  # LONG1: signed, thus one byte more than 8


def _integers(numbers: object) -> bytes:
    return b"(" + b"".join(map(_integer, numbers)) + b"t"
