"""The device mesh, the names of its axes, and how logical array axes map onto them.

Three axes: ``data`` (replicated parameters), ``fsdp`` (parameters sharded, batch sharded) and
``tensor`` (one layer split over devices). A batch is split over ``data`` and ``fsdp`` together.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")
PyTree = Any  # nested dicts, tuples and dataclasses of arrays, or of what describes them

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# Logical axis of an array -> mesh axis (or axes). A name that is absent is replicated.
RULES: dict[str, str | tuple[str, ...]] = {
    "batch": BATCH_AXES,  # activations
    "embed": "fsdp",  # model width of a parameter: the FSDP shard
    "mlp": "tensor",  # hidden width of an MLP
    "heads": "tensor",  # attention heads
    "vocab": "tensor",  # rows of the token embedding
}


def create_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh from axis sizes; one of them may be -1 and takes the devices left over.

    Args:
      sizes: size of each axis of ``AXES``; an absent axis has size 1. And "slices", TPU slices
        that are joined by the network of the data centre; 1 if absent.
      devices: the devices to use, all of them by default.

    Raises:
      ValueError: the sizes do not multiply to the number of devices, naming the ``mesh.*`` keys.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = [int(sizes.get(name, 1)) for name in AXES]
    described = ", ".join(f"mesh.{n}={s}" for n, s in zip(AXES, shape, strict=True))
    if shape.count(-1) > 1 or any(s == 0 or s < -1 for s in shape):
        raise ValueError(f"{described}: sizes must be positive, and at most one of them -1")
    if -1 in shape:
        rest = math.prod(s for s in shape if s != -1)
        if len(devices) % rest:
            raise ValueError(f"{described}: {len(devices)} devices are not a multiple of {rest}")
        axis = AXES[shape.index(-1)]
        if axis != "data" and len(devices) == rest > 1:
            raise ValueError(
                f"{described}: for mesh.{axis} there is 1 of {rest} devices left; lower the other "
                f"sizes, or set mesh.{axis}=1"
            )
        shape[shape.index(-1)] = len(devices) // rest
    if math.prod(shape) != len(devices):
        raise ValueError(
            f"{described} needs {math.prod(shape)} devices, but there are {len(devices)}; "
            "set one of the sizes to -1 to let it take what is left"
        )
    # Auto axes: make_mesh would default to Explicit ones, on which Linen's constraints assert.
    auto = (AxisType.Auto,) * len(AXES)
    slices = int(sizes.get("slices", 1))
    _check_slices(slices, shape, devices)
    if devices[0].platform != "tpu":
        # There is no torus to follow, and make_mesh would take the hosts of GPUs for slices.
        return Mesh(np.array(devices).reshape(shape), AXES, axis_types=auto)
    if slices > 1:
        inner = (shape[0] // slices, *shape[1:])
        grid = mesh_utils.create_hybrid_device_mesh(
            inner, (slices, *[1] * len(inner[1:])), devices, allow_split_physical_axes=True
        )
        return Mesh(grid, AXES, axis_types=auto)
    try:
        return jax.make_mesh(tuple(shape), AXES, axis_types=auto, devices=devices)
    except NotImplementedError:
        # No axis of the mesh is a product of axes of the torus: split one of those.
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(grid, AXES, axis_types=auto)


def _check_slices(slices: int, shape: Sequence[int], devices: Sequence[jax.Device]) -> None:
    on_tpus = devices[0].platform == "tpu"  # GPUs have a slice_index for every host
    there = len({getattr(d, "slice_index", None) or 0 for d in devices}) if on_tpus else 1
    if slices != there:
        raise ValueError(
            f"mesh.slices={slices}, but the {len(devices)} devices are {there} slice(s); "
            f"set mesh.slices={there}"
        )
    if shape[0] % slices:
        raise ValueError(
            f"mesh.data={shape[0]} is not a multiple of mesh.slices={slices}: slices are joined "
            "along the data axis, for they are far apart"
        )


def batch_shards(mesh: Mesh) -> int:
    """Number of shards of the batch."""
    return math.prod(mesh.shape[a] for a in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of an array whose leading axis is the global batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def local_rows(mesh: Mesh, batch: int, process: int | None = None) -> np.ndarray:
    """The rows of a global batch that a process's devices hold: int64[b], ascending.

    They need not be adjacent: a mesh follows the wiring of the chips, and a TPU host is a square
    of them, so that its shards lie in several stretches of the batch. Several processes hold the
    same rows where the ``tensor`` axis crosses processes.

    ``process`` is this one by default.

    Raises:
      ValueError: ``batch``, the number of rows, is not divisible by the batch shards.
    """
    if batch % batch_shards(mesh):
        raise ValueError(
            f"train.batch_size={batch} is not divisible by mesh.data * mesh.fsdp = "
            f"{batch_shards(mesh)}; use a multiple of it"
        )
    process = jax.process_index() if process is None else process
    indices = batch_sharding(mesh).devices_indices_map((batch,))
    spans = {i[0].indices(batch)[:2] for d, i in indices.items() if d.process_index == process}
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(*s) for s in sorted(spans))])


def partition_spec(
    logical: Sequence[str | None],
    mesh: Mesh,
    shape: Sequence[int] | None = None,
    rules: Mapping[str, str | tuple[str, ...]] | None = None,
) -> PartitionSpec:
    """Maps logical axis names to mesh axes.

    With ``shape``, an axis that its mesh axes do not divide stays whole: a 77-row position table
    is not worth an error.

    Raises:
      ValueError: two axes of one array map to the same mesh axis.
    """
    rules = RULES if rules is None else rules
    spec: list[str | tuple[str, ...] | None] = []
    used: set[str] = set()
    for i, name in enumerate(logical):
        target = rules.get(name) if name is not None else None
        axes = (target,) if isinstance(target, str) else tuple(target or ())
        if shape is not None and shape[i] % math.prod(mesh.shape[a] for a in axes):
            axes = ()
        if used & set(axes):
            raise ValueError(
                f"logical axes {tuple(logical)} use mesh axis {used & set(axes)} twice"
            )
        used |= set(axes)
        spec.append(None if not axes else axes[0] if len(axes) == 1 else axes)
    return PartitionSpec(*spec)


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """Pins an activation to the mesh of the enclosing ``jax.set_mesh``; does nothing without one.

    Without such pins XLA reshards activations to match sharded parameters, which moves orders of
    magnitude more bytes than gathering the parameters does.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(AXES) <= set(mesh.axis_names):
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(logical, mesh, x.shape))


def put_batch(mesh: Mesh, local: Tree, batch: int) -> Tree:
    """Makes global arrays from this process's rows of each array of a tree.

    JAX wants the rows of a process in ascending order of their position in the batch, each once:
    the order of ``local_rows``.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda v: jax.make_array_from_process_local_data(sharding, v, (batch, *v.shape[1:])), local
    )
