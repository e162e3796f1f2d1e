"""Logistic regression by L-BFGS on the devices, for many penalties in one solve.

For every lambda it minimises ``sum_i loss_i(W, b) + lambda / 2 * ||W||^2``, the intercept free, as
scikit-learn does with C = 1 / lambda (CLIP paper, appendix A.3). The loss is the softmax cross
entropy of one class a row, or the sum of binary cross entropies where rows have several classes.
In the coordinates of ``logistic_loss`` it takes tens of iterations, not hundreds.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clip_jax.evals.metrics.validation import finite_rows, indices
from clip_jax.evals.probes import lbfgs, logistic_loss
from clip_jax.evals.probes.logistic_loss import dot
from clip_jax.runtime.mesh import BATCH_AXES, batch_sharding, batch_shards, create_mesh, replicated

MAX_ITERATIONS = 1000
# Of the gradient in the solver's coordinates, as a share of the objective: at 1e-4 no accuracy
# differs from that of the exact minimum, and float32 reaches it for every penalty of the paper.
TOLERANCE = 1e-4
# The intercept of a class without examples, whose best one is minus infinity.
FAR = 1e6

_CHUNK = 2**23  # most logits that a device holds for one penalty at once


@dataclasses.dataclass(frozen=True)
class Solver:
    """How regressions are solved.

    Attributes:
      mesh: whose devices share the rows; None: all devices of this process.
      padded_rows: pads the rows to at least this many, so that fewer rows need no new compilation.
      max_iterations: of L-BFGS, in every fit.
      tolerance: of the gradient; see ``TOLERANCE``.
    """

    mesh: Mesh | None = None
    padded_rows: int = 0
    max_iterations: int = MAX_ITERATIONS
    tolerance: float = TOLERANCE


@dataclasses.dataclass(frozen=True)
class Solution:
    """The result of one solve: one regression for each of L penalties.

    Attributes:
      lambdas: float64[L].
      weights: float32[L, K, D]; 0 for a class without examples.
      intercepts: float32[L, K]; -1e6 for a class without examples, +1e6 for one that (with several
        classes a row) every row has.
      objectives: float32[L], the minimum divided by the number of rows.
      gradient_norms: float32[L], Euclidean, of the gradient by weights and intercept, likewise.
      iterations: int32[L].
      converged: bool[L], whether the tolerance was reached within the iterations.
    """

    lambdas: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray
    objectives: np.ndarray
    gradient_norms: np.ndarray
    iterations: np.ndarray
    converged: np.ndarray

    def lane(self, index: int) -> "Solution":
        """The solution for one of the penalties."""
        fields = dataclasses.asdict(self)
        return Solution(**{name: value[index : index + 1] for name, value in fields.items()})


class LogisticRegression:
    """Features and labels on the devices, to be solved for any penalties.

    With two classes the softmax has twice as many weights as needed; its penalty is doubled, so
    that it finds what the binary regression with the penalty lambda does, as in scikit-learn.
    """

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        classes: int,
        solver: Solver = Solver(),
    ):
        """Checks the arrays and puts them on the devices.

        Args:
          features: float[n, D], the same on every process.
          labels: int[n] from 0 to K - 1, or bool[n, K] where rows have several classes or none.
          classes: K. Classes without examples are allowed; they are never predicted.
          solver: how it is solved.

        Raises:
          ValueError: arrays that do not fit, or fewer than two classes have examples.
        """
        features = checked_features(features, "features")
        labels = checked_labels(labels, len(features), classes)
        counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=classes)
        if labels.ndim == 1 and (counts > 0).sum() < 2:
            raise ValueError(f"all {len(labels)} rows have one class; a regression needs two")
        self.mesh = _default_mesh() if solver.mesh is None else solver.mesh
        self.classes, self.solver = classes, solver
        self._doubled = 2.0 if labels.ndim == 1 and (counts > 0).sum() == 2 else 1.0
        self._n = len(features)
        rows = _put(self.mesh, features, labels, classes, solver.padded_rows)
        share = counts / self._n
        with np.errstate(divide="ignore"):
            intercept = np.log(share) - (np.log1p(-share) if labels.ndim == 2 else 0)
        self._offset = np.clip(intercept, -FAR, FAR).astype(np.float32)
        self._present = (share > 0) & (share < 1)
        variance = np.where(self._present, share * (1 - share), 1).astype(np.float32)
        self._problem = logistic_loss.prepare(rows, self._offset, variance, self.mesh)

    def solve(
        self, lambdas: Sequence[float], *, start: Solution | None = None, lanes: int = 0
    ) -> Solution:
        """Solves for all penalties at once; none changes the solution of another.

        Args:
          lambdas: L positive penalties.
          start: where to begin, one solution for all; the class frequencies by default.
          lanes: pads the penalties to this many, so that fewer need no new compilation.

        Raises:
          ValueError: a penalty is not a positive number.
        """
        wanted = np.asarray(lambdas, np.float64)
        if wanted.ndim != 1 or not len(wanted) or not np.all((wanted > 0) & np.isfinite(wanted)):
            raise ValueError(f"lambdas={lambdas!r} must be positive numbers, at least one")
        penalties = np.zeros(max(lanes, len(wanted)), np.float32)
        penalties[: len(wanted)] = self._doubled * wanted / self._n
        weights, intercept = self._start(start)
        solved = _solve(
            self._problem, penalties, weights, intercept,
            np.float32(self.solver.tolerance), np.int32(self.solver.max_iterations), mesh=self.mesh,
        )  # fmt: skip
        solved = [np.asarray(x)[: len(wanted)] for x in solved]
        return Solution(wanted, *solved)

    def _start(self, start: Solution | None) -> tuple[np.ndarray, np.ndarray]:
        dimensions = self._problem.axes.shape[0]
        if start is None:
            return np.zeros((self.classes, dimensions), np.float32), self._offset
        if len(start.lambdas) != 1 or start.weights.shape[1:] != (self.classes, dimensions):
            raise ValueError(
                f"start has weights {start.weights.shape}, not (1, {self.classes}, {dimensions})"
            )
        # A class without examples then and with some now starts from the default, and vice versa.
        known = self._present & (np.abs(start.intercepts[0]) < FAR)
        weights = np.where(known[:, None], start.weights[0], 0)
        # In float64: every process must start from the same bits, whatever its processor.
        shift = np.asarray(self._problem.mean, np.float64) @ weights.T.astype(np.float64)
        intercepts = np.where(known, start.intercepts[0] + shift, self._offset)
        return weights, intercepts.astype(np.float32)


def scores(
    features: np.ndarray, weights: np.ndarray, intercept: np.ndarray, *, mesh: Mesh | None = None
) -> np.ndarray:
    """Logits float32[n, K] of rows, bit for bit the same on every process.

    Args:
      features: float[n, D].
      weights: float32[K, D].
      intercept: float32[K].
      mesh: whose devices share the rows; None: all of this process.
    """
    mesh = _default_mesh() if mesh is None else mesh
    n, shards = len(features), batch_shards(mesh)
    padded = np.zeros((-(-n // shards) * shards, weights.shape[1]), "f4")
    padded[:n] = features
    rows = jax.make_array_from_callback(padded.shape, batch_sharding(mesh), padded.__getitem__)
    return np.asarray(_scorer(mesh)(rows, weights, intercept))[:n]


def checked_features(features: np.ndarray, name: str) -> np.ndarray:
    """Returns features as float32[n, D]; ValueError for another shape, no rows, NaN or infinity."""
    rows = np.asarray(features, np.float32)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"{name} must have the shape [n, D] and rows, got {list(rows.shape)}")
    finite_rows(rows, name)
    return rows


def checked_labels(labels: np.ndarray, n: int, classes: int, name: str = "labels") -> np.ndarray:
    """Returns labels as int32[n], or as bool[n, K] where rows have several classes.

    Raises:
      ValueError: another shape or kind, or a class that is not from 0 to K - 1.
    """
    labels = np.asarray(labels)
    if labels.dtype == bool and labels.shape == (n, classes):
        return labels
    alternative = f"bool[{n}, {classes}]"
    return indices(labels, n, classes, name, alternative=alternative).astype(np.int32)


def _put(
    mesh: Mesh, features: np.ndarray, labels: np.ndarray, classes: int, padded_rows: int
) -> logistic_loss.Rows:
    """Pads the rows and splits them over the devices, in chunks that bound the logits' memory."""
    shards, n = batch_shards(mesh), len(features)
    rows = max(n, padded_rows)
    chunks = -(-rows * classes // (_CHUNK * shards))
    each = -(-rows // (chunks * shards)) * shards
    sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))

    def put(array: np.ndarray) -> jax.Array:
        padding = [(0, chunks * each - n)] + [(0, 0)] * (array.ndim - 1)
        whole = np.pad(array, padding).reshape(chunks, each, *array.shape[1:])
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return logistic_loss.Rows(put(features), put(labels), put(np.ones(n, np.float32)))


