"""Collectives and memory read from compiled programs, against what the programs must move."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from clip_jax import losses
from clip_jax.analysis import hlo
from clip_jax.runtime.mesh import batch_sharding, create_mesh


def test_kinds_and_bytes_on_eight_devices():
    mesh = create_mesh({"data": 8})

    def local(x):
        whole = jax.lax.all_gather(x, "data", axis=0, tiled=True)
        part = jax.lax.psum_scatter(whole, "data", tiled=True)
        return jax.lax.psum(part.sum(), "data") + jax.lax.ppermute(x, "data", [(0, 1)]).sum()

    f = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False))
    text = f.lower(jax.ShapeDtypeStruct((64, 4), jnp.float32)).compile().as_text()
    found = {c.kind: c for c in hlo.collectives(text)}
    assert found["all-gather"].received == 64 * 4 * 4 * 7 // 8
    assert found["all-gather"].devices == 8
    assert found["reduce-scatter"].received == 8 * 4 * 4 * 7
    assert found["collective-permute"].received == 8 * 4 * 4
    assert found["all-reduce"].received == 2 * 4 * 7 // 8


def test_a_loop_counts_as_often_as_it_runs():
    mesh = create_mesh({"data": 8})
    loss = losses.build("softmax", "ring", mesh)
    x, s = jax.ShapeDtypeStruct((64, 16), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    text = jax.jit(loss).lower(x, x, s, s).compile().as_text()
    travelling = [c for c in hlo.collectives(text) if c.kind == "collective-permute"]
    assert sum(c.received for c in travelling if "f32[8,16]" in c.shape) == 8 * 8 * 16 * 4


def test_parts_of_an_asynchronous_collective_count_once():
    """As TPUs' compiler writes one that three fusions share."""
    gather = (
        "bf16[64,8]{1,0:T(8,128)} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3}}, "
        'frontend_attributes={chain_id="0"}'
    )
    text = "\n".join([
        "%start (p: bf16[16,8]) -> (bf16[16,8], bf16[64,8]) {",
        f"  %all-gather.1 = {gather}",
        '  ROOT %c = (bf16[16,8], bf16[64,8]) custom-call(%all-gather.1), '
        'custom_call_target="AsyncCollectiveStart"',
        "}",
        "%beside (p: bf16[16,8]) -> bf16[64,8] {",
        f"  %all-gather.2 = {gather}",
        "}",
        "ENTRY %main (a: bf16[16,8]) -> bf16[64,8] {",
        "  %s = (bf16[16,8], bf16[64,8]) fusion(%a), kind=kCustom, calls=%start",
        "  %b = bf16[64,8] fusion(%s), kind=kCustom, calls=%beside",
        "}",
    ])  # fmt: skip
    (found,) = hlo.collectives(text)
    assert (found.count, found.received) == (1, 64 * 8 * 2 * 3 // 4)


def one(line):
    (found,) = hlo.collectives(f"ENTRY %main (a: f32[8]) -> f32[8] {{\n  {line}\n}}")
    return found


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=[2,16]<=[32]", 16),
        ("replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}", 8),
        ("replica_groups=mesh['a'=4,'b'=4], device_ids=([4,4]T(1,0)) {'b'}", 4),
        ("replica_groups=mesh['a'=4,'b'=4] {'a','b'}", 16),
        ("replica_groups=mesh['a'=16] {'a':(1)4}", 4),
    ],
)
def test_every_way_of_writing_groups(groups, devices):
    found = one(f"%r = f32[1024]{{0}} all-reduce(%a), channel_id=1, {groups}, to_apply=%sum")
    assert (found.devices, found.received) == (devices, 2 * 4096 * (devices - 1) // devices)
    with pytest.raises(ValueError, match="groups of a collective cannot be read"):
        one("%r = f32[1024]{0} all-reduce(%a), channel_id=1, replica_groups=of_a_new_kind")


def test_what_comes_from_another_slice():
    found = one(
        "%recv.1 = (f32[32,16]{1,0:T(8,128)}, u32[], token[]) recv(%after-all.1), channel_id=2, "
        "is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="
        '"xla_megascale_runtime",_xla_megascale_transfer_type="ALL_GATHER"}'
    )
    assert (found.kind, found.received) == (hlo.BETWEEN_SLICES, 32 * 16 * 4)


def test_memory_subtracts_what_is_donated():
    mesh = create_mesh({"data": 8})
    rows = NamedSharding(mesh, P("data"))
    f = jax.jit(lambda x: x + 1, donate_argnums=0, in_shardings=rows, out_shardings=rows)
    needs = hlo.memory(f.lower(jax.ShapeDtypeStruct((8, 1024), jnp.float32)).compile())
    assert needs.arguments == needs.outputs == needs.aliased == 4096
    assert needs.total == 4096 + needs.temporaries
    assert batch_sharding(mesh).mesh == mesh


def test_moves_are_copies_and_updates_that_compute_nothing():
    """As GPUs' compiler writes a loop that stacks what it computes: an update, fused, each turn."""
    text = "\n".join([
        "%fused_update (p0: bf16[4,8,2], p1: bf16[8,2], p2: s32[]) -> bf16[4,8,2] {",
        "  %p0 = bf16[4,8,2]{2,1,0} parameter(0)",
        "  %p1 = bf16[8,2]{1,0} parameter(1)",
        "  %b = bf16[1,8,2]{2,1,0} bitcast(%p1)",
        "  %inner = bf16[8,2]{0,1} copy(%p1)",
        "  ROOT %u = bf16[4,8,2]{2,1,0} dynamic-update-slice(%p0, %b, %p2, %p2, %p2)",
        "}",
        "%body (t: (s32[], bf16[4,8,2])) -> (s32[], bf16[4,8,2]) {",
        "  %f = bf16[4,8,2]{2,1,0} fusion(%s, %x, %i), kind=kLoop, calls=%fused_update",
        "}",
        "%condition (t: (s32[], bf16[4,8,2])) -> pred[] {",
        "  %limit = s32[] constant(4)",
        "  ROOT %c = pred[] compare(%i, %limit), direction=LT",
        "}",
        "ENTRY %main (a: f32[16]) -> f32[16] {",
        "  %w = (s32[], bf16[4,8,2]{2,1,0}) while(%t), condition=%condition, body=%body",
        "  ROOT %copy.1 = f32[16]{0} copy(%a)",
        "}",
    ])  # fmt: skip
    assert hlo.moves(text) == [
        hlo.Move("dynamic-update-slice", "bf16[1,8,2]", 4, 4 * 8 * 2 * 2),
        hlo.Move("copy", "f32[16]", 1, 64),
    ]
