"""Accelerators: what one device can do by its maker's specifications, and their topologies.

Per *device* as JAX counts them: a chip, except of TPU7x, whose chips are two devices each.
Sources: the pages "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x (Ironwood)" of the Cloud TPU
documentation (docs.cloud.google.com/tpu/docs); NVIDIA's data sheets of A100 80GB, H100, H200 (SXM)
and B200, dense. Link bandwidth is one direction of all links together: half of what these call
bidirectional. Memory is what the compiler (libtpu 0.0.42) says there is when a program needs more,
a little less than the chip has; of GPUs, the share that a program takes (``MEMORY_FRACTION``).
"""

import contextlib
import dataclasses
import importlib.util
import re
from typing import TYPE_CHECKING

from clip_jax.analysis import gpu_target
from clip_jax.config import ConfigError

if TYPE_CHECKING:
    import jax

# Of a GPU's memory, what the training command has JAX allocate; the rest is for CUDA and NCCL.
MEMORY_FRACTION = 0.92

_TOPOLOGY = re.compile(
    r"(?P<kind>[a-z0-9]+):(?P<shape>[1-9]\d*(x[1-9]\d*)*)(\*(?P<slices>[1-9]\d*))?"
)


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a generation.

    Attributes:
      memory: bytes of HBM that a program may use.
      flops: peak of bfloat16 matrix products, FLOP/s.
      link: bytes/s that it can receive from its neighbours.
      kind: what JAX calls it; of a GPU, how that begins.
      options: of the topology's description; v4 has two cores a chip that act as one.
      gpu: of a GPU, what its compiler must know.
    """

    memory: int
    flops: float
    link: float
    kind: str
    options: tuple[tuple[str, str], ...] = ()
    gpu: gpu_target.Gpu | None = None

    @property
    def compiler_options(self) -> dict[str, int | bool]:
        """What the compiler is told where there is no such device."""
        return gpu_target.COMPILER_OPTIONS if self.gpu else {}

    def described(self) -> contextlib.AbstractContextManager[None]:
        """The context in which to trace and compile for such devices where there are none."""
        return gpu_target.described(self.gpu) if self.gpu else contextlib.nullcontext()


def _gpu(name: str, kind: str, flops: float, link: float) -> Chip:
    gpu = gpu_target.GPUS[name]
    return Chip(int(MEMORY_FRACTION * gpu.memory), flops, link, kind, gpu=gpu)


CHIPS: dict[str, Chip] = {
    "v4": Chip(int(30.75 * 2**30), 275e12, 300e9, "TPU v4", (("chip_config_name", "megacore"),)),
    "v5e": Chip(int(15.75 * 2**30), 197e12, 200e9, "TPU v5 lite"),
    "v5p": Chip(int(95.74 * 2**30), 459e12, 600e9, "TPU v5"),
    "v6e": Chip(int(31.25 * 2**30), 918e12, 400e9, "TPU v6 lite"),
    "tpu7x": Chip(int(94.75 * 2**30), 2307e12 / 2, 300e9, "TPU7x"),
    "a100": _gpu("a100", "NVIDIA A100", 312e12, 300e9),
    "h100": _gpu("h100", "NVIDIA H100 80GB HBM3", 989.4e12, 450e9),
    "h200": _gpu("h200", "NVIDIA H200", 989.4e12, 450e9),
    "b200": _gpu("b200", "NVIDIA B200", 2250e12, 900e9),
}


def peak_flops(kind: str) -> float:
    """Peak of bfloat16 matrix products of a device by what JAX calls it, FLOP/s; 0: not known."""

    def matches(chip: Chip) -> bool:
        return kind == chip.kind or (chip.gpu is not None and kind.startswith(chip.kind))

    return next((chip.flops for chip in CHIPS.values() if matches(chip)), 0.0)


def devices_of(topology: str) -> "tuple[list[jax.Device], Chip | None]":
    """The devices of a topology, and what is known of the chip (None for CPUs).

    Raises:
      ConfigError: not a topology, or not one that libtpu knows; the compiler is not installed.
    """
    match = _TOPOLOGY.fullmatch(topology)
    if match is None:
        raise ConfigError(f"--topology={topology} is not of the form v5e:16x16, h100:8 or cpu:8")
    kind, shape, slices = match["kind"], match["shape"], int(match["slices"] or 1)
    flat = kind == "cpu" or (kind in CHIPS and CHIPS[kind].gpu is not None)
    if flat and ("x" in shape or slices > 1):
        raise ConfigError(f"--topology={topology}: of {kind.upper()}s give a number, {kind}:8")
    if kind == "cpu":
        import jax

        jax.config.update("jax_num_cpu_devices", int(shape))
        return jax.devices("cpu"), None
    if kind not in CHIPS:
        raise ConfigError(f"--topology={topology}: {kind!r} is not of {[*CHIPS, 'cpu']}")
    if gpu := CHIPS[kind].gpu:
        return gpu_target.devices(gpu, int(shape)), CHIPS[kind]
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError("TPU topologies need libtpu: pip install '.[tpu]'")
    from jax.experimental import topologies

    options: dict[str, str | int] = dict(CHIPS[kind].options)
    if slices > 1:
        options["num_slices"] = slices
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{kind}:{shape}", **options
        )
    except Exception as error:  # libtpu's are of many kinds
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"--topology={topology}: {first}") from None
    return list(described.devices), CHIPS[kind]
