"""A small tree of sharded arrays, to be stored and restored."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

MESHES = [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}]


def tree(mesh, seed=0):
    rng = np.random.default_rng(seed)
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))  # noqa: E731
    return {
        "kernel": put(rng.normal(size=(16, 32)).astype(np.float32), "fsdp", "tensor"),
        "half": put(jnp.asarray(rng.normal(size=(64,)), jnp.bfloat16), "fsdp"),
        "step": put(np.int32(seed)),
    }


def abstract(tree_):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree_
    )


def failing(error):
    """A function that raises ``error`` as the cause of another one."""

    def fail(*_, **__):
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("cannot load") from cause

    return fail
