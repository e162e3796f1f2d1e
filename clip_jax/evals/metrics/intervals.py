"""Confidence intervals: closed forms for shares (top-1, recall@k), the bootstrap for the rest.

Intervals are (low, high), 95% by default.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import numpy as np
import scipy

_Z95 = 1.959963984540054


def wilson(share: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson score interval of a share (0 to 1) of n trials (Wilson 1927).

    It holds near 0 and 1 and for few trials. The share need not be a whole number of hits: where
    ties share the credit (see ``ranking.expected_hit``) it is not.

    Raises:
      ValueError: an argument is out of its range.
    """
    _check_share(share, n, confidence)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = wilson_half_width(share, n, z)
    # At 0 and 1 the bound is the share itself, which rounding would miss by an ulp.
    return (0.0 if share == 0 else centre - half), (1.0 if share == 1 else centre + half)


def wilson_half_width(share: float, n: float, z: float = _Z95) -> float:
    """Returns half the width of the Wilson score interval of a share (0 to 1) seen in n trials."""
    spread = math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return z * spread / (1 + z * z / n)


def clustered(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Returns the 95% interval of the mean of float[n], from 0 to 1, in clusters int[n].

    The five captions of an image are right or wrong together more often than those of five
    images. This is Wilson's interval for as many independent trials as would vary as much as
    the share does from cluster to cluster (Kish's effective sample size), at most n.
    """
    share, n = float(np.mean(values)), len(values)
    _, own = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(own, weights=values), np.bincount(own)
    count = len(sizes)
    effective = float(count)  # as many as there are clusters, where all values are the same
    if count > 1 and 0 < share < 1:
        variance = count / (count - 1) * float(((sums - share * sizes) ** 2).sum()) / n**2
        effective = share * (1 - share) / max(variance, share * (1 - share) / n)
    return wilson(share, max(1.0, effective))


def newcombe(
    share: float, n: int, other_share: float, other_n: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns the interval of ``share - other_share``, seen in independent trials.

    Newcombe's hybrid score interval (1998, method 10), made of two Wilson intervals. Two models on
    the same images are not independent: use ``bootstrap`` with both models' values as columns and
    the difference as the statistic.
    """
    low, high = wilson(share, n, confidence)
    other_low, other_high = wilson(other_share, other_n, confidence)
    difference = share - other_share
    return (
        difference - math.hypot(share - low, other_high - other_share),
        difference + math.hypot(high - share, other_share - other_low),
    )


def clopper_pearson(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the exact binomial interval of a share (Clopper and Pearson 1934).

    The bounds are the shares at which this many hits or more, and this many or fewer, would have
    half the remaining probability. It covers at least as often as it says, for every n.

    Raises:
      ValueError: an argument is out of its range.
    """
    if hits != int(hits) or n != int(n) or not 0 <= hits <= n or n < 1:
        raise ValueError(f"hits must be a whole number from 0 to n, at least 1, got {hits} of {n}")
    _check_share(hits / n, n, confidence)
    tail = (1 - confidence) / 2
    quantile = scipy.special.betaincinv
    low = 0.0 if hits == 0 else float(quantile(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else 1.0 - float(quantile(n - hits, hits + 1, tail))
    return low, high


def bonferroni(p_values: Sequence[float]) -> np.ndarray:
    """Returns the p-values corrected for their number: each times the tests made, at most 1.

    NaN stands for a test that was not made; it stays NaN and is not counted.
    """
    values = np.asarray(p_values, np.float64)
    return np.minimum(1.0, values * np.count_nonzero(~np.isnan(values)))


def bootstrap(
    statistic: Callable[..., float],
    *columns: np.ndarray,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    strata: np.ndarray | None = None,
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of a statistic of rows (Efron 1979).

    Rows are drawn with replacement, the same ones from every column, so that a statistic of
    several columns keeps its pairs. One resample exists at a time. The same seed gives the same
    interval.

    Args:
      statistic: columns -> a number.
      columns: arrays of n rows each.
      samples: resamples drawn.
      confidence: between 0 and 1.
      seed: of the draws.
      strata: int[n], the class of every row; each class is then drawn from by itself and keeps
        its size. Use it where a resample without one of the classes would have no value.

    Raises:
      ValueError: columns of different lengths, no row, or a resample whose statistic is NaN.
    """
    n = _rows(columns)
    _check_share(0.5, n, confidence)
    drawn = _resamples(n, samples, seed, strata)
    values = np.array([statistic(*(column[rows] for column in columns)) for rows in drawn])
    if np.isnan(values).any():
        raise ValueError(
            f"the statistic is NaN for {np.isnan(values).sum()} of {samples} resamples: give "
            "strata=, so that every class keeps its rows"
        )
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _resamples(n: int, samples: int, seed: int, strata: np.ndarray | None) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    strata = np.zeros(n, int) if strata is None else np.asarray(strata)
    if strata.shape != (n,):
        raise ValueError(f"strata must have the shape [{n}], one a row, got {list(strata.shape)}")
    # With the rows in order of their strata, every position draws from its stretch.
    order = np.argsort(strata, kind="stable")
    _, starts, group, sizes = np.unique(
        strata[order], return_index=True, return_inverse=True, return_counts=True
    )
    start, size = starts[group], sizes[group]
    for _ in range(samples):
        # Below 1, a float64 times a whole number stays below that number.
        yield order[start + (rng.random(n) * size).astype(np.int64)]


def _rows(columns: Sequence[np.ndarray]) -> int:
    lengths = {len(column) for column in columns}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"the bootstrap needs columns of one length, at least 1, got {sorted(lengths)}"
        )
    return lengths.pop()


def _check_share(share: float, n: float, confidence: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"a share goes from 0 to 1, got {share}")
    if n < 1:
        raise ValueError(f"an interval needs at least one trial, got n={n}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1, such as 0.95")
