"""Reads the pickles inside PyTorch's weight files, and executes nothing.

A pickle is a program. ``pickle.Unpickler`` with an allow-list would call nothing else, but it
was tried, and hostile data crashes it or fills the memory: a key of a million nested tuples (1 MB)
overflows the C stack, six bytes that name a high memo entry allocate a gigabyte, and one long tuple
is walked through again at each use as a key. So this is a small interpreter: it knows the opcodes
that data needs, counts what they cost, and builds plain containers and ``objects``.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

from clip_jax.interop.torch import objects
from clip_jax.interop.torch.objects import Storage, Unreadable

LARGEST_PICKLE = 64 * 2**20  # bytes; a thousand tensors with their optimizer state take one
# Of what a call copies, which costs a few bytes for any length; and of opcodes, a single byte of
# which makes an object of sixty.
_MOST_COPIED = 1_000_000
_MOST_STEPS = 8_000_000

_NOTHING = frozenset({"PROTO", "FRAME", "STOP"})
_ARGUMENT = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING",
        "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
        "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    }
)  # fmt: skip
_FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_FIXED_TUPLE = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_FROM_MARK: dict[str, Callable[[list], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "FROZENSET": list,
    "DICT": lambda items: objects.set_items({}, items),
}
_ON_TARGET: dict[str, Callable[[Any, list], Any]] = {
    "SETITEMS": objects.set_items,
    "APPENDS": objects.extend,
    "ADDITEMS": objects.extend,
}
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})


class _Machine:
    """The stack, what lies below the marks on it, the memo, and the storages met."""

    def __init__(self):
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.storages: dict[str, Storage] = {}
        self.copied = 0

    def from_mark(self) -> list[object]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def step(self, name: str, argument: object) -> None:
        """Carries out one opcode."""
        stack = self.stack
        if name in _ARGUMENT:
            stack.append(argument)
        elif name in _GET:
            stack.append(self.memo[argument])
        elif name in _PUT:
            self.memo[argument] = stack[-1]
        elif name in _FRESH:
            stack.append(_FRESH[name]())
        elif name in _FIXED_TUPLE:
            items = [stack.pop() for _ in range(_FIXED_TUPLE[name])]
            stack.append(tuple(reversed(items)))
        elif name in _FROM_MARK:
            items = self.from_mark()
            self.stack.append(_FROM_MARK[name](items))
        elif name in _ON_TARGET:
            items = self.from_mark()
            _ON_TARGET[name](self.stack[-1], items)
        elif name not in _NOTHING:
            self.rare_step(name, argument)

    def rare_step(self, name: str, argument: object) -> None:
        """Carries out one of the opcodes that are alone in their kind."""
        stack = self.stack
        match name:
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "BINPERSID":
                storage = objects.storage(stack.pop())
                self.storages[storage.key] = storage
                stack.append(storage)
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                self.copied += objects.copied(function, arguments)
                if self.copied > _MOST_COPIED:
                    raise Unreadable(f"has calls that copy more than {_MOST_COPIED} elements")
                stack.append(objects.call(function, arguments))
            case "GLOBAL":
                module, _, member = argument.partition(" ")
                stack.append(objects.resolve(module, member))
            case "STACK_GLOBAL":
                member, module = stack.pop(), stack.pop()
                stack.append(objects.resolve(module, member))
            case "BUILD":
                state = stack.pop()
                objects.build(stack[-1], state)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                objects.set_items(stack[-1], [key, value])
            case "APPEND":
                value = stack.pop()
                objects.extend(stack[-1], [value])
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "DUP":
                stack.append(stack[-1])
            case "POP" if stack:
                stack.pop()
            case "POP" | "POP_MARK":
                self.from_mark()
            case _:
                raise Unreadable(f"has the opcode {name}, which weights do not need")


def load(file: BinaryIO, record: str) -> tuple[object, dict[str, Storage]]:
    """Reads one pickle, up to its end.

    Args:
      file: positioned at the pickle; after it on return. It should hold at most
        ``LARGEST_PICKLE`` bytes.
      record: the pickle's name, for messages.

    Returns:
      The object (plain values, tuples, lists, also for sets, dicts, also for their subclasses, and
      ``objects`` for all else), and the storages it refers to, by key.

    Raises:
      Unreadable: the pickle is damaged, or holds what weights do not need.
    """
    machine = _Machine()
    start = file.tell()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MOST_STEPS:
                raise Unreadable(f"has more than {_MOST_STEPS} steps; save the weights alone")
            machine.step(opcode.name, argument)
        return machine.stack[-1], machine.storages
    except Unreadable as error:
        raise Unreadable(f"{record} {error}") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise Unreadable(
            f"{record} is not a whole pickle (near byte {file.tell() - start}: "
            f"{str(error)[:200]}); fetch the file again"
        ) from error
