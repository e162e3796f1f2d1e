"""How fast the implementations of a loss are on the devices here, and what they hold."""

import argparse
import functools
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from clip_jax import cli, losses
from clip_jax import config as config_lib
from clip_jax.benchmarks import paired
from clip_jax.runtime import mesh as mesh_lib

_DENSE_BYTES = 2**33  # of float32 logits: more than that is not tried


def command(arguments: Sequence[str]) -> None:
    """The command ``benchmark loss``."""
    parser = cli.Parser("benchmark loss", __doc__)
    parser.add_argument("--loss", choices=losses.NAMES, default="softmax")
    parser.add_argument("--batch", type=int, default=8192, help="pairs over all devices (8192)")
    parser.add_argument("--embed-dim", type=int, default=512)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                        help="of the embeddings that travel")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", help="file to write the results to")
    flags = parser.parse_args(arguments)
    if min(flags.batch, flags.embed_dim, flags.rounds) < 1:
        raise config_lib.ConfigError("--batch, --embed-dim and --rounds must be 1 or more")
    if flags.batch % jax.device_count():
        raise config_lib.ConfigError(
            f"--batch={flags.batch} is not a multiple of the {jax.device_count()} devices here"
        )
    paired.require_folder(flags.json)
    paired.write_record(flags.json, "loss", arguments, measure(flags))


def measure(flags: argparse.Namespace) -> paired.JsonDict:
    """Times value and gradients by every implementation, in turn, and prints them."""
    mesh = mesh_lib.create_mesh({"data": -1})
    rows = mesh_lib.batch_sharding(mesh)
    rng = np.random.default_rng(0)
    embeddings = []
    for _ in range(2):
        x = rng.standard_normal((flags.batch, flags.embed_dim), np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        embeddings.append(jax.device_put(x, rows))
    arguments = (*embeddings, jnp.float32(100.0), jnp.float32(-10.0))
    calls: dict[str, Callable[[], float]] = {}
    results: paired.JsonDict = {}
    for name in losses.LOSSES[flags.loss].implementations:
        if name == "dense" and 4 * flags.batch**2 > _DENSE_BYTES:
            print(f"dense: its {4 * flags.batch**2 / 2**30:,.0f} GiB of logits are left out")
            continue
        loss = losses.build(flags.loss, name, mesh, dtype=flags.dtype)
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
        with jax.set_mesh(mesh):
            compiled = step.lower(*arguments).compile()
        results[name] = {"temporary_bytes": compiled.memory_analysis().temp_size_in_bytes}
        calls[name] = functools.partial(_seconds, compiled, arguments)
        calls[name]()  # the first one warms caches
    times = paired.alternate(calls, flags.rounds)
    for name, seconds in times.items():
        low, middle, high = paired.quartiles(seconds)
        results[name] |= {"seconds": middle, "quartiles": [low, high], "all": seconds}
        print(
            f"{flags.loss}, {name:<11}{1e3 * middle:>10,.1f} ms ({1e3 * low:,.1f} to "
            f"{1e3 * high:,.1f})  temporaries {results[name]['temporary_bytes'] / 2**20:,.0f} MiB "
            "a device"
        )
    chosen, why = losses.choose(mesh, flags.batch, flags.embed_dim, jnp.dtype(flags.dtype).itemsize)
    print(f"loss.implementation=auto would be {chosen}: {why}")
    return results | {"auto": chosen}


def _seconds(compiled: jax.stages.Compiled, arguments: Sequence[jax.Array]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    return time.perf_counter() - start
