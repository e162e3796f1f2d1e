"""How the train step is computed where the config says auto: the fastest way that fits.

Unrolled layers run faster than a loop on every platform: a loop writes what the backward pass needs
into stacks and copies it out again. Of the rematerialisation policies, the one that recomputes
least and fits is taken. What fits is estimated in closed form, from what blocks keep for the
backward pass (``models.execution``); ``clip_jax.aot`` asks the compiler.
"""

import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from clip_jax.models.attention import padded_length
from clip_jax.models.clip import explicit_execution
from clip_jax.models.execution import Execution
from clip_jax.models.resnet import EXPANSION, ResNetConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.variants import ClipConfig
from clip_jax.models.vit import ViTConfig
from clip_jax.runtime import distributed
from clip_jax.runtime.errors import ConfigError
from clip_jax.runtime.mesh import batch_shards
from clip_jax.training import text_length

# From the fastest to the one that needs least memory; "dots" keeps as much as "elementwise" and
# recomputes more.
POLICIES = ("none", "elementwise", "mlp", "projections", "full")
# Of the memory: the estimate's error, and what the allocator loses between arrays. A TPU pads the
# last axis of an array to 128 and the one before to 8 or 16, which the estimate does not know: for
# ViT-B/16 and ViT-L/14 the compiler needs a tenth more.
HEADROOM = 0.95
TPU_HEADROOM = 0.85
LARGEST_CUDNN_HEAD = 128
LEAST_CUDNN_CAPABILITY = 8.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a step is computed, and why, in words."""

    execution: Execution
    reason: str


def device_memory(mesh: Mesh) -> int:
    """Bytes that a program may use on a device of the mesh; 0 where that is not known.

    They are the lead's, in whole MiB: processes that chose differently would wait for each other.
    """
    device = next(d for d in mesh.devices.flat if d.process_index == jax.process_index())
    statistics = device.memory_stats() or {}
    return 2**20 * distributed.broadcast_from_lead(statistics.get("bytes_limit", 0) // 2**20)


def choose(config: ConfigDict, model: ClipConfig, mesh: Mesh, parameters: int, memory: int) -> Plan:
    """The plan of a config on a mesh; what the config says explicitly is kept.

    Args:
      config: of the run.
      model: sizes of the model.
      mesh: where it is trained.
      parameters: their number.
      memory: bytes of a device that a program may use; 0: not known, and taken to be enough.

    Raises:
      ConfigError: ``model.attention=cudnn`` and something that it cannot do.
    """
    execution = explicit_execution(config.model)
    device = mesh.devices.flat[0]
    platform = device.platform
    problem = _cudnn_problem(device, execution, model)
    if config.model.attention == "auto" and not problem:
        execution = dataclasses.replace(execution, attention="cudnn")
    if config.model.attention == "cudnn" and problem:
        raise ConfigError(f"model.attention=cudnn: {problem}; use auto or xla")
    candidates = POLICIES if config.model.remat_policy == "auto" else (execution.remat_policy,)
    headroom = TPU_HEADROOM if platform == "tpu" else HEADROOM
    for policy in candidates:
        execution = dataclasses.replace(execution, remat_policy=policy)
        needed = step_bytes(config, model, mesh, parameters, execution)
        if not memory or needed <= headroom * memory:
            break
    return Plan(execution, _words(execution, platform, needed, memory, headroom))


def _cudnn_problem(device: jax.Device, execution: Execution, model: ClipConfig) -> str:
    """Why cuDNN's attention cannot be used; empty where it can."""
    if device.platform not in ("gpu", "cuda"):
        return f"there is no NVIDIA GPU here, but {device.platform}"
    capability = str(getattr(device, "compute_capability", ""))
    if not capability[:1].isdigit() or float(capability) < LEAST_CUDNN_CAPABILITY:
        return f"it wants an NVIDIA GPU from Ampere on, and this is {device.device_kind}"
    if jnp.dtype(execution.dtype) != jnp.bfloat16:
        return f"it wants model.dtype=bfloat16, not {jnp.dtype(execution.dtype)}"
    for tower in (t for t in (model.vision, model.text) if not isinstance(t, ResNetConfig)):
        head = tower.width // tower.num_heads
        if head % 8 or head > LARGEST_CUDNN_HEAD:
            return f"heads of {head} dimensions are not a multiple of 8 up to {LARGEST_CUDNN_HEAD}"
    return ""


