"""Tables that map a foreign weight layout to ours, tensor by tensor, and their use both ways.

A layout is a list of ``Entry``: the name of one of our leaves (flat, see ``tree``), the foreign
tensor or tensors that hold the same numbers, and how they are arranged. Every arrangement can be
undone exactly, so that a round trip gives the same bytes.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

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


def torch_norm(ours: str, theirs: str) -> list[Entry]:
    """The two vectors of a normalisation, as PyTorch names them."""
    return [
        Entry(f"{ours}/scale", (f"{theirs}.weight",), "same"),
        Entry(f"{ours}/bias", (f"{theirs}.bias",), "same"),
    ]


def torch_dense(ours: str, theirs: str, kind: str = "linear") -> list[Entry]:
    """A linear layer's matrix and bias, as PyTorch names them."""
    return [
        Entry(f"{ours}/kernel", (f"{theirs}.weight",), kind),
        Entry(f"{ours}/bias", (f"{theirs}.bias",), "vector"),
    ]


Shape = tuple[int, ...]


def _from_linear(parts: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    return np.concatenate(parts).T.reshape(shape)


def _to_linear(array: np.ndarray, count: int) -> list[np.ndarray]:
    return np.split(np.ascontiguousarray(array.reshape(array.shape[0], -1).T), count)


def _to_merging(array: np.ndarray, count: int) -> list[np.ndarray]:
    return [np.ascontiguousarray(array.reshape(-1, array.shape[-1]).T)]


def _from_convolution(parts: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    return parts[0].transpose(2, 3, 1, 0)


def _to_convolution(array: np.ndarray, count: int) -> list[np.ndarray]:
    return [np.ascontiguousarray(array.transpose(3, 2, 0, 1))]


def _from_same(parts: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    return parts[0].reshape(shape)


def _to_same(array: np.ndarray, count: int) -> list[np.ndarray]:
    return [array]


def _from_vector(parts: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    return np.concatenate(parts).reshape(shape)


def _to_vector(array: np.ndarray, count: int) -> list[np.ndarray]:
    return np.split(array.reshape(-1), count)


def _to_batched(array: np.ndarray, count: int) -> list[np.ndarray]:
    return [array[None]]


def _to_batched_twice(array: np.ndarray, count: int) -> list[np.ndarray]:
    return [array[None, None]]


def _from_split(parts: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    return np.stack(parts, axis=len(shape) - 3)


def _to_split(array: np.ndarray, count: int) -> list[np.ndarray]:
    return [np.ascontiguousarray(p) for p in np.moveaxis(array, array.ndim - 3, 0)]


# How a foreign tensor is arranged, and the functions (parts, our shape) -> ours and (ours, number
# of parts) -> parts.
KINDS: dict[str, tuple[Callable[..., np.ndarray], Callable[..., list[np.ndarray]]]] = {
    # PyTorch's [outputs, inputs], parts one after the other in the outputs; ours [inputs, ...].
    "linear": (_from_linear, _to_linear),
    # The same where our inputs are [heads, width of a head].
    "merging": (_from_linear, _to_merging),
    # PyTorch's [outputs, inputs, height, width]; ours [height, width, inputs, outputs].
    "convolution": (_from_convolution, _to_convolution),
    # One axis, the numbers in our order; parts one after the other.
    "vector": (_from_vector, _to_vector),
    # As ours; as ours behind one axis of size 1, or two.
    "same": (_from_same, _to_same),
    "batched": (_from_same, _to_batched),
    "batched_twice": (_from_same, _to_batched_twice),
    # Flax's query, key and value, [..., heads, width of a head] each.
    "split": (_from_split, _to_split),
}

Tensors = Mapping[str, np.ndarray]


def import_tensors(
    tensors: Tensors, entries: Sequence[Entry], template: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Foreign tensors to our variables, float32.

    Args:
      tensors: all tensors of the file that are weights.
      entries: the layout's table for this model.
      template: shapes of the variables, see ``tree.shapes``.
      source: names the file in errors.

    Raises:
      LayoutError: tensors are missing, left over, misshapen or not finite; lists all of them.
    """
    wanted = tree.flatten(template)
    by_name = {e.ours: e for e in entries}
    problems = _problems(tensors, entries, wanted)
    if problems:
        shown = problems[:_SHOWN]
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise LayoutError(
            f"{source}: {len(problems)} tensor(s) do not fit the model:\n  "
            + "\n  ".join(shown)
            + more
        )

    def take(name: str) -> np.ndarray:
        entry = by_name[name]
        parts = [
            # Without the axes of size 1 that ``_fits`` lets pass.
            np.asarray(tensors[t], np.float32).reshape(shape)
            for t, shape in zip(entry.theirs, _part_shapes(entry, wanted[name].shape), strict=True)
        ]
        return KINDS[entry.kind][0](parts, wanted[name].shape)

    return tree.unflatten(take, template)


def export_tensors(variables: Mapping[str, Any], entries: Iterable[Entry]) -> dict[str, np.ndarray]:
    """Our variables to the tensors of a layout, in the order of its table."""
    flat = tree.flatten(variables)
    tensors: dict[str, np.ndarray] = {}
    for entry in entries:
        array = np.asarray(flat[entry.ours])
        parts = KINDS[entry.kind][1](array, len(entry.theirs))
        tensors.update(zip(entry.theirs, parts, strict=True))
    return tensors


def foreign_shapes(entries: Iterable[Entry], wanted: Mapping[str, Any]) -> dict[str, Shape]:
    """Foreign name -> shape, for a table and the flat shapes of our variables."""
    return {
        name: shape
        for entry in entries
        for name, shape in zip(
            entry.theirs, _part_shapes(entry, wanted[entry.ours].shape), strict=True
        )
    }


def _part_shapes(entry: Entry, shape: Shape) -> list[Shape]:
    count = len(entry.theirs)
    if entry.kind == "linear":
        outputs = int(np.prod(shape[1:]))
        return [(outputs // count, shape[0])] * count
    if entry.kind == "merging":
        return [(shape[-1], int(np.prod(shape[:-1])))]
    if entry.kind == "convolution":
        return [(shape[3], shape[2], shape[0], shape[1])]
    if entry.kind in ("batched", "batched_twice"):
        return [(1,) * (1 + (entry.kind == "batched_twice")) + shape]
    if entry.kind == "split":
        return [shape[: len(shape) - 3] + shape[len(shape) - 2 :]] * count
    if entry.kind == "vector":
        return [(int(np.prod(shape)) // count,)] * count
    return [shape]


def _problems(tensors: Tensors, entries: Sequence[Entry], wanted: Mapping[str, Any]) -> list[str]:
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


def _fits(found: Shape, expected: Shape) -> bool:
    """Equal but for axes of size 1: a scale may be [] or [1], a table [N, D] or [1, N, D]."""
    return [s for s in found if s != 1] == [s for s in expected if s != 1]
