"""Linear probe: logistic regression on frozen features (CLIP paper, section 3.2, appendix A.3).

The features are the image encoder's output before the projection. The penalty is chosen on the
validation split among 97 values from 1e-6 to 1e6 (96 steps, 8 a decade) by the paper's search: 7
values two decades apart, then the middles between the best one and its neighbours, four times. The
last fit has train and validation together. (The example in OpenAI's README takes C = 0.316 and
features after the projection: its figures differ from the paper's.)
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh

from clip_jax.evals.metrics import average_precision, classification
from clip_jax.evals.probes import logistic
from clip_jax.runtime import distributed

LAMBDAS = np.logspace(-6, 6, 97)  # scikit-learn's C is 1 / lambda
_FIRST_INTERVAL = 16  # two decades
_LANES = len(range(0, len(LAMBDAS), _FIRST_INTERVAL))

Split = tuple[np.ndarray, np.ndarray]  # features float[n, D]; labels int[n] or bool[n, K]
Metric = Callable[[np.ndarray, np.ndarray], float]  # scores float32[n, K], labels; more is better


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeResult:
    """A probe, and its results on the test split.

    Attributes:
      lam: the penalty it was fitted with; the objective is the summed loss + lam / 2 * ||W||^2.
      visited: pairs of lambda and validation score, as lambda grows; () if lambda was given.
      metrics: of the test split, as of ``classification.measure``.
      scores: float32[n, K], logits of the test split, for other metrics.
      weights: float32[K, D].
      intercept: float32[K]. Scores are ``features @ weights.T + intercept``.
      gradient_norm: Euclidean, of the objective divided by the number of rows, at the last fit.
      iterations: of the last fit.
      converged: whether the last fit reached its tolerance.
      unconverged: the lambdas of the search whose fits did not.
    """

    lam: float
    visited: tuple[tuple[float, float], ...]
    metrics: dict[str, float]
    scores: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    gradient_norm: float
    iterations: int
    converged: bool
    unconverged: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class ProbeSettings:
    """What decides the numbers of a probe besides the rows.

    Attributes:
      classes: K; None: one more than the highest label of the three splits.
      metric: what the chosen penalty maximises on validation, one of
        ``classification.PAPER_METRICS`` or the like; None: top-1 accuracy, or mean average
        precision where rows have several classes.
      lam: a penalty to be used without a search.
      refit_on_val: whether the last fit sees the validation split too.
      val_share, seed: of the rows that ``split`` takes from train where there is no validation.
      solver: of every fit.
    """

    classes: int | None = None
    metric: Metric | None = None
    lam: float | None = None
    refit_on_val: bool = True
    val_share: float = 0.2
    seed: int = 0
    solver: logistic.Solver = dataclasses.field(default_factory=logistic.Solver)


def probe(
    train: Split, val: Split | None, test: Split, settings: ProbeSettings | None = None
) -> ProbeResult:
    """Chooses a penalty, fits and measures. Runs on every process with the same arguments.

    Labels are int[n], or bool[n, K] where a row may have several classes (VOC2007): each class then
    has a binary regression of its own, and all have one penalty. A class without an example in what
    is fitted is never predicted.

    Args:
      train: features and labels to fit.
      val: features and labels to choose the penalty on; None takes some of train.
      test: features and labels to measure, looked at only then.
      settings: see ``ProbeSettings``.

    Raises:
      ValueError: arrays that do not fit each other or the classes, a feature that is not finite,
        rows of one class only; or a search without a validation split and with one row a class.
    """
    s = settings or ProbeSettings()
    given = {"train": train, "test": test} | ({} if val is None else {"val": val})
    splits, classes = _checked(given, s.classes)
    if val is None and s.lam is None:
        fitted, held_out = split(splits["train"][1], s.val_share, s.seed)
        splits["val"] = tuple(array[held_out] for array in splits["train"])
        splits["train"] = tuple(array[fitted] for array in splits["train"])
    if s.lam is None:
        chosen = _choose(splits["train"], splits["val"], classes, s)
    else:
        chosen = _Choice(s.lam)
    last = splits["train"]
    if s.refit_on_val and "val" in splits:
        last = tuple(np.concatenate(arrays) for arrays in zip(last, splits["val"], strict=True))
    # Without rows to add the search has the answer already.
    solution = chosen.solution
    if solution is None or last is not splits["train"]:
        regression = logistic.LogisticRegression(*last, classes, s.solver)
        solution = regression.solve([chosen.lam], start=solution)
    return _result(chosen, solution, splits["test"], s.solver.mesh)


def search(
    scores_of: Callable[[Sequence[int], int | None], Sequence[float]],
) -> dict[int, float]:
    """Searches the best of ``LAMBDAS`` as the paper does, with 15 of them at most.

    Args:
      scores_of: indices to try, and the best one so far (None at first) -> validation scores.

    Returns:
      Index -> score, for every one tried.
    """
    step = _FIRST_INTERVAL
    indices = list(range(0, len(LAMBDAS), step))
    scores = dict(zip(indices, scores_of(indices, None), strict=True))
    while step > 1:
        step //= 2
        peak = best(scores)
        indices = [i for i in (peak - step, peak + step) if 0 <= i < len(LAMBDAS)]
        scores.update(zip(indices, scores_of(indices, peak), strict=True))
    return scores


def best(scores: dict[int, float]) -> int:
    """Returns the index with the highest score; of equal ones the one with the largest penalty."""
    return max(scores, key=lambda index: (scores[index], index))


def split(labels: np.ndarray, share: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cuts rows in two, the same way for the same seed; returns the indices of both, ascending.

    Every class gives its share, rounded, but at least one row if it has two or more; a class with
    one row keeps it among the first. Where rows have several classes they are drawn regardless.

    Args:
      labels: int[n] or bool[n, K].
      share: of the rows in the second part, between 0 and 1.
      seed: of the draw.

    Raises:
      ValueError: a share that is not between 0 and 1, or no class with two rows.
    """
    if not 0 < share < 1:
        raise ValueError(f"val_share={share} must lie between 0 and 1")
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    groups = labels if labels.ndim == 1 else np.zeros(len(labels), np.int32)
    second = np.zeros(len(labels), bool)
    for group in np.unique(groups):
        rows = rng.permutation(np.flatnonzero(groups == group))
        second[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    if not second.any():
        raise ValueError(
            "no class has two rows in train, so none is left to choose a penalty on; give a "
            "validation split, or lam"
        )
    return np.flatnonzero(~second), np.flatnonzero(second)


@dataclasses.dataclass(frozen=True)
class _Choice:
    """A penalty and, after a search, how it was chosen; fields as in ``ProbeResult``."""

    lam: float
    visited: tuple[tuple[float, float], ...] = ()
    unconverged: tuple[float, ...] = ()
    solution: logistic.Solution | None = None


def _choose(train: Split, val: Split, classes: int, settings: ProbeSettings) -> _Choice:
    """Searches for the penalty with the best score on validation."""
    mesh, metric = settings.solver.mesh, settings.metric
    if metric is None:
        several = train[1].ndim == 2
        metric = average_precision.mean_average_precision if several else classification.top1
    regression = logistic.LogisticRegression(*train, classes, settings.solver)
    solutions: dict[int, logistic.Solution] = {}

    def scores_of(indices: Sequence[int], near: int | None) -> list[float]:
        distributed.heartbeat("fitting probes")
        start = None if near is None else solutions[near]
        # Later rounds have two penalties, or one at an end of the range: one program serves all.
        solved = regression.solve(LAMBDAS[list(indices)], start=start, lanes=_LANES)
        solutions.update((index, solved.lane(lane)) for lane, index in enumerate(indices))
        return [
            float(metric(logistic.scores(val[0], w, b, mesh=mesh), val[1]))
            for w, b in zip(solved.weights, solved.intercepts, strict=True)
        ]

    scores = search(scores_of)
    index = best(scores)
    return _Choice(
        float(LAMBDAS[index]),
        tuple((float(LAMBDAS[i]), scores[i]) for i in sorted(scores)),
        tuple(float(LAMBDAS[i]) for i in sorted(scores) if not solutions[i].converged[0]),
        solutions[index],
    )


def _result(
    chosen: _Choice, solution: logistic.Solution, test: Split, mesh: Mesh | None
) -> ProbeResult:
    weights, intercept = solution.weights[0], solution.intercepts[0]
    scores = logistic.scores(test[0], weights, intercept, mesh=mesh)
    return ProbeResult(
        lam=chosen.lam,
        visited=chosen.visited,
        metrics=classification.measure_scores(scores, test[1]),
        scores=scores,
        weights=weights,
        intercept=intercept,
        gradient_norm=float(solution.gradient_norms[0]),
        iterations=int(solution.iterations[0]),
        converged=bool(solution.converged[0]),
        unconverged=chosen.unconverged,
    )


def _checked(splits: dict[str, Split], classes: int | None) -> tuple[dict[str, Split], int]:
    """Splits with float32 features and checked labels, and K."""
    labels = {name: np.asarray(pair[1]) for name, pair in splits.items()}
    if classes is None:
        several = labels["train"].ndim == 2
        highest = max(
            (int(a.max(initial=0)) for a in labels.values() if a.dtype != bool), default=0
        )
        classes = labels["train"].shape[1] if several else highest + 1
    checked: dict[str, Split] = {}
    for name, (features, _) in splits.items():
        x = logistic.checked_features(features, f"{name} features")
        checked[name] = x, logistic.checked_labels(labels[name], len(x), classes, f"{name} labels")
    train_x, train_y = checked["train"]
    for name, (x, y) in checked.items():
        if x.shape[1] != train_x.shape[1] or y.ndim != train_y.ndim:
            raise ValueError(
                f"{name} and train differ: features {x.shape} and {train_x.shape}, "
                f"labels {y.shape} and {train_y.shape}"
            )
    return checked, classes