def _words(execution: Execution, platform: str, needed: int, memory: int, headroom: float) -> str:
    layers = "a loop over the layers" if execution.scan_layers else "layers unrolled"
    again = {"none": "nothing recomputed"}.get(
        execution.remat_policy, f"remat_policy {execution.remat_policy}"
    )
    size = f"{needed / 2**30:.1f} GiB" if needed >= 2**30 else f"{needed / 2**20:.0f} MiB"
    if not memory:
        why = f"on {platform} about {size} a device"
    elif needed <= headroom * memory:
        why = f"about {size} of {memory / 2**30:.1f} GiB"
    else:
        share = f"{headroom:.0%} of the {memory / 2**30:.1f} GiB"
        why = f"about {size}, more than {share} there are"
    return f"{layers}, {again}, {execution.attention} attention ({why})"


def step_bytes(
    config: ConfigDict, model: ClipConfig, mesh: Mesh, parameters: int, execution: Execution
) -> int:
    """Bytes that a train step needs on a device, estimated.

    The state and its gradients; the images; the activations that the backward pass needs; and
    what one block has while its own backward pass runs.
    """
    each = config.train.batch_size / batch_shards(mesh) / config.train.num_microbatches
    state = 4 * (3 + (config.optim.ema_decay > 0)) * parameters
    gradients = (4 + 2) * parameters
    sharded = (state + gradients) / (mesh.shape["fsdp"] * mesh.shape["tensor"])
    kept, largest = 0.0, 0.0
    for working, policy_bytes in _blocks(config, model, execution):
        kept += policy_bytes
        largest = max(largest, working)
    # Pixels as bytes, in float32 for their normalisation, and in the compute dtype as patches.
    pixels = 3 * model.vision.image_size**2 * (1 + 4 + 2 * jnp.dtype(execution.dtype).itemsize)
    return math.ceil(sharded + each * (kept + largest + pixels))


def _blocks(
    config: ConfigDict, model: ClipConfig, execution: Execution
) -> Iterator[tuple[float, float]]:
    """Of each block: bytes an example while it is differentiated, and bytes kept until then."""
    for tower in (model.vision, model.text):
        if isinstance(tower, ResNetConfig):
            yield from _resnet_blocks(tower, execution)
        elif isinstance(tower, ViTConfig):
            tokens = tower.patches_kept(config.model.patch_dropout) + (tower.pool == "cls")
            yield from _transformer_blocks(tower, tokens, execution)
        elif isinstance(tower, TextConfig):
            tokens = text_length.longest(config, tower)
            yield from _transformer_blocks(tower, tokens, execution)


def _transformer_blocks(
    tower: ViTConfig | TextConfig, tokens: int, execution: Execution
) -> Iterator[tuple[float, float]]:
    tokens = padded_length(execution.attention, tokens)
    size = jnp.dtype(execution.dtype).itemsize
    width, hidden = tower.width, tower.mlp_width
    # The softmax, in the compute dtype for the product with the values and in float32 for its own
    # derivative; cuDNN keeps one number of every row.
    softmax = tower.num_heads * tokens * (size + 4) if execution.attention == "xla" else 0
    # Block input; queries, keys, values; the attention's output; the stream after it.
    attended, residual, qkv = width, width, 3 * width
    kept = {
        "none": size * (width + width + qkv + attended + residual + width + 2 * hidden) + softmax,
        "elementwise": size * (width + qkv + attended + residual + hidden),
        "dots": size * (width + qkv + attended + hidden),
        "mlp": size * (width + qkv + attended + residual),
        "projections": size * (width + attended + residual),
        "full": size * width,
    }
    for _ in range(tower.num_layers - 1):
        # While it is differentiated, all of that and the gradients of as much.
        yield 2 * tokens * kept["none"], tokens * kept[execution.remat_policy]


def _resnet_blocks(tower: ResNetConfig, execution: Execution) -> Iterator[tuple[float, float]]:
    size = jnp.dtype(execution.dtype).itemsize
    side = tower.image_size // 4
    for stage, blocks in enumerate(tower.num_layers):
        width = tower.width * 2**stage
        for block in range(blocks):
            wide = side * side
            if stage and not block:
                side //= 2
            narrow = side * side
            inner, outer = 2 * wide * width, narrow * EXPANSION * width
            convolutions = inner + outer * (1 if block else 2)
            # A batch norm needs its input, the next convolution the activation behind it. Behind
            # the last one, that is the block's output.
            whole = size * (inner + convolutions + outer)
            keeps = {"none": whole, "elementwise": size * (convolutions + outer)}
            yield whole, keeps.get(execution.remat_policy, size * outer)
