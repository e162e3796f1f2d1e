"""What a config computes: optimizer, abstract state and the jitted train step on a mesh.

Nothing is allocated here: the trainer fills the state with numbers, and the ahead-of-time compiler
asks what the program would need.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clip_jax import losses
from clip_jax.analysis.chips import peak_flops
from clip_jax.data import batch
from clip_jax.models import flops
from clip_jax.models.clip import ClipModel
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.variants import ClipConfig
from clip_jax.models.vit import ViTConfig
from clip_jax.runtime.mesh import batch_sharding, batch_shards
from clip_jax.training import gradient_cache, optim, plan, state, step, text_length


@dataclasses.dataclass(frozen=True)
class Program:
    """The train step of a run and what belongs to it.

    Attributes:
      model: what is trained, with the execution that was chosen.
      execution: which, and why, in words.
      tx, schedule: the optimizer and its learning rate.
      create: seed -> the train state of step 0, in its shards.
      abstract, shardings: the train state's shapes, and where its parts lie.
      train_step: jitted (state, batch, text length) -> (state, metrics); the state is donated
        and the length static.
      loss: name and implementation of the loss, and why that one, in words.
    """

    model: ClipModel
    execution: str
    tx: optax.GradientTransformation
    schedule: optim.Schedule
    create: Callable[[int], state.TrainState]
    abstract: state.TrainState
    shardings: state.TrainState
    train_step: step.Step
    loss: str


def build(
    config: ConfigDict,
    model: ClipModel,
    mesh: Mesh,
    schedule: optim.Schedule | None = None,
    memory: int | None = None,
) -> Program:
    """The program of a config; ``model`` is that of ``clip.build(config.model, ...)``.

    Args:
      schedule: of the learning rate; by default its peak throughout, which costs the same.
      memory: bytes of a device that the program may use; by default what the device says.

    Raises:
      ValueError: parts of the config do not go together; names the keys.
    """
    c = config
    schedule = schedule or (lambda _: jnp.float32(c.optim.learning_rate))
    tx = optim.build(c.optim, schedule, c.seed, c.model.text.param_dtype)
    kind = (model, tx, c.optim.ema_decay > 0, mesh)
    abstract, shardings = state.abstract(*kind, text_dtype=c.model.text.param_dtype)
    memory = plan.device_memory(mesh) if memory is None else memory
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(abstract.params))
    chosen = plan.choose(c, model.config, mesh, parameters, memory)
    planned = model.clone(execution=chosen.execution)
    loss_fn, loss = losses.from_config(c, model.config, mesh)
    _check_axes(model, mesh, shardings)
    resnet = isinstance(model.config.vision, ResNetConfig)
    group = c.model.batch_norm_group if resnet else None
    text_length.longest(c, model.config.text)  # complains of one that cannot be
    gradient_cache.check(c.train.num_microbatches, c.train.batch_size, mesh, group)
    options = step.StepOptions(
        seed=c.seed,
        ema_decay=c.optim.ema_decay,
        mask_groups=c.loss.mask_groups,
        soft_targets=c.loss.soft_targets > 0,
        clip_scale=losses.LOSSES[c.loss.name].clip_scale,
        num_microbatches=c.train.num_microbatches,
        shards=batch_shards(mesh),
    )
    pure = step.train_step(planned, tx, schedule, loss_fn, options)
    compiled = step.compile_train_step(pure, shardings, mesh)
    create = functools.partial(state.create, *kind, text_dtype=c.model.text.param_dtype)
    return Program(
        planned, chosen.reason, tx, schedule, create, abstract, shardings, compiled, loss
    )


def _check_axes(model: ClipModel, mesh: Mesh, shardings: state.TrainState) -> None:
    # A tower whose heads a tensor axis does not divide would be computed whole on every device;
    # an axis that divides no parameter would do nothing at all.
    used = {axis for s in jax.tree.leaves(shardings.params) for axis in s.spec}
    for axis in ("fsdp", "tensor"):
        if mesh.shape[axis] > 1 and axis not in used:
            raise ValueError(
                f"mesh.{axis}={mesh.shape[axis]} divides no parameter of this model "
                f"(model.text.width={model.config.text.width}); use a divisor"
            )
    parts = mesh.shape["tensor"]
    for tower in ("vision", "text"):
        heads = getattr(model.config, tower).num_heads
        if heads % parts:
            raise ValueError(
                f"mesh.tensor={parts} does not divide model.{tower}.num_heads={heads}; use a "
                "divisor of it, or mesh.fsdp"
            )


def step_flops(model: ClipModel, batch_size: int, length: int) -> int:
    """FLOPs of a step of a built-in model whose captions are computed up to ``length`` tokens."""
    return flops.training(_with_captions_of(length, model), batch_size, model.patch_dropout)


def recomputed_flops(model: ClipModel, batch_size: int, length: int) -> int:
    """Those that the model's rematerialisation adds."""
    policy = model.execution.remat_policy
    a_pair = flops.recomputed(_with_captions_of(length, model), policy, model.patch_dropout)
    return batch_size * a_pair


def _with_captions_of(length: int, model: ClipModel) -> ClipConfig:
    text = dataclasses.replace(model.config.text, context_length=length)
    return dataclasses.replace(model.config, text=text)


def mesh_peak(mesh: Mesh) -> float:
    """Peak of bfloat16 products of all devices of a mesh, FLOP/s; 0 where it is not known."""
    return sum(peak_flops(device.device_kind) for device in mesh.devices.flat)


def utilisation(
    model: ClipModel, mesh: Mesh, batch_size: int, lengths: Sequence[int], seconds: float
) -> float:
    """Model FLOPs utilisation: of the devices' peak of bfloat16 products, what the model needs.

    Args:
      model: what is trained.
      mesh: where.
      batch_size: examples of a step.
      lengths: of some steps, the tokens up to which captions were computed.
      seconds: a step, on average.

    Returns:
      A share of 1; 0 where the peak of the devices or the image tower is not known.
    """
    peak = mesh_peak(mesh)
    if not peak or not isinstance(model.config.vision, ViTConfig | ResNetConfig):
        return 0.0
    needed = sum(step_flops(model, batch_size, length) for length in lengths) / len(lengths)
    return needed / (peak * seconds)


def abstract_batch(config: ConfigDict, model: ClipModel, mesh: Mesh) -> batch.Batch:
    """Shapes of a global batch of the train step."""
    size, length = model.config.vision.image_size, text_length.longest(config, model.config.text)
    return batch.abstract(config.train.batch_size, size, length, batch_sharding(mesh))
