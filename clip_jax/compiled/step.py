"""Compiles the train step of a config for devices that need not be there."""

import contextlib
import dataclasses
import math
import re
import time
from types import SimpleNamespace

import jax

from clip_jax import config as config_lib
from clip_jax.analysis import hlo
from clip_jax.analysis.chips import Chip
from clip_jax.compiled.report import Report, gib
from clip_jax.models import clip
from clip_jax.runtime import mesh
from clip_jax.training import program, text_length


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for: ``topology`` as it was given, and the ``chip``, None for CPUs."""

    topology: str
    devices: list[jax.Device]
    chip: Chip | None


def compile_step(config: config_lib.ConfigDict, target: Target) -> Report:
    """Compiles the train step of a config for devices, and reports what it needs.

    Raises:
      ValueError: parts of the config do not go together, or not with the devices.
    """
    sizes, devices, chip = config.mesh.to_dict(), target.devices, target.chip
    on = mesh.create_mesh(sizes, devices)
    mesh.local_rows(on, config.train.batch_size)  # complains of a batch that cannot be divided
    model = clip.build(config.model, _tokenizer_sizes(config))
    capacity = chip.memory if chip else 0
    made = program.build(config, model, on, memory=capacity)
    started, problem = time.perf_counter(), ""
    memory, collectives, moves = hlo.Memory(0, 0, 0, 0), [], []
    batch = program.abstract_batch(config, model, on)
    with chip.described() if chip else contextlib.nullcontext(), jax.set_mesh(on):
        lowered = made.train_step.lower(made.abstract, batch)
        try:
            result = lowered.compile(compiler_options=chip.compiler_options if chip else None)
        except Exception as error:  # the compiler's own
            if "memory" not in str(error).lower():
                raise
            problem = _first_line(str(error))
        else:
            text = _text(result)
            memory, collectives = hlo.memory(result), hlo.collectives(text)
            moves = hlo.moves(text)
            if capacity and memory.total > capacity:  # GPUs' compiler does not mind
                problem = f"{gib(memory.total)} of {gib(capacity)}"
    between = sum(c.received for c in collectives if c.kind == hlo.BETWEEN_SLICES)
    received = sum(c.received for c in collectives) - between
    step = made.model, config.train.batch_size, text_length.longest(config, model.config.text)
    work = math.ceil(program.step_flops(*step) / len(devices))
    recomputed = math.ceil(program.recomputed_flops(*step) / len(devices))
    return Report(
        topology=target.topology,
        devices=len(devices),
        mesh={**on.shape, "slices": sizes["slices"]},
        batch=config.train.batch_size,
        execution=made.execution,
        loss=made.loss,
        memory={**dataclasses.asdict(memory), "total": memory.total},
        capacity=capacity,
        fits=not problem,
        problem=problem,
        flops=work,
        recomputed_flops=recomputed,
        compute_seconds=(work + recomputed) / chip.flops if chip else 0.0,
        link_seconds=received / chip.link if chip else 0.0,
        received=received,
        between_slices=between,
        collectives=[dataclasses.asdict(c) for c in collectives],
        moves=[dataclasses.asdict(m) for m in moves],
        compile_seconds=time.perf_counter() - started,
    )


def _text(result: jax.stages.Compiled) -> str:
    try:
        return result.as_text()
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"jax {jax.__version__} cannot read what this libtpu compiled "
            f"({_first_line(str(error))}); the two belong together: pip install '.[tpu]'"
        ) from None


def _tokenizer_sizes(config: config_lib.ConfigDict) -> SimpleNamespace:
    """What a model takes of a tokenizer, whose model file need not be here."""
    c = config.tokenizer
    vocab_size, eot_id = (49408, 49407) if c.name == "clip" else (c.vocab_size, 1)
    return SimpleNamespace(context_length=c.context_length, vocab_size=vocab_size, eot_id=eot_id)


def _first_line(text: str) -> str:
    match = re.search(r"[^\n]*(?:Ran out of|exceeded|Exceeded|memory)[^\n]*", text)
    return (match[0] if match else text.strip().splitlines()[0]).strip()[:300]
