"""The pure steps: one update of the train state, and the embeddings of a batch."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from clip_jax.data.batch import Batch
from clip_jax.losses import LossFn, caption_topics
from clip_jax.models.clip import MAX_LOGIT_SCALE, ClipModel, probe_features
from clip_jax.runtime.mesh import PyTree, batch_sharding, replicated
from clip_jax.training import gradient_cache
from clip_jax.training.optim import Schedule, rate, stochastic_rounding
from clip_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
Step = Callable[..., tuple[TrainState, Metrics]]  # of a state, a batch and a text length


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What a train step does beside the model, the optimizer and the loss.

    Attributes:
      seed: of all randomness, which is a function of (seed, step) alone, so that a resumed run
        draws what the undisturbed one would have.
      ema_decay: of the moving average, where the state has one.
      mask_groups: examples of one group are not each other's negatives.
      soft_targets: the loss wants the topics of the captions.
      clip_scale: keep the logit scale within 1 to 100 (paper section 2.5).
      num_microbatches: in which the gradient is computed; see ``gradient_cache``.
      shards: batch shards of the mesh.
    """

    seed: int = 0
    ema_decay: float = 0.0
    mask_groups: bool = False
    soft_targets: bool = False
    clip_scale: bool = True
    num_microbatches: int = 1
    shards: int = 1


def train_step(
    model: ClipModel,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    loss_fn: LossFn,
    options: StepOptions,
) -> Step:
    """Makes the pure function (state, batch, text length) -> (state, metrics).

    The length is static: captions are computed up to it (see ``text_length``); None: whole.

    A step whose loss or gradient is not finite leaves the state as it was, apart from the step
    number: the run goes on as if that batch had not been drawn.
    """

    def step(
        state: TrainState, batch: Batch, text_length: int | None = None
    ) -> tuple[TrainState, Metrics]:
        rngs = {"patch_dropout": jax.random.fold_in(jax.random.key(options.seed), state.step)}
        groups = batch.groups if options.mask_groups else None
        topics = None
        if options.soft_targets:
            topics = caption_topics(batch.tokens, model.config.text.vocab_size)
        batch = batch._replace(tokens=batch.tokens[:, :text_length])
        loss, aux, batch_stats, grads = gradient_cache.compute(
            model, loss_fn, state.variables, batch, rngs, (groups, topics),
            options.num_microbatches, options.shards,
        )  # fmt: skip
        grads = stochastic_rounding.upcast(grads)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        new_state = _updated(state, tx, grads, batch_stats, finite, options)
        metrics = {
            "loss": loss,
            "accuracy": aux["accuracy"],
            "logit_scale": jnp.exp(new_state.params["logit_scale"]),
            "grad_norm": grad_norm,
            "learning_rate": rate(schedule, state.opt_state),
            "nonfinite_steps": new_state.skipped,
            "unreadable": batch.unreadable.sum(),
            "preempted": batch.preempted.max(),
        }
        return new_state, metrics

    return step


def _updated(
    state: TrainState,
    tx: optax.GradientTransformation,
    grads: PyTree,
    batch_stats: PyTree,
    finite: jax.Array,
    options: StepOptions,
) -> TrainState:
    """The state after an update with ``grads``, or, where not ``finite``, without any."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # Clipped after the update, as the released models were (section 2.5: at most 100).
    # SigLIP's scale, which comes with a bias, is not.
    if options.clip_scale:
        params["logit_scale"] = jnp.clip(params["logit_scale"], 0.0, MAX_LOGIT_SCALE)
    variables = stochastic_rounding.upcast({"params": params, "batch_stats": batch_stats})
    ema = _average(state.ema, variables, options.ema_decay, state.step)

    def keep(new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

    return TrainState(
        step=state.step + 1,
        params=keep(params, state.params),
        batch_stats=keep(batch_stats, state.batch_stats),
        opt_state=keep(opt_state, state.opt_state),
        ema=keep(ema, state.ema),
        skipped=jnp.where(finite, 0, state.skipped + 1),
    )


def _average(ema: PyTree, variables: PyTree, decay: float, step: jax.Array) -> PyTree:
    """Moving average whose decay grows from 0, so that the random start is forgotten quickly."""
    if ema is None:
        return None
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, v: e + (1 - d) * (v - e), ema, variables)


def compile_train_step(step: Step, shardings: TrainState, mesh: Mesh) -> Step:
    """Jits a train step with explicit shardings on both sides and the state donated."""
    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        static_argnums=2,
    )


def embed_steps(model: ClipModel, mesh: Mesh) -> tuple[Callable, Callable, Callable]:
    """Jitted (variables, images) -> f32[B, E], (variables, tokens) -> f32[B, E], and
    (variables, images) -> f32[B, F], the features of ``clip.probe_features``.

    Batches come in sharded over the batch axes; results go out whole to every device, so that
    each process can read them.
    """
    functions = (
        lambda variables, images: model.apply(variables, images, method=ClipModel.embed_images),
        lambda variables, tokens: model.apply(variables, tokens, method=ClipModel.embed_texts),
        lambda variables, images: probe_features(model, variables, images),
    )
    return tuple(jax.jit(f, out_shardings=replicated(mesh)) for f in functions)
