"""The train state: what it holds, how it is sharded, how it comes into being in its shards."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clip_jax.models.clip import ClipModel
from clip_jax.models.execution import Execution
from clip_jax.runtime.mesh import PyTree, partition_spec
from clip_jax.training.optim import stochastic_rounding


@struct.dataclass
class TrainState:
    """All that training carries from step to step; everything else is a function of ``step``.

    Attributes:
      step: int32[], number of updates done.
      params: the model's parameters, float32 (weights of the text tower in ``text_dtype``).
      batch_stats: running means and variances of batch norms, float32; empty without any.
      opt_state: the optimizer's state.
      ema: exponential moving average of ``variables`` for evaluation, or None.
      skipped: int32[], consecutive updates left out because of a non-finite loss or gradient.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: optax.OptState
    ema: PyTree | None
    skipped: jax.Array

    @property
    def variables(self) -> dict[str, PyTree]:
        """What ``ClipModel.apply`` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> dict[str, PyTree]:
        """The variables to evaluate and export, float32."""
        return stochastic_rounding.upcast(self.variables) if self.ema is None else self.ema


def _create(
    model: ClipModel, tx: optax.GradientTransformation, use_ema: bool, text_dtype: str, key
) -> TrainState:
    c = model.config
    images = jnp.zeros((1, c.vision.image_size, c.vision.image_size, 3), jnp.uint8)
    tokens = jnp.zeros((1, c.text.context_length), jnp.int32)
    # A rolled loop compiles in a fraction of the time, and gives the same numbers.
    rolled = Execution(model.execution.dtype, scan_layers=True)
    variables = model.clone(execution=rolled).init(key, images, tokens)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    variables = {"params": params, "batch_stats": batch_stats}
    if text_dtype == "bfloat16":
        params = stochastic_rounding.cast_text_params(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        ema=jax.tree.map(jnp.copy, variables) if use_ema else None,
        skipped=jnp.zeros((), jnp.int32),
    )


@functools.lru_cache(maxsize=4)
def _creation(
    model: ClipModel, tx: optax.GradientTransformation, use_ema: bool, text_dtype: str
) -> Callable[[jax.Array], TrainState]:
    """``_create``, traced once for the shapes and the numbers: tracing takes seconds."""
    return jax.jit(functools.partial(_create, model, tx, use_ema, text_dtype))


def _is_box(x: object) -> bool:
    return isinstance(x, nn.meta.AxisMetadata)


def abstract(
    model: ClipModel,
    tx: optax.GradientTransformation,
    use_ema: bool,
    mesh: Mesh,
    *,
    text_dtype: str = "float32",
) -> tuple[TrainState, TrainState]:
    """The state's shapes and its shardings, computed without allocating anything.

    Args:
      text_dtype: stored dtype of the text tower's weights (see ``cast_text_params``).

    Returns:
      A TrainState of ShapeDtypeStruct (with shardings) and one of NamedSharding.
    """
    # Logical axis names sit in boxes around the parameters; they pass through eval_shape and
    # through optax, so that moments get the sharding of their parameter by construction.
    boxed = jax.eval_shape(_creation(model, tx, use_ema, text_dtype), jax.random.key(0))

    def sharding(x):
        if _is_box(x) and isinstance(x.value, optax.MaskedNode):
            return x.value  # a moment that this part of the optimizer does not keep
        if _is_box(x):
            return NamedSharding(mesh, partition_spec(x.names, mesh, x.value.shape))
        return NamedSharding(mesh, PartitionSpec())

    shardings = jax.tree.map(sharding, boxed, is_leaf=_is_box)
    with_sharding = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
    return jax.tree.map(with_sharding, nn.unbox(boxed), shardings), shardings


def create(
    model: ClipModel,
    tx: optax.GradientTransformation,
    use_ema: bool,
    mesh: Mesh,
    seed: int,
    *,
    text_dtype: str = "float32",
) -> TrainState:
    """Initialises straight into the shards: no device ever holds the whole state."""
    _, shardings = abstract(model, tx, use_ema, mesh, text_dtype=text_dtype)
    made = _creation(model, tx, use_ema, text_dtype)
    make = jax.jit(lambda key: nn.unbox(made(key)), out_shardings=shardings)
    return make(jax.random.key(seed))


def parameter_table(params: PyTree) -> str:
    """A table of parameters by tower and part: name, count, share; and the total."""
    rows: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = [k.key for k in path]
        name = "/".join(names[: 3 if "encoder" in names else 2])
        rows[name] = rows.get(name, 0) + leaf.size
    total = sum(rows.values())
    width = max(len(n) for n in rows)
    lines = [f"  {n:<{width}}  {c:>14,}  {c / total:>6.1%}" for n, c in rows.items()]
    return "\n".join([*lines, f"  {'total':<{width}}  {total:>14,}"])
