"""What a compiled program needs: memory, and the bytes that its collectives and copies move.

Collectives are read from the program's text. A loop's body is written once, however often it runs:
it counts as often as its condition lets it run. On TPUs a collective that goes on beside other
operations is written into each of them; it counts where it starts.
"""

import dataclasses
import math
import re
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax.stages import Compiled

# The kind of what passes between slices, through their hosts and the data centre's network.
BETWEEN_SLICES = "between slices"
_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
          "f32": 4, "s64": 8, "u64": 8, "f64": 8}  # fmt: skip
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_SHAPE = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|condition|body)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_BODY = re.compile(r"\bbody=%?([\w.-]+)")
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BOUND = re.compile(r"s32\[\]\S* constant\((\d+)\)")
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(_KINDS)})(-start)?\(")
_FUSED = re.compile(r" fusion\(.*\bcalls=%?([\w.-]+)")
_MOVE = re.compile(r"= (\S.*?) (copy|copy-start|dynamic-update-slice)\((.*)")
_NAME = re.compile(r"%([\w.-]+)")
_BETWEEN = re.compile(r"= \((.*?), u32\[\]\S*, token\[\]\) recv\(.*xla_megascale_runtime")
_GROUPS = re.compile(r"replica_groups=(?:\{\{([0-9,]+)\}|\[(\d+),(\d+)\])")
# GSPMD's own on TPUs: the sizes of a mesh's axes, and the axes (or a part of one) of a group.
_MESH = re.compile(r"replica_groups=mesh\[([^]]*)\](?:, device_ids=\([^{]*\))? \{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'=(\d+)")
_GROUP_AXIS = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind and shape.

    Attributes:
      kind: "all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all" or
        "between slices".
      shape: of the result, in words.
      devices: size of a group.
      count: how often a step runs it.
      received: bytes that a device receives in all of them.
    """

    kind: str
    shape: str
    devices: int
    count: int
    received: int


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      arguments, outputs, temporaries: as XLA says.
      aliased: of the outputs, what reuses (donated) arguments.
    """

    arguments: int
    outputs: int
    temporaries: int
    aliased: int

    @property
    def total(self) -> int:
        """What has to fit."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


@dataclasses.dataclass(frozen=True)
class Move:
    """Copies, or updates of a part, of arrays of one shape.

    Attributes:
      kind: "copy" or "dynamic-update-slice".
      shape: of what is copied or put in, in words.
      count: how often a step does it.
      size: bytes of all of them.
    """

    kind: str
    shape: str
    count: int
    size: int


def memory(compiled: "Compiled") -> Memory:
    """The memory of a compiled program."""
    m = compiled.memory_analysis()
    return Memory(
        m.argument_size_in_bytes, m.output_size_in_bytes, m.temp_size_in_bytes,
        m.alias_size_in_bytes,
    )  # fmt: skip


def collectives(text: str) -> list[Collective]:
    """The collectives of an optimized program, those that move most first.

    Args:
      text: ``Compiled.as_text()``.
    """
    bodies = _computations(text)
    runs = _runs(bodies)
    sums: dict[tuple[str, str, int], list[int]] = defaultdict(lambda: [0, 0])
    for name, lines in bodies.items():
        starts = any('"AsyncCollectiveStart"' in line for line in lines)
        for line in lines if runs[name] else ():
            goes_on = "chain_id=" in line and not starts
            if goes_on or (read := _read(line)) is None:
                continue
            kind, shapes, devices = read
            words = " ".join(f"{t}[{d}]" for t, d in shapes)
            entry = sums[kind, words, devices]
            entry[0] += runs[name]
            entry[1] += runs[name] * _received(kind, sum(_size(*s) for s in shapes), devices)
    made = [Collective(k, s, d, c, r) for (k, s, d), (c, r) in sums.items() if r]
    return sorted(made, key=lambda c: -c.received)


def moves(text: str) -> list[Move]:
    """What an optimized program copies, or puts into larger arrays, without computing anything.

    These are operations of their own, and fusions that end in one; those that move most first.

    Args:
      text: ``Compiled.as_text()``.
    """
    bodies = _computations(text)
    runs = _runs(bodies)
    fused = {m for lines in bodies.values() for line in lines for m in _FUSED.findall(line)}
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for name, lines in bodies.items():
        for line in lines if runs[name] else ():
            found = _MOVE.search(line)
            if found is None or (name in fused and "ROOT" not in line):
                continue
            kind = found[2].removesuffix("-start")
            shape = found[1]
            if kind == "dynamic-update-slice":
                shape = _update_shape(lines, found[3]) or shape
            for part in _SHAPE.findall(shape)[:1]:
                entry = sums[kind, f"{part[0]}[{part[1]}]"]
                entry[0] += runs[name]
                entry[1] += runs[name] * _size(*part)
    made = [Move(kind, shape, count, size) for (kind, shape), (count, size) in sums.items()]
    return sorted(made, key=lambda m: -m.size)


def _update_shape(lines: list[str], operands: str) -> str:
    """The shape of the second operand, the update, by the line that makes it; "" if unknown."""
    names = _NAME.findall(operands)
    made = (line for line in lines if len(names) > 1 and f"%{names[1]} = " in line)
    return next(made, "").partition(" = ")[2]


def _read(line: str) -> tuple[str, list[tuple[str, str]], int] | None:
    """Kind, results and size of a group of the collective in a line, if there is one."""
    if match := _BETWEEN.search(line):
        return BETWEEN_SLICES, _SHAPE.findall(match[1]), 2
    if (match := _OPERATION.search(line)) is None:
        return None
    shape, kind = match[1], match[2]
    shapes = _SHAPE.findall(shape)
    if match[3] and shape.startswith("("):
        # An asynchronous start gives its operands, its results, and contexts.
        shapes = _results(shapes, kind)
    return kind, shapes, _group_size(line)


def _results(shapes: list[tuple[str, str]], kind: str) -> list[tuple[str, str]]:
    """Of an asynchronous start's tuple, its results."""
    arrays = [s for s in shapes if s[1] or kind == "all-reduce"]
    if kind == "all-reduce":
        return arrays  # the results alone
    return arrays[len(arrays) // 2 :] if len(arrays) % 2 == 0 else arrays[1:2]


def _computations(text: str) -> dict[str, list[str]]:
    bodies: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if (match := _COMPUTATION.match(line)) and not line.startswith("HloModule"):
            current = bodies.setdefault(match[1], [])
            if line.startswith("ENTRY"):
                bodies["ENTRY"] = current
        elif line.startswith("  "):
            current.append(line)
    return bodies


def _runs(bodies: dict[str, list[str]]) -> dict[str, int]:
    """How often a step runs each computation."""
    runs: dict[str, int] = defaultdict(int)

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for line in bodies.get(name, ()):
            body = _BODY.search(line)
            for called in _CALLED.findall(line):
                repeated = body is not None and called == body[1]
                visit(called, times * (_trips(line, bodies) if repeated else 1))
            for branches in _BRANCHES.findall(line):
                for called in branches.split(","):
                    visit(called.strip().lstrip("%"), times)

    visit("ENTRY", 1)
    return runs


def _trips(line: str, bodies: dict[str, list[str]]) -> int:
    """How often a loop runs: by the compiler, or by the bound that its condition compares with."""
    if known := _TRIPS.search(line):
        return int(known[1])
    condition = _CONDITION.search(line)
    text = "\n".join(bodies.get(condition[1], ())) if condition else ""
    bounds = set(_BOUND.findall(text))
    return int(bounds.pop()) if len(bounds) == 1 and "direction=LT" in text else 1


def _size(kind: str, dimensions: str) -> int:
    return _BYTES.get(kind, 0) * math.prod(int(d) for d in dimensions.split(",") if d)


def _group_size(line: str) -> int:
    if match := _MESH.search(line):
        sizes = dict(_AXIS.findall(match[1]))
        return math.prod(int(part or sizes[name]) for name, part in _GROUP_AXIS.findall(match[2]))
    if match := _GROUPS.search(line):
        return len(match[1].split(",")) if match[1] else int(match[3])
    if "source_target_pairs=" in line:
        return 2
    raise ValueError(f"the groups of a collective cannot be read: {line.strip()[:200]}")


def _received(kind: str, size: int, devices: int) -> int:
    """Bytes a device receives, of a result of ``size`` bytes on each, around a ring."""
    others = (devices - 1) / devices
    factor = {
        "all-gather": others,
        "all-reduce": 2 * others,  # a reduce-scatter, and a gather of the parts
        "reduce-scatter": devices - 1,  # the result is one part of what was given
        "all-to-all": others,
        "collective-permute": 1,
        BETWEEN_SLICES: 1,  # at most: of a gather, a slice has its own part
    }[kind]
    return round(factor * size)
