"""What the names in PyTorch's pickles mean: literal tables of inert stand-ins.

Nothing here imports, creates or calls what a file asks for. A name that is not in a table is
refused by that name. What a file uses against its kind raises TypeError or ValueError, which
``unpickler.load`` reports.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np


class Unreadable(ValueError):
    """What is wrong with the contents of a weight file; the caller adds the file's name."""


@dataclasses.dataclass(frozen=True, eq=False)
class Global:
    """A name that a pickle refers to, in place of the object."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """A run of ``numel`` numbers, kept outside of the pickle under ``key``."""

    key: str
    dtype: np.dtype
    numel: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage; offset and strides count elements. Its extent is not checked yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclasses.dataclass(eq=False, repr=False)
class Record:
    """An object of a class that is not loaded: the class's name and the saved state."""

    name: str
    state: object = None


DTYPES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
# Present beside the weights in training checkpoints and archives: calling one gives a record.
_INERT = frozenset(Path(__file__).with_name("inert_names.txt").read_text("ascii").split())
# Calls that copy what they are given.
_COPIES = frozenset({"collections.OrderedDict", "torch.Size"})
# Elements of a key, a shape or a call's arguments. One long tuple, met before, costs two bytes to
# name again, and the time to walk through it each time.
_MOST_PARTS = 64
_LONGEST_NAME = 1000


def resolve(module: object, member: object) -> Global:
    """A stand-in for a dotted name.

    Raises:
      Unreadable: weights do not need this name.
    """
    if not isinstance(module, str) or not isinstance(member, str):
        raise TypeError("a name that is not text")
    if len(module) + len(member) > _LONGEST_NAME:
        # Before it is made: two long texts, met before, would cost a few bytes a copy.
        raise Unreadable(f"refers to a name of {len(module) + len(member)} letters")
    name = f"{module}.{member}"
    # TorchScript's own classes: their code lies in the archive, as text, and is not read.
    known = name in DTYPES or name in _CALLS or name in _INERT or name.startswith("__torch__.")
    if not known:
        raise Unreadable(
            f"refers to {name[:200]}, which dense tensors of floats, integers or bools do not need "
            "and which could run code; nothing was executed. If you trust the file, load it with "
            "PyTorch and save the weights alone: torch.save(model.state_dict(), path), or as "
            "safetensors"
        )
    return Global(name)


def call(function: object, arguments: object) -> object:
    """What calling a name with arguments stands for."""
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise TypeError("a call of something that is not a name")
    stand_in = _CALLS.get(function.name)
    if stand_in is None:
        return Record(function.name)
    if len(arguments) > _MOST_PARTS:
        raise TypeError(f"{len(arguments)} arguments for {function.name}")
    return stand_in(*arguments)


def copied(function: object, arguments: object) -> int:
    """How many elements a call would copy: its list may be one that was met before."""
    name = function.name if isinstance(function, Global) else None
    if name not in _COPIES or not isinstance(arguments, tuple) or not arguments:
        return 0
    if not isinstance(arguments[0], list | tuple):
        raise TypeError(f"{name} of a {type(arguments[0]).__name__}")
    return len(arguments[0])


def storage(identifier: object) -> Storage:
    """The storage that a pickle refers to as an object outside of itself."""
    known = isinstance(identifier, tuple) and 5 <= len(identifier) <= _MOST_PARTS
    if not known or identifier[0] != "storage":
        raise Unreadable("refers to an object outside of the pickle that is not a storage")
    _, kind, key, _, numel, *view = identifier
    dtype = DTYPES.get(kind.name) if isinstance(kind, Global) else None
    if dtype is None or not isinstance(key, str) or not _are_sizes((numel,)):
        raise Unreadable("has a storage without a type, a name or a size")
    if any(part is not None for part in view):
        raise Unreadable("has a storage inside another, as PyTorch 0.x wrote; save it again")
    return Storage(key, dtype, numel)


def set_items(target: object, items: list) -> object:
    """Sets keys and values, given in turns; a record forgets them."""
    if not isinstance(target, dict | Record):
        raise TypeError(f"items set on a {type(target).__name__}")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not _is_flat(key):
            raise TypeError("a key is not a plain value")
        if isinstance(target, dict):
            target[key] = value
    return target


def extend(target: object, items: list) -> None:
    """Appends to a list; a record forgets what is appended."""
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Record):
        raise TypeError(f"items appended to a {type(target).__name__}")


def build(target: object, state: object) -> None:
    """Gives an object its state; dicts and tensors carry none that we need."""
    if isinstance(target, Record):
        target.state = state
    elif not isinstance(target, dict | Tensor):
        raise TypeError(f"state given to a {type(target).__name__}")


def _is_flat(key: object) -> bool:
    """Whether a key can be hashed without following it down: nesting would overflow the stack."""
    parts = key if isinstance(key, tuple) else (key,)
    if len(parts) > _MOST_PARTS:
        return False
    # A long integer is hashed again at every use.
    return all(
        part.bit_length() <= 64
        if isinstance(part, int)
        else isinstance(part, str | bytes | float | None | Global | Record)
        for part in parts
    )


def _are_sizes(values: object) -> bool:
    short = isinstance(values, tuple) and len(values) <= _MOST_PARTS
    return short and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _rebuild_tensor(storage: object, offset: object, shape: object, stride: object) -> Tensor:
    known = isinstance(storage, Storage) and _are_sizes((offset,))
    if not (known and _are_sizes(shape) and _are_sizes(stride)):
        raise Unreadable("has a tensor that is not a storage and integers of at least 0")
    return Tensor(storage, offset, shape, stride)


def _rebuild_tensor_v2(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    grad: object,
    hooks: object,
    bits: object = None,
) -> Tensor:
    if bits:  # PyTorch negates or conjugates such a tensor when it is used
        raise Unreadable("has a tensor that is a lazy view; save its .clone() instead")
    return _rebuild_tensor(storage, offset, shape, stride)


def _rebuild_from_type(function: object, kind: object, arguments: object, state: object) -> Tensor:
    if not isinstance(function, Global) or function.name != "torch._utils._rebuild_tensor_v2":
        raise Unreadable("has a tensor subclass that is not made of a plain tensor")
    if not isinstance(arguments, tuple) or len(arguments) > _MOST_PARTS:
        raise TypeError("a tensor subclass without arguments")
    return _rebuild_tensor_v2(*arguments)


def _ordered_dict(pairs: object = ()) -> dict:
    return set_items({}, [x for key, value in pairs for x in (key, value)])


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda *_: {},
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.jit._pickle.restore_type_tag": lambda value, tag: value,
}
