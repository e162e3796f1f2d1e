"""Compiles the train step for machines that are not there: does it fit, and how fast can it be?

python -m clip_jax.aot --config=configs/vit_b32.py --topology=v5e:16x16

For TPUs (v4, v5e, v5p, v6e, tpu7x; two slices: v5e:16x16*2) the real compiler runs on this
machine's CPU, which needs the extra ``tpu``. ``--topology=cpu:8`` compiles for 8 emulated devices.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from clip_jax import cli
from clip_jax import config as config_lib
from clip_jax.analysis.tpu_specs import Chip, devices_of
from clip_jax.runtime.distributed import MISMATCH, OK

if TYPE_CHECKING:
    import jax

SHOWN = 12  # collectives on screen; the JSON file has them all


@dataclasses.dataclass(frozen=True)
class Report:
    """What the compiler says of a train step, per device.

    Attributes:
      topology, devices, mesh, batch: what was compiled.
      loss: name and implementation of the loss.
      memory: bytes: arguments, outputs, temporaries, aliased, total.
      capacity: bytes of the device; 0: not known.
      fits: whether the compiler took it.
      problem: what the compiler said where it did not.
      flops: of a step on one device, in closed form (``models.flops``).
      compute_seconds: these at the device's peak; 0: not known.
      link_seconds: the received bytes at the bandwidth of the links; 0: not known.
      received: bytes a device receives in a step from others of its slice.
      between_slices: bytes it receives from other slices, at most.
      collectives: those that move most first, as dicts.
      compile_seconds: how long this took.
    """

    topology: str
    devices: int
    mesh: dict[str, int]
    batch: int
    loss: str
    memory: dict[str, int]
    capacity: int
    fits: bool
    problem: str
    flops: int
    compute_seconds: float
    link_seconds: float
    received: int
    between_slices: int
    collectives: list[dict[str, str | int]]
    compile_seconds: float

    @property
    def step_seconds(self) -> float:
        """The least that a step can take: all transfers hidden behind the arithmetic, or all
        arithmetic behind the transfers.
        """
        return max(self.compute_seconds, self.link_seconds)

    @property
    def best_mfu(self) -> float:
        """Model FLOPs utilisation at that: the bound, not a prediction."""
        return self.compute_seconds / self.step_seconds if self.step_seconds else 0.0


def compile_step(
    config: config_lib.ConfigDict, topology: str, devices: "list[jax.Device]", chip: Chip | None
) -> Report:
    """Compiles the train step of a config for devices, and reports what it needs.

    Raises:
      ValueError: parts of the config do not go together, or not with the devices.
    """
    import jax

    from clip_jax.analysis import hlo
    from clip_jax.models import clip, flops
    from clip_jax.runtime import mesh
    from clip_jax.training import program

    sizes = config.mesh.to_dict()
    on = mesh.create_mesh(sizes, devices)
    mesh.local_rows(on, config.train.batch_size)  # complains of a batch that cannot be divided
    model = clip.build(config.model, _tokenizer_sizes(config))
    made = program.build(config, model, on, total_steps=2**30)
    started, problem = time.perf_counter(), ""
    memory, collectives = hlo.Memory(0, 0, 0, 0), []
    batch = program.abstract_batch(config, model, on)
    with jax.set_mesh(on):
        lowered = made.train_step.lower(made.abstract, batch)
        try:
            result = lowered.compile()
        except Exception as error:  # the compiler's own
            if "memory" not in str(error).lower():
                raise
            problem = _first_line(str(error))
        else:
            memory, collectives = hlo.memory(result), hlo.collectives(_text(result))
    between = sum(c.received for c in collectives if c.kind == hlo.BETWEEN_SLICES)
    received = sum(c.received for c in collectives) - between
    work = math.ceil(flops.training(model.config, config.train.batch_size) / len(devices))
    return Report(
        topology=topology,
        devices=len(devices),
        mesh={**on.shape, "slices": sizes["slices"]},
        batch=config.train.batch_size,
        loss=made.loss,
        memory={**dataclasses.asdict(memory), "total": memory.total},
        capacity=chip.memory if chip else 0,
        fits=not problem,
        problem=problem,
        flops=work,
        compute_seconds=work / chip.flops if chip else 0.0,
        link_seconds=received / chip.link if chip else 0.0,
        received=received,
        between_slices=between,
        collectives=[dataclasses.asdict(c) for c in collectives],
        compile_seconds=time.perf_counter() - started,
    )


def _text(result: "jax.stages.Compiled") -> str:
    import jax

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


def largest_batch(
    config: config_lib.ConfigDict, topology: str, devices: "list[jax.Device]", chip: Chip | None
) -> Report | None:
    """The report of the largest global batch that fits, to within an eighth; None if none does.

    Begins with the config's own. Batches are multiples of all that has to divide them: the batch
    shards, ``train.num_microbatches``, ``loss.chunk_size`` and ``model.batch_norm_group``.
    """
    from clip_jax.runtime import mesh

    config = config.copy_and_resolve_references()
    parts = config.train.num_microbatches
    shards = mesh.batch_shards(mesh.create_mesh(config.mesh.to_dict(), devices))
    unit = math.lcm(
        shards * parts, config.loss.chunk_size or 1, (config.model.batch_norm_group or 1) * parts
    )
    best, low, high = None, 0, 0  # in units: fits, does not fit
    count = max(1, config.train.batch_size // unit)
    while not high or high - low > max(1, low // 8):
        config.train.batch_size = unit * count
        report = compile_step(config, topology, devices, chip)
        print(f"batch {report.batch:,}: {_verdict(report)}", flush=True)
        if report.fits:
            best, low = report, count
        else:
            high = count
        count = (low + high) // 2 if high else 2 * low
    return best


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f} GiB"


def _verdict(r: Report) -> str:
    if r.problem:
        return f"does not fit: {r.problem}"
    if not r.capacity:
        return f"needs {_gib(r.memory['total'])}"
    return (
        f"{'fits' if r.fits else 'does not fit'}: {_gib(r.memory['total'])} of {_gib(r.capacity)}"
    )


def table(r: Report) -> str:
    """A report for people."""
    m = r.memory
    axes = ", ".join(f"{k} {v}" for k, v in r.mesh.items() if v > 1) or "one device"
    lines = [
        f"{r.topology}: {r.devices} devices ({axes}), batch {r.batch:,}, compiled in "
        f"{r.compile_seconds:.0f} s",
        f"  loss               {r.loss}",
        f"  memory             {_verdict(r)}",
    ]
    if not r.problem:
        lines += [
            f"    arguments        {_gib(m['arguments'])}",
            f"    outputs          {_gib(m['outputs'])}, of which in place {_gib(m['aliased'])}",
            f"    temporaries      {_gib(m['temporaries'])}",
            f"  FLOPs a step       {r.flops:.3e} on each device",
            f"  received a step    {r.received / 1e6:,.1f} MB by each device",
        ]
        if r.between_slices:
            lines += [
                f"  from other slices  {r.between_slices / 1e6:,.1f} MB at most, through the "
                "hosts' network, whose time is not counted below"
            ]
        if r.capacity:
            lines += [
                f"  step at the least  {1e3 * r.step_seconds:,.1f} ms "
                f"(arithmetic {1e3 * r.compute_seconds:,.1f}, links {1e3 * r.link_seconds:,.1f}): "
                f"MFU at most {r.best_mfu:.0%}",
            ]
        lines += [
            f"    {c['kind']:<19}{c['count']:>6} x {c['shape'][:44]:<46}"
            f"{c['received'] / 1e6:>10,.1f} MB"
            for c in r.collectives[:SHOWN]
        ]
    return "\n".join(lines)


def as_dict(r: Report) -> dict[str, object]:
    """A report for programs; without the figures of a program that was not made."""
    fields = dataclasses.asdict(r) | {"step_seconds": r.step_seconds, "best_mfu": r.best_mfu}
    unknown = ("memory", "received", "between_slices", "collectives", "link_seconds",
               "step_seconds", "best_mfu")  # fmt: skip
    return fields | dict.fromkeys(unknown) if r.problem else fields


def parse(arguments: list[str]) -> tuple[config_lib.ConfigDict, argparse.Namespace]:
    """The config and the flags of a command line.

    Raises:
      ConfigError: a flag, key or value that is not legal.
    """
    parser = cli.Parser("aot", __doc__)
    parser.add_argument("--config", required=True, help="Python file with get_config()")
    parser.add_argument("--topology", required=True, help="v5e:16x16, v5e:16x16*2, cpu:8, ...")
    parser.add_argument(
        "--search-batch", action="store_true", help="find the largest that fits, to an eighth"
    )
    parser.add_argument("--json", help="file to write the report to")
    flags, rest = parser.parse_known_args(arguments)
    if flags.json and not Path(flags.json).parent.is_dir():
        raise config_lib.ConfigError(f"--json={flags.json}: there is no folder of that name")
    return config_lib.load(flags.config, config_lib.overrides(rest)), flags


def prepare_environment() -> None:
    """Tells libtpu, before its first use, that there is no TPU and no cloud around it: it would
    ask the metadata server, and lock out a second process.
    """
    os.environ.update(
        JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1",
        TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE="v5litepod-8",
        TF_CPP_MIN_LOG_LEVEL="3", TPU_MIN_LOG_LEVEL="3",
    )  # fmt: skip


def _command(arguments: list[str]) -> int:
    with cli.user_values():
        config, flags = parse(arguments)
        devices, chip = devices_of(flags.topology)
        if not flags.search_batch:
            report = compile_step(config, flags.topology, devices, chip)
        elif chip is None:
            raise config_lib.ConfigError(
                "--search-batch needs a TPU topology: a CPU's memory has no bound here"
            )
        else:
            report = largest_batch(config, flags.topology, devices, chip)
    if report is None:
        print("not even the smallest batch fits", file=sys.stderr)
        fields = {"topology": flags.topology, "fits": False}
    else:
        print(table(report))
        fields = as_dict(report)
    if flags.json:
        Path(flags.json).write_text(json.dumps(fields, indent=2) + "\n")
    return OK if fields["fits"] else MISMATCH


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; the exit code is 78 where the step does not fit."""
    prepare_environment()
    return cli.run_command(_command, arguments)


if __name__ == "__main__":
    sys.exit(main())
