"""Checks of the arrays that metrics and probes are given; messages name the argument."""

import numpy as np


def finite_rows(rows: np.ndarray, name: str, start: int = 0) -> None:
    """Raises ValueError, with its number, for a row of float[n, E] that holds a NaN or an infinity.

    Args:
      rows: float[n, E].
      name: what error messages call the array.
      start: number of the first row, where the array is a part of a larger one.
    """
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{name}: row {start + int(np.argmin(finite))} holds NaN or infinity; the model has "
            "diverged or its weights are damaged"
        )


def integers(values: np.ndarray, n: int, name: str, alternative: str = "") -> np.ndarray:
    """Returns values as an array int[n]; ValueError for another shape or kind of number.

    Args:
      values: array to check.
      n: length wanted.
      name: what error messages call the array.
      alternative: what the caller would accept instead, such as "bool[3, 2]".
    """
    values = np.asarray(values)
    if values.shape != (n,) or values.dtype.kind not in "iu":
        also = alternative and f" or {alternative}"
        raise ValueError(
            f"{name} must be {n} integers{also}, got {values.dtype}{list(values.shape)}"
        )
    return values


def indices(
    values: np.ndarray,
    n: int,
    count: int,
    name: str = "labels",
    things: str = "classes",
    alternative: str = "",
) -> np.ndarray:
    """Returns values as an array int[n] of indices from 0 to ``count - 1``; else ValueError.

    Args:
      values, n, name, alternative: as in ``integers``.
      count: number of things that are indexed.
      things: what error messages call them.
    """
    values = integers(values, n, name, alternative)
    if values.size and not 0 <= values.min() <= values.max() < count:
        raise ValueError(
            f"{name} go from {values.min()} to {values.max()}, but there are {count} {things}: "
            f"legal are 0 to {count - 1}"
        )
    return values