@functools.partial(jax.jit, static_argnames=("max_iterations", "mesh"))
def _solve(
    problem: logistic_loss.Problem,
    penalties: jax.Array,
    weights: jax.Array,
    intercept: jax.Array,
    tolerance: jax.Array,
    max_iterations: jax.Array,
    *,
    mesh: Mesh,
) -> tuple[jax.Array, ...]:
    """All but the first of the fields of ``Solution``, for penalties float32[L], 0 for padding."""
    scale, origin = logistic_loss.coordinates(problem, penalties)
    start = jnp.concatenate([dot("de,kd->ek", problem.axes, weights), intercept[None]])

    def evaluate(points: jax.Array, lanes: jax.Array) -> tuple[jax.Array, jax.Array]:
        parameters = scale[lanes] * points + origin
        values, gradients = logistic_loss.objective(problem, parameters, penalties[lanes], mesh)
        return values, scale[lanes] * gradients

    minimum = lbfgs.minimize(
        evaluate, (start - origin) / scale, penalties > 0, tolerance, max_iterations
    )
    parameters, gradients = scale * minimum.points + origin, minimum.gradients / scale
    weights = dot("de,lek->lkd", problem.axes, parameters[:, :-1])
    intercepts = parameters[:, -1] - dot("lkd,d->lk", weights, problem.mean)
    # With respect to the weights of features that are not centred.
    by_weight = dot("de,lek->ldk", problem.axes, gradients[:, :-1])
    by_weight += problem.mean[:, None] * gradients[:, -1:]
    norms = jnp.sqrt((by_weight**2).sum((1, 2)) + (gradients[:, -1] ** 2).sum(1))
    return jax.lax.with_sharding_constraint(
        (weights, intercepts, minimum.values, norms, minimum.iterations, minimum.converged),
        replicated(mesh),
    )


@functools.cache
def _scorer(mesh: Mesh) -> Callable[..., jax.Array]:
    def run(features: jax.Array, weights: jax.Array, intercept: jax.Array) -> jax.Array:
        return dot("nd,kd->nk", features, weights) + intercept

    return jax.jit(run, out_shardings=replicated(mesh))


def _default_mesh() -> Mesh:
    return create_mesh({"data": -1}, jax.local_devices())
