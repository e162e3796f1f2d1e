"""Mesh sizes, batch rows, and the logical-to-mesh table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from clip_jax.runtime import mesh as mesh_lib


def test_one_axis_takes_what_is_left():
    mesh = mesh_lib.create_mesh({"data": -1, "fsdp": 2, "tensor": 2})
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert mesh_lib.batch_shards(mesh) == 4


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3}, r"mesh.data=3.*needs 3 devices, but there are 8"),
        ({"data": -1, "fsdp": 3}, "8 devices are not a multiple of 3"),
        ({"data": -1, "fsdp": -1}, "at most one of them -1"),
        ({"data": 0}, "must be positive"),
    ],
)
def test_wrong_sizes_name_the_keys(sizes, message):
    with pytest.raises(ValueError, match=message):
        mesh_lib.create_mesh(sizes)


def test_indivisible_batch_names_the_key():
    mesh = mesh_lib.create_mesh({"data": 8})
    with pytest.raises(ValueError, match=r"train.batch_size=12 is not divisible by .* = 8"):
        mesh_lib.local_rows(mesh, 12)


def test_one_process_holds_all_rows():
    mesh = mesh_lib.create_mesh({"data": 4, "tensor": 2})
    np.testing.assert_array_equal(mesh_lib.local_rows(mesh, 16), np.arange(16))


class Chip:
    """A v5e chip as meshes see it: a place on a grid, and a host that holds a square of four."""

    platform, device_kind, core_on_chip, slice_index = "tpu", "TPU v5 lite", 0, 0

    def __init__(self, x, y, side):
        self.id, self.coords = y * side + x, (x, y, 0)
        self.process_index = y // 2 * (side // 2) + x // 2


def pod(side):
    return [Chip(x, y, side) for y in range(side) for x in range(side)]


@pytest.mark.parametrize(
    ("side", "sizes", "first"),
    [
        (4, {"data": -1}, [0, 1, 6, 15]),
        (8, {"data": -1}, [0, 1, 8, 9]),
        (4, {"data": 4, "fsdp": 4}, None),
        (8, {"data": 8, "fsdp": 4, "tensor": 2}, None),
    ],
)
def test_hosts_of_a_pod_share_the_batch_wherever_their_chips_lie(side, sizes, first):
    """JAX orders a mesh by the wiring, so that a host's shards are not adjacent."""
    mesh = mesh_lib.create_mesh(sizes, pod(side))
    shards = mesh_lib.batch_shards(mesh)
    hosts = [mesh_lib.local_rows(mesh, 2 * shards, p) for p in range(side * side // 4)]
    if first:
        assert sorted({int(r) // 2 for r in hosts[0]}) == first
    for rows in hosts:
        assert len(rows) == 2 * shards // len(hosts)
        np.testing.assert_array_equal(rows, np.unique(rows))
    np.testing.assert_array_equal(np.sort(np.concatenate(hosts)), np.arange(2 * shards))


class Gpu:
    """A GPU as meshes see it: JAX counts every host as a slice."""

    platform, device_kind = "gpu", "NVIDIA H100"

    def __init__(self, number, each):
        self.id, self.process_index = number, number // each
        self.slice_index = self.process_index


@pytest.mark.parametrize(
    "sizes", [{"data": -1}, {"data": 2, "fsdp": 16}, {"data": 8, "fsdp": 2, "tensor": 2}]
)
def test_hosts_of_gpus_are_not_slices(sizes):
    gpus = [Gpu(i, 8) for i in range(32)]
    mesh = mesh_lib.create_mesh(sizes, gpus)
    assert [d.id for d in mesh.devices.flat] == list(range(32))
    with pytest.raises(ValueError, match="32 devices are 1 slice"):
        mesh_lib.create_mesh({**sizes, "slices": 4}, gpus)


@pytest.mark.parametrize("order", [range(8), (3, 0, 6, 1, 7, 2, 5, 4)], ids=["usual", "permuted"])
def test_put_batch_keeps_the_rows_in_order(order):
    devices = jax.devices()
    mesh = mesh_lib.create_mesh({"data": 2, "fsdp": 2, "tensor": 2}, [devices[i] for i in order])
    rows = np.arange(16).reshape(8, 2)
    local = rows[mesh_lib.local_rows(mesh, 8)]
    out = mesh_lib.put_batch(mesh, {"x": local}, 8)["x"]
    np.testing.assert_array_equal(out, rows)
    assert out.sharding.spec == P(("data", "fsdp"))


def test_logical_axes():
    mesh = mesh_lib.create_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    assert mesh_lib.partition_spec(("embed", "mlp"), mesh) == P("fsdp", "tensor")
    assert mesh_lib.partition_spec(("batch", None), mesh) == P(("data", "fsdp"), None)
    assert mesh_lib.partition_spec(("vocab", "embed"), mesh, (77, 64)) == P(None, "fsdp")
    with pytest.raises(ValueError, match="twice"):
        mesh_lib.partition_spec(("mlp", "heads"), mesh)


def test_constrain_needs_no_mesh_and_obeys_one():
    x = jnp.ones((8, 4))
    assert mesh_lib.constrain(x, "batch", None) is x
    mesh = mesh_lib.create_mesh({"data": 8})
    with jax.set_mesh(mesh):
        out = jax.jit(lambda a: mesh_lib.constrain(a, "batch", None))(x)
    assert out.sharding.spec in (P("data"), P(("data", "fsdp")), P(("data", "fsdp"), None))
