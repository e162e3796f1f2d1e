"""What a rank is worth: exact scores, and honest credit where scores tie.

Both ideas serve one promise: a metric depends on the embeddings alone, not on the order of the
classes or records, nor on chunk sizes, threads or the linear-algebra library of the host.
"""

import numpy as np

from clip_jax.evals.metrics.validation import finite_rows

_GRID = 2.0**26


def quantized_unit_rows(
    embeddings: np.ndarray, name: str = "embeddings", start: int = 0
) -> np.ndarray:
    """Returns the rows at unit length, rounded so that their dot products are exact in float64.

    Entries become multiples of 2^-26. A product of two then needs at most 52 bits, and by
    Cauchy-Schwarz so does every partial sum over unit rows: ``a @ b.T`` has no rounding error at
    all, whatever the order of summation. Equal rows therefore tie exactly and chunking cannot
    change a result. The rounding moves a cosine by about 1e-8, less than float32 arithmetic does.

    Args:
      embeddings: float[n, E], any scale. A row of zeros stays zero (cosine 0 with everything).
      name: what to call the array in an error message.
      start: the number of the first row, where the array is a part of a larger one.

    Returns:
      float64[n, E].

    Raises:
      ValueError: the array is not two-dimensional or holds a NaN or an infinity.
    """
    rows = np.array(embeddings, dtype=np.float64, order="C")
    if rows.ndim != 2:
        raise ValueError(f"{name} must have the shape [n, E], got {rows.shape}")
    finite_rows(rows, name, start)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(norms > 0, norms, 1.0)
    # In place: beside the rows themselves nothing of their size is held.
    rows *= _GRID
    np.round(rows, out=rows)
    rows /= _GRID
    return rows


def expected_hit(
    better: np.ndarray, tied_hits: np.ndarray | int, tied_misses: np.ndarray, k: int
) -> np.ndarray:
    """Returns the chance that the k best hold a hit when ties are broken at random: float64[n].

    With s = k - better places left for the tied candidates, r of them right and u wrong, that is
    1 - C(u, s) / C(u + r, s). Without ties it is 1 or 0; a model that gives everything the same
    score gets exactly what guessing gets, in whatever order the candidates are listed.

    Args:
      better: int[n], candidates that score strictly better than the best right one.
      tied_hits: int[n] or int, right candidates that share its score (at least 1).
      tied_misses: int[n], wrong candidates that share its score.
      k: how many candidates are looked at.
    """
    places = k - np.asarray(better)
    missed = np.ones(places.shape)
    for taken in range(min(k, int(places.max(initial=0)))):
        wrong_left = np.maximum(tied_misses - taken, 0)
        drawn = wrong_left / np.maximum(wrong_left + tied_hits, 1)
        missed = np.where(taken < places, missed * drawn, missed)
    return 1.0 - missed
