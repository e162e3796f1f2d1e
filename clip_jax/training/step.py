"""The pure steps: one update of the train state, and the embeddings of a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from clip_jax.data.batch import Batch
from clip_jax.losses import LossFn, caption_topics
from clip_jax.models.clip import MAX_LOGIT_SCALE, ClipModel, probe_features
from clip_jax.runtime.mesh import batch_sharding, replicated
from clip_jax.training import gradient_cache, stochastic_rounding
from clip_jax.training.optim import Schedule, rate
from clip_jax.training.state import TrainState

Metrics = dict[str, jax.Array]


def train_step(
    model: ClipModel,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    loss_fn: LossFn,
    *,
    seed: int,
    ema_decay: float,
    mask_groups: bool,
    soft_targets: bool,
    clip_scale: bool = True,
    pieces: int = 1,
    shards: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Makes the pure function (state, batch) -> (state, metrics).

    A step whose loss or gradient is not finite leaves the state as it was, apart from the step
    number: the run goes on as if that batch had not been drawn. Randomness is a function of
    (seed, step) alone, so that a resumed run draws what the undisturbed one would have.

    Args:
      clip_scale: keep the logit scale within 1 to 100 (paper section 2.5).
      pieces: micro-batches in which the gradient is found; see ``gradients``.
      shards: batch shards of the mesh.
      The others: config keys of the same names, and what is built from them.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rngs = {"patch_dropout": jax.random.fold_in(jax.random.key(seed), state.step)}
        groups = batch.groups if mask_groups else None
        vocab_size = model.config.text.vocab_size
        topics = caption_topics(batch.tokens, vocab_size) if soft_targets else None

        loss, aux, batch_stats, grads = gradient_cache.compute(
            model, loss_fn, state.variables, batch, rngs, (groups, topics), pieces, shards
        )
        grads = stochastic_rounding.upcast(grads)
        grad_norm = optax.tree.norm(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # Clipped after the update, as the released models were (section 2.5: at most 100).
        # SigLIP's scale, which comes with a bias, is not.
        if clip_scale:
            params["logit_scale"] = jnp.clip(params["logit_scale"], 0.0, MAX_LOGIT_SCALE)
        variables = {"params": params, "batch_stats": batch_stats}
        ema = _average(state.ema, stochastic_rounding.upcast(variables), ema_decay, state.step)

        def keep(new, old):
            return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)

        new_state = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            batch_stats=keep(batch_stats, state.batch_stats),
            opt_state=keep(opt_state, state.opt_state),
            ema=keep(ema, state.ema),
            skipped=jnp.where(good, 0, state.skipped + 1),
        )
        metrics = {
            "loss": loss,
            "accuracy": aux["accuracy"],
            "logit_scale": jnp.exp(new_state.params["logit_scale"]),
            "grad_norm": grad_norm,
            "learning_rate": rate(schedule, state.opt_state),
            "skipped": new_state.skipped,
            "unreadable": batch.unreadable.sum(),
            "preempted": batch.preempted.max(),
        }
        return new_state, metrics

    return step


def _average(ema: Any, variables: Any, decay: float, step: jax.Array) -> Any:
    """Moving average whose decay grows from 0, so that the random start is forgotten quickly."""
    if ema is None:
        return None
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, v: e + (1 - d) * (v - e), ema, variables)


def compile_train_step(
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    shardings: TrainState,
    mesh: Mesh,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Jits a train step with explicit shardings on both sides and the state donated."""
    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def embed_steps(model: ClipModel, mesh: Mesh) -> tuple[Callable, Callable, Callable]:
    """Jitted (variables, images) -> f32[B, E], (variables, tokens) -> f32[B, E], and
    (variables, images) -> f32[B, F], the features of ``clip.probe_features``.

    Batches come in sharded over the batch axes; results go out whole to every device, so that
    each process can read them.
    """

    def jitted(function):
        return jax.jit(function, out_shardings=replicated(mesh))

    return (
        jitted(
            lambda variables, images: model.apply(variables, images, method=ClipModel.embed_images)
        ),
        jitted(
            lambda variables, tokens: model.apply(variables, tokens, method=ClipModel.embed_texts)
        ),
        jitted(lambda variables, images: probe_features(model, variables, images)),
    )
