"""The learning rate of a run: warm-up and cosine, of the whole run or of groups of its stages."""

from collections.abc import Callable

import jax
import optax

from clip_jax.config import Stage, Stages

Schedule = Callable[[jax.Array], jax.Array]  # of the number of updates done


def warmup_cosine(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Linear from 0 to ``peak`` over ``warmup_steps``, then a half cosine to 0 at ``total_steps``.

    Step 0, the first update, already has peak / warmup_steps: an update of size 0 is wasted.

    Raises:
      ValueError: the warm-up is not shorter than the training.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"optim.warmup_examples is {warmup_steps} steps, but training has only {total_steps}; "
            "lower optim.warmup_examples or raise train.examples (or train.epochs)"
        )

    def schedule(step):
        warm = (step + 1) / max(warmup_steps, 1)
        progress = (step - warmup_steps) / (total_steps - warmup_steps)
        cosine = 0.5 * (1 + jax.numpy.cos(jax.numpy.pi * jax.numpy.clip(progress, 0, 1)))
        return peak * jax.numpy.where(step < warmup_steps, warm, cosine)

    return schedule


def from_stages(stages: Stages) -> Schedule:
    """The schedule of a run: a stage with a learning rate of its own begins another one.

    Raises:
      ValueError: a warm-up is not shorter than the stages that it is for.
    """
    starts = [stage for stage in stages if stage.new_schedule]
    ends = [*(stage.first_step for stage in starts[1:]), stages.total_steps]
    parts = [_part(stages, *span) for span in zip(starts, ends, strict=True)]
    return optax.join_schedules(parts, ends[:-1]) if len(parts) > 1 else parts[0]


def _part(stages: Stages, start: Stage, end: int) -> Schedule:
    optim = start.config.optim
    warm = stages.steps(start.first_example + optim.warmup_examples) - start.first_step
    total = end - start.first_step
    if len(stages) > 1 and warm >= total:
        raise ValueError(
            f"train.stages[{start.number}]: a warm-up of {optim.warmup_examples:,} examples takes "
            f"{warm} steps, but its schedule has only {total}; give the stage warmup_examples and "
            "a learning_rate, or lower optim.warmup_examples"
        )
    return warmup_cosine(optim.learning_rate, warm, total)


def rate(schedule: Schedule, opt_state: optax.OptState) -> jax.Array:
    """The learning rate of the next update: that of the updates made, not of the steps done.

    The two differ by the steps that were left out because something was not finite.
    """
    kind = optax.ScaleByScheduleState
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, kind))
    (count,) = (x.count for x in leaves if isinstance(x, kind))
    return schedule(count)
