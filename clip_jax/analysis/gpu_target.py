"""The GPU compiler on a machine without a GPU.

XLA compiles for a GPU that is only described (openxla/xla, pull request 16913), but jax asks in
three places for one that is there (jax, issue 23971): for the name of the platform, and, for
cuDNN's attention, for the compute capability and for cuDNN's version. ``described`` answers for it.
Autotuning needs the device: it is turned off, so the kernels are not those that a GPU would choose.
"""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator
from unittest import mock

from clip_jax.runtime.errors import ConfigError

# Matrix products go to cuBLAS: Triton's kernels are chosen by trying them on the device.
COMPILER_OPTIONS: dict[str, int | bool] = {
    "xla_gpu_autotune_level": 0,
    "xla_gpu_enable_triton_gemm": False,
}
_CUDNN = (9, 10, 0)
_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {0.shared_memory}
  shared_memory_per_block_optin: {0.shared_memory_optin}
  threads_per_core_limit: 2048
  core_count: {0.cores}
  fpus_per_core: {0.fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {0.bandwidth}
  l2_cache_size: {0.l2_cache}
  clock_rate_ghz: {0.clock_ghz}
  device_memory_size: {0.memory}
  cuda_compute_capability {{ major: {0.capability[0]} minor: {0.capability[1]} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: {1[0]} minor: {1[1]} patch: {1[2]} }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "{0.name}"
"""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What the compiler must know of a GPU; sizes in bytes, ``bandwidth`` in bytes/s.

    Sources: NVIDIA's architecture whitepapers; openxla/xla, xla/backends/gpu/target_config.
    """

    name: str
    capability: tuple[int, int]
    cores: int
    fpus: int
    clock_ghz: float
    memory: int
    bandwidth: int
    l2_cache: int
    shared_memory: int
    shared_memory_optin: int


_HOPPER_SHARED = (233472, 232448)
GPUS: dict[str, Gpu] = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 1.41, 85100068864, 2039040000000,
                41943040, 167936, 166912),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 1.98, 84942979072, 3352320000000,
                52428800, *_HOPPER_SHARED),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 128, 1.98, 151397597184, 4800000000000,
                52428800, *_HOPPER_SHARED),
    "b200": Gpu("NVIDIA B200", (10, 0), 148, 128, 1.965, 191514411008, 7672320000000,
                132644864, *_HOPPER_SHARED),
}  # fmt: skip


def devices(gpu: Gpu, count: int) -> list:
    """Descriptions of ``count`` GPUs of one host, to compile for.

    Raises:
      ConfigError: jax's CUDA plugin is not installed.
    """
    if not any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))):
        raise ConfigError("GPU topologies need CUDA's compiler: pip install '.[gpu]'")
    from jax.experimental import topologies

    described = topologies.get_topology_desc(
        platform="cuda", target_config=_TARGET.format(gpu, _CUDNN), topology=f"1x1x{count}"
    )
    return list(described.devices)


@contextlib.contextmanager
def described(gpu: Gpu) -> Iterator[None]:
    """While it lasts, jax takes a described GPU for one that is there."""
    from jax._src import xla_bridge
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    canonical = xla_bridge.canonicalize_platform

    def canonicalize(platform: str) -> str:
        return "cuda" if platform == "gpu" else canonical(platform)

    def version(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    with (
        mock.patch.object(xla_bridge, "canonicalize_platform", canonicalize),
        mock.patch.object(
            cudnn, "check_compute_capability", lambda least: gpu.capability >= version(least)
        ),
        mock.patch.object(
            cudnn, "is_cuda_compute_capability_equal", lambda it: gpu.capability == version(it)
        ),
        mock.patch.object(
            cudnn, "check_cudnn_version", lambda: 10000 * _CUDNN[0] + 100 * _CUDNN[1] + _CUDNN[2]
        ),
    ):
        yield
