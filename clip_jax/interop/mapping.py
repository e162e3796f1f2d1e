"""Tables that map a foreign weight layout to ours, tensor by tensor, and their use both ways.

A layout is a list of ``Entry``: the name of one of our leaves (flat, see ``tree``), the foreign
tensor or tensors that hold the same numbers, and how they are arranged. Every arrangement can be
undone exactly, so that a round trip gives the same bytes.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from clip_jax.interop import tree
from clip_jax.runtime import distributed

_SHOWN = 40  # problems that are listed one by one


class LayoutError(ValueError):
    """Tensors that are not those of the model; the message lists all that is wrong."""

    exit_code = distributed.MISMATCH


@dataclasses.dataclass(frozen=True)
class Entry:
    """One of our leaves and what holds it in a foreign layout.

    Attributes:
      ours: its flat name.
      theirs: the foreign names. Several: parts to be joined, such as query, key and value.
      kind: a name in ``KINDS``.
    """

    ours: str
    theirs: tuple[str, ...]
    kind: str


Table = Mapping[str, Sequence[Entry]]  # section -> entries, whose names may have fields ("{i}")


def read_table(path: Path) -> Table:
    """The sections of a layout's ``.txt`` file: "[section]", then one entry a line."""
    sections: dict[str, list[Entry]] = {}
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = sections[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            ours, theirs, kind = line.split()
            section.append(Entry(ours, tuple(theirs.split(",")), kind))
    return sections


def filled(entries: Iterable[Entry], **fields: object) -> list[Entry]:
    """Entries with the fields of their names filled in."""
    return [
        Entry(e.ours.format(**fields), tuple(t.format(**fields) for t in e.theirs), e.kind)
        for e in entries
    ]


def blocks(entries: Sequence[Entry], count: int, **fields: object) -> list[Entry]:
    """The entries of blocks 0 to ``count`` - 1, the field ``i``."""
    return [entry for i in range(count) for entry in filled(entries, i=i, **fields)]


Shape = tuple[int, ...]


Parts = Sequence[np.ndarray]
Join = Callable[[Parts, Shape], np.ndarray]  # foreign parts and our shape -> our leaf
Split = Callable[[np.ndarray, int], Parts]  # our leaf and the number of parts -> foreign parts


def _join_linear(parts: Parts, shape: Shape) -> np.ndarray:
    return np.concatenate(parts).T.reshape(shape)


def _join_same(parts: Parts, shape: Shape) -> np.ndarray:
    return parts[0].reshape(shape)


# How a foreign tensor is arranged. The functions return views where that is possible.
KINDS: dict[str, tuple[Join, Split]] = {
    # PyTorch's [outputs, inputs], parts one after the other in the outputs; ours [inputs, ...].
    "linear": (_join_linear, lambda x, count: np.split(x.reshape(len(x), -1).T, count)),
    # The same where our inputs are [heads, width of a head].
    "merging": (_join_linear, lambda x, _: [x.reshape(-1, x.shape[-1]).T]),
    # PyTorch's [outputs, inputs, height, width]; ours [height, width, inputs, outputs].
    "convolution": (
        lambda parts, _: parts[0].transpose(2, 3, 1, 0),
        lambda x, _: [x.transpose(3, 2, 0, 1)],
    ),
    # One axis, the numbers in our order; parts one after the other.
    "vector": (
        lambda parts, shape: np.concatenate(parts).reshape(shape),
        lambda x, count: np.split(x.reshape(-1), count),
    ),
    # As ours; as ours behind one axis of size 1, or two.
    "same": (_join_same, lambda x, _: [x]),
    "batched": (_join_same, lambda x, _: [x[None]]),
    "batched_twice": (_join_same, lambda x, _: [x[None, None]]),
    # Flax's query, key and value, [..., heads, width of a head] each.
    "split": (
        lambda parts, shape: np.stack(parts, axis=len(shape) - 3),
        lambda x, _: list(np.moveaxis(x, x.ndim - 3, 0)),
    ),
}

Tensors = Mapping[str, np.ndarray]


def import_tensors(
    tensors: Tensors, entries: Sequence[Entry], template: tree.Variables, source: str
) -> tree.Variables:
    """Foreign tensors to our variables, float32.

    Args:
      tensors: all tensors of the file that are weights.
      entries: the layout's table for this model.
      template: shapes of the variables, see ``tree.shapes``.
      source: names the file in errors.

    Raises:
      LayoutError: tensors are missing, left over, misshapen or not finite; lists them.
    """
    wanted = tree.flatten(template)
    by_name = {e.ours: e for e in entries}
    problems = _problems(tensors, entries, wanted)
    if problems:
        shown = problems[:_SHOWN]
        if len(problems) > _SHOWN:
            shown.append(f"and {len(problems) - _SHOWN} more")
        lines = "\n  ".join([f"{len(problems)} tensor(s) do not fit the model:", *shown])
        raise LayoutError(f"{source}: {lines}")

    def take(name: str) -> np.ndarray:
        entry = by_name[name]
        parts = [
            # Without the axes of size 1 that ``_fits`` lets pass.
            np.asarray(tensors[t], np.float32).reshape(shape)
            for t, shape in zip(entry.theirs, _part_shapes(entry, wanted[name].shape), strict=True)
        ]
        return KINDS[entry.kind][0](parts, wanted[name].shape)

    return tree.unflatten(take, template)


def export_tensors(variables: tree.Variables, entries: Iterable[Entry]) -> dict[str, np.ndarray]:
    """Our variables to the tensors of a layout, in the order of its table."""
    flat = tree.flatten(variables)
    tensors: dict[str, np.ndarray] = {}
    for entry in entries:
        parts = KINDS[entry.kind][1](np.asarray(flat[entry.ours]), len(entry.theirs))
        contiguous = [np.asarray(part, order="C") for part in parts]
        tensors.update(zip(entry.theirs, contiguous, strict=True))
    return tensors


def foreign_shapes(entries: Iterable[Entry], wanted: tree.Flat) -> dict[str, Shape]:
    """Foreign name -> shape, for a table and the flat shapes of our variables."""
    shapes: dict[str, Shape] = {}
    for e in entries:
        shapes.update(zip(e.theirs, _part_shapes(e, wanted[e.ours].shape), strict=True))
    return shapes


def _part_shapes(entry: Entry, shape: Shape) -> list[Shape]:
    """The shapes of the foreign tensors that hold a leaf of ours of this shape."""
    stand_in = np.broadcast_to(np.float32(0), shape)  # without memory
    return [part.shape for part in KINDS[entry.kind][1](stand_in, len(entry.theirs))]


def _problems(tensors: Tensors, entries: Sequence[Entry], wanted: tree.Flat) -> list[str]:
    expected = foreign_shapes(entries, wanted)
    problems: list[str] = []
    extra = sorted(tensors.keys() - expected.keys())
    for name, shape in expected.items():
        if name not in tensors:
            # Each comparison is slow, and a file may be of anything: only for what will be shown.
            candidates = extra[:1000] if len(problems) < _SHOWN else []
            near = difflib.get_close_matches(name, candidates, 1, cutoff=0.9)
            hint = f" (there is {near[0]})" if near else ""
            problems.append(f"missing: {name} {list(shape)}{hint}")
        elif not _fits(tensors[name].shape, shape):
            problems.append(
                f"misshapen: {name} is {list(tensors[name].shape)}, the model has {list(shape)}"
            )
        elif not np.isfinite(np.asarray(tensors[name], np.float32)).all():
            problems.append(f"not finite: {name} holds NaN or infinity")
    return problems + [f"left over: {n} {list(tensors[n].shape)}" for n in extra]


def _fits(given: Shape, expected: Shape) -> bool:
    """Equal but for axes of size 1: a scale may be [] or [1], a table [N, D] or [1, N, D]."""
    return [s for s in given if s != 1] == [s for s in expected if s != 1]
