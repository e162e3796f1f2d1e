"""The linear probe's sweep against scikit-learn's: time, gradient norm and accuracy in one run.

Features are random, but like CLIP's: of unit length around a common mean (cosine of two images
about 0.6), with a spectrum that decays, classes that overlap, and some wrong labels.
"""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from clip_jax import cli
from clip_jax.benchmarks import require_scikit_learn
from clip_jax.evals.probes import linear_probe
from clip_jax.evals.probes.linear_probe import LAMBDAS, Split

# The largest entry of the gradient of the mean objective at which scikit-learn stops: what it
# comes with, which ends far from the minimum on features of unit length, and what gets there.
DEFAULT_TOLERANCE, TIGHT_TOLERANCE = 1e-4, 1e-6


def clip_like(
    rows: int,
    dimensions: int,
    classes: int,
    seed: int,
    distance: float = 6.5,
    wrong: float = 0.05,
) -> Split:
    """Features float32[rows, dimensions] and labels int32[rows]; the classes do not depend on seed.

    Args:
      rows: number of rows.
      dimensions: of the features.
      classes: K.
      seed: of the rows.
      distance: between centres of classes, in standard deviations of a class along the way.
      wrong: share of labels that are drawn at random. Without any, classes can be told apart by
        512 features however small the penalty, and all small ones are about as good.
    """
    world, rng = np.random.default_rng(0), np.random.default_rng((1, seed))
    axes = np.linalg.qr(world.normal(size=(dimensions, dimensions)))[0]
    widths = (1 + np.arange(dimensions)) ** -0.5
    widths /= np.linalg.norm(widths)
    # Classes differ most where features vary most.
    centres = world.normal(size=(classes, dimensions)) * widths * distance / np.sqrt(2)
    labels = rng.integers(0, classes, rows).astype(np.int32)
    inner = centres[labels] + rng.normal(size=(rows, dimensions))
    features = 1.5 * axes[0] + (inner * widths) @ axes.T
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    drawn = rng.random(rows) < wrong
    labels[drawn] = rng.integers(0, classes, drawn.sum())
    return features.astype(np.float32), labels


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One way to choose a penalty and fit, measured."""

    name: str
    seconds: float
    lam: float
    accuracy: float
    gradient_norm: float
    converged: str


def gradient_norm(split: Split, weights: np.ndarray, intercept: np.ndarray, lam: float) -> float:
    """Euclidean norm of the gradient of (summed cross entropy + lam / 2 * ||W||^2) / n, float64."""
    features, labels = split[0].astype(np.float64), split[1]
    logits = features @ weights.T.astype(np.float64) + intercept
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(p)), labels] -= 1
    by_weight = p.T @ features + lam * weights
    return float(np.sqrt((by_weight**2).sum() + (p.sum(axis=0) ** 2).sum())) / len(p)


def ours(name: str, splits: tuple[Split, Split, Split], classes: int) -> Sweep:
    """The sweep of ``linear_probe.probe``."""
    started = time.perf_counter()
    result = linear_probe.probe(*splits, linear_probe.ProbeSettings(classes=classes))
    seconds = time.perf_counter() - started
    norm = gradient_norm(_joined(splits), result.weights, result.intercept, result.lam)
    missed = len(result.unconverged) + (not result.converged)
    converged = f"{len(result.visited) + 1 - missed} of {len(result.visited) + 1}"
    return Sweep(name, seconds, result.lam, result.metrics["top1"], norm, converged)


def scikit_learn(
    name: str, splits: tuple[Split, Split, Split], tolerance: float, lam: float | None = None
) -> Sweep:
    """The same sweep with scikit-learn's L-BFGS, one penalty after the other.

    Args:
      name: for the table.
      splits: train, validation and test.
      tolerance: scikit-learn's ``tol``.
      lam: a penalty to fit without a search.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    (train, val, test), limit = splits, linear_probe.logistic.MAX_ITERATIONS
    iterations: list[int] = []

    def fit(split: Split, lam: float) -> LogisticRegression:
        model = LogisticRegression(C=1 / lam, max_iter=limit, tol=tolerance)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(*split)
        iterations.append(int(model.n_iter_.max()))
        return model

    def scores_of(indices, best):
        del best
        return [fit(train, LAMBDAS[i]).score(*val) for i in indices]

    started = time.perf_counter()
    if lam is None:
        lam = float(LAMBDAS[linear_probe.best(linear_probe.search(scores_of))])
    model = fit(_joined(splits), lam)
    seconds = time.perf_counter() - started
    norm = gradient_norm(_joined(splits), model.coef_, model.intercept_, lam)
    done = sum(n < limit for n in iterations)
    return Sweep(name, seconds, lam, model.score(*test), norm, f"{done} of {len(iterations)}")


def command(arguments: Sequence[str]) -> None:
    """The command ``benchmark probe``."""
    cli.Parser("benchmark probe", compare.__doc__).parse_args(arguments)
    compare()


def compare(
    rows: int = 10_000, dimensions: int = 512, classes: int = 100, tests: int = 10_000
) -> list[Sweep]:
    """Prints and returns both sweeps, and scikit-learn's fit with the penalty that ours chose.

    Args:
      rows: of train; validation has a quarter of them.
      dimensions: of the features.
      classes: K.
      tests: rows to measure accuracy on.

    Raises:
      SystemExit: scikit-learn is not installed.
    """
    require_scikit_learn()
    sizes = (rows, rows // 4, tests)
    splits = tuple(clip_like(n, dimensions, classes, seed) for seed, n in enumerate(sizes))
    print(f"{rows:,} x {dimensions} features of {classes} classes, {len(LAMBDAS)} penalties")
    print("| sweep | seconds | lambda | test top-1 | gradient norm | fits that converged |")
    print("|---|---|---|---|---|---|")

    def add(sweep: Sweep) -> Sweep:
        print(
            f"| {sweep.name} | {sweep.seconds:.1f} | {sweep.lam:.3g} | {sweep.accuracy:.2%} | "
            f"{sweep.gradient_norm:.1e} | {sweep.converged} |", flush=True,
        )  # fmt: skip
        return sweep

    first = add(ours("clip_jax, compilation included", splits, classes))
    again = add(ours("clip_jax, again", splits, classes))
    tight = add(scikit_learn("scikit-learn, tol=1e-6", splits, TIGHT_TOLERANCE))
    loose = add(scikit_learn("scikit-learn, as it comes (tol=1e-4)", splits, DEFAULT_TOLERANCE))
    same = add(scikit_learn("scikit-learn, our lambda only", splits, TIGHT_TOLERANCE, first.lam))
    print(
        f"clip_jax takes 1/{tight.seconds / first.seconds:.1f} of scikit-learn's time with "
        f"compilation, 1/{tight.seconds / again.seconds:.1f} without; of scikit-learn as it comes "
        f"1/{loose.seconds / first.seconds:.1f} and 1/{loose.seconds / again.seconds:.1f}"
    )
    print(
        f"with the same penalty top-1 differs by {100 * abs(first.accuracy - same.accuracy):.2f} "
        "points"
    )
    return [first, again, tight, loose, same]


def _joined(splits: tuple[Split, Split, Split]) -> Split:
    train, val, _ = splits
    return tuple(np.concatenate(arrays) for arrays in zip(train, val, strict=True))
