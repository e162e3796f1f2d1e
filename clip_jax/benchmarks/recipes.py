"""What the recipes need on pods and GPUs, compiled ahead of time: the tables of docs/pods.md."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from clip_jax import aot, cli
from clip_jax import config as config_lib
from clip_jax.analysis import chips

if TYPE_CHECKING:
    import jax  # at run time it reads the environment that aot prepares

    from clip_jax.compiled.report import Report

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# Every recipe of the paper at its batch of 32,768, on a slice that holds it.
RECIPES: tuple[tuple[str, str], ...] = (
    ("vit_b32", "v5e:16x16"),
    ("vit_b16", "v5e:16x16"),
    ("vit_l14", "v5e:16x16"),
    ("rn50", "v5e:16x16"),
    ("rn101", "v5e:16x16"),
    ("rn50x4", "v5e:16x16"),
    ("rn50x16", "v5p:8x8x4"),
    ("rn50x64", "v5p:8x8x4"),
    ("vit_l14_336", "v5p:8x8x4"),
)
# Recipes on one machine of eight GPUs: pairs on each.
GPU_RECIPES: tuple[tuple[str, str, int], ...] = (
    ("vit_b32", "h100:8", 1024),
    ("vit_b32", "a100:8", 1024),
    ("vit_b16", "h100:8", 512),
    ("vit_l14", "h100:8", 256),
    ("vit_l14_336", "h100:8", 64),
    ("rn50", "h100:8", 512),
)
# Weak scaling: pairs on each chip, and slices of more and more chips.
PAIRS_EACH = 128
_ONE_PAIR = (((1, 224, 224, 3), "uint8"), ((1, 77), "int32"))
WIDTH = 512  # of ViT-B/32's embeddings
SLICES = ("v5e:2x4", "v5e:4x8", "v5e:8x8", "v5e:16x16")


def _config(name: str, **changes: str | int | bool) -> ConfigDict:
    overrides = [(k.replace("__", "."), str(v)) for k, v in changes.items()]
    return config_lib.load(str(CONFIGS / f"{name}.py"), overrides)


def _compiled(name: str, topology: str, **changes: str | int | bool) -> "Report":
    from clip_jax.compiled import step

    devices, chip = chips.devices_of(topology)
    return step.compile_step(_config(name, **changes), step.Target(topology, devices, chip))


def _row(cells: Sequence[object]) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def _head(cells: Sequence[str]) -> None:
    _row(cells)
    _row(["---"] * len(cells))


def _begin(name: str, measure: Callable[[], None], arguments: Sequence[str]) -> None:
    cli.Parser(f"benchmark {name}", measure.__doc__).parse_args(arguments)
    aot.prepare_environment()  # before anything imports jax
    measure()


def fits_command(arguments: Sequence[str]) -> None:
    """The command ``benchmark fits``."""
    _begin("fits", fits, arguments)


def fits_gpus_command(arguments: Sequence[str]) -> None:
    """The command ``benchmark fits-gpus``."""
    _begin("fits-gpus", fits_gpus, arguments)


def scaling_command(arguments: Sequence[str]) -> None:
    """The command ``benchmark scaling``."""
    _begin("scaling", scaling, arguments)


def attention_command(arguments: Sequence[str]) -> None:
    """The command ``benchmark attention``."""
    _begin("attention", attention, arguments)


def fits(only: Sequence[str] = ()) -> None:
    """Prints, for each recipe, whether it fits its slice, and how fast a step could be at best.

    Args:
      only: names of recipes; all of them by default.
    """
    _head(("config", "slice", "chips", "execution", "GiB a chip", "of", "TFLOPs a chip",
           "MB received", "step at the least", "MFU at most"))  # fmt: skip
    for name, topology in RECIPES:
        if only and name not in only:
            continue
        r = _compiled(name, topology)
        cells = (f"`{name}`", topology, r.devices, r.execution.partition(" (")[0])
        if r.problem:
            _row((*cells, r.problem, f"{r.capacity / 2**30:.2f}", f"{r.flops / 1e12:.1f}",
                  *["none"] * 3))  # fmt: skip
            continue
        _row((*cells, f"{r.memory['total'] / 2**30:.2f}", f"{r.capacity / 2**30:.2f}",
              f"{r.flops / 1e12:.1f}", f"{r.received / 1e6:,.0f}",
              f"{1e3 * r.step_seconds:,.0f} ms", f"{r.best_mfu:.0%}"))  # fmt: skip


def fits_gpus() -> None:
    """Prints, for recipes on eight GPUs, how a step is computed, and what it needs and copies."""
    _head(("config", "GPUs", "pairs a GPU", "execution", "GiB a GPU", "of", "TFLOPs a GPU",
           "MB received", "MB copied", "step at the least", "MFU at most"))  # fmt: skip
    for name, topology, pairs in GPU_RECIPES:
        count = int(topology.partition(":")[2])
        r = _compiled(name, topology, train__batch_size=pairs * count)
        copied, total = sum(m["size"] for m in r.moves), r.memory["total"]
        step = f"{1e3 * r.step_seconds:,.0f} ms"
        _row((f"`{name}`", topology, pairs, r.execution.partition(" (")[0], f"{total / 2**30:.2f}",
              f"{r.capacity / 2**30:.2f}", f"{r.flops / 1e12:.1f}", f"{r.received / 1e6:,.0f}",
              f"{copied / 1e6:,.1f}", step, f"{r.best_mfu:.0%}"))  # fmt: skip


# Sequences of the paper's towers: examples, tokens, heads.
SEQUENCES = ((128, 50, 12), (128, 77, 8), (128, 197, 12), (128, 257, 16), (32, 577, 16))


def attention() -> None:
    """Prints what attention alone moves on a v5e, by XLA and by jax's Pallas kernel."""
    from clip_jax.compiled import attention as compiled

    _head(("tokens", "heads", "examples", "XLA: GB moved", "GB of temporaries",
           "Pallas: GB moved", "GB of temporaries"))  # fmt: skip
    (device, *_), _ = chips.devices_of("v5e:2x4")
    for examples, tokens, heads in SEQUENCES:
        costs = [compiled.cost(name, device, (examples, tokens, heads, 64))
                 for name in ("xla", "pallas")]  # fmt: skip
        figures = [f"{n / 1e9:.2f}" for c in costs for n in (c.moved, c.temporaries)]
        _row((tokens, heads, examples, *figures))


def loss_bytes(implementation: str, chips: int, each: int, width: int, itemsize: int) -> int:
    """What the softmax loss sends to each chip, in closed form.

    ``all_gather``: both towers' embeddings of all other chips, 2 (n - 1) b E s. ``ring``: n steps
    with the texts forward, n with the texts and their float32 gradients back, n b E (2 s + 4).
    Numbers of examples (log-sums and the like, 1 / E of this) are left out.
    """
    if implementation == "all_gather":
        return 2 * (chips - 1) * each * width * itemsize
    return chips * each * width * (2 * itemsize + 4)


def gradient_bytes(chips: int, parameters: int, itemsize: int) -> int:
    """What summing the gradients over all chips sends to each: 2 (n - 1) / n P s."""
    return 2 * (chips - 1) * parameters * itemsize // chips


def scaling(slices: Sequence[str] = SLICES) -> None:
    """Prints what a chip of more and more chips does, at the same number of pairs on each.

    Of ViT-B/32, whose gradients XLA sums in bfloat16. Its layers are rolled up, which compiles in
    a quarter of the time.
    """
    import jax

    from clip_jax.models import clip

    _head(("loss", "chips", "batch", "TFLOPs a chip", "of these the loss", "GiB a chip",
           "temporaries of the loss, MiB", "MB of embeddings", "by the formula",
           "MB of gradients", "by the formula", "MB of others"))  # fmt: skip
    model = clip.build(_config("vit_b32").model)
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), *(jax.ShapeDtypeStruct(s, d) for s, d in _ONE_PAIR)
    )
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes["params"]))
    for implementation in ("all_gather", "ring"):
        for topology in slices:
            devices, _ = chips.devices_of(topology)
            count = len(devices)
            batch = PAIRS_EACH * count
            r = _compiled(
                "vit_b32", topology, train__batch_size=batch, loss__implementation=implementation,
                model__scan_layers=True, model__remat_policy="full",
            )  # fmt: skip
            travelling = [c for c in r.collectives if _is_embeddings(c, batch, WIDTH)]
            embeddings = sum(c["received"] for c in travelling)
            sums = sum(c["received"] for c in r.collectives
                       if c["kind"] == "all-reduce" and c not in travelling)  # fmt: skip
            theory = loss_bytes(implementation, count, PAIRS_EACH, WIDTH, 2)
            others = r.received - embeddings - sums
            _row((implementation, count, f"{batch:,}", f"{r.flops / 1e12:.3f}",
                  f"{6 * batch * WIDTH * PAIRS_EACH / 1e12:.3f}",
                  f"{r.memory['total'] / 2**30:.2f}",
                  f"{loss_temporaries(implementation, devices, batch) / 2**20:.2f}",
                  f"{embeddings / 1e6:,.1f}", f"{theory / 1e6:,.1f}", f"{sums / 1e6:,.1f}",
                  f"{gradient_bytes(count, parameters, 2) / 1e6:,.1f}",
                  f"{others / 1e6:,.1f}"))  # fmt: skip


def bare_loss(
    implementation: str, devices: Sequence["jax.Device"], batch: int, width: int = WIDTH
) -> "jax.stages.Compiled":
    """The compiled softmax loss alone with its gradients, of bfloat16 embeddings."""
    import jax
    import jax.numpy as jnp

    from clip_jax import losses
    from clip_jax.runtime.mesh import batch_sharding, create_mesh

    mesh = create_mesh({"data": -1}, devices)
    loss = losses.build("softmax", implementation, mesh, dtype="bfloat16")
    rows = jax.ShapeDtypeStruct((batch, width), jnp.bfloat16, sharding=batch_sharding(mesh))
    scale = jax.ShapeDtypeStruct((), jnp.float32)
    gradients = jax.value_and_grad(lambda *a: loss(*a)[0], argnums=(0, 1, 2))
    return jax.jit(gradients).lower(rows, rows, scale, scale).compile()


def loss_temporaries(implementation: str, devices: Sequence["jax.Device"], batch: int) -> int:
    """Bytes that the bare loss needs on each device beside embeddings and gradients."""
    from clip_jax.analysis import hlo

    return hlo.memory(bare_loss(implementation, devices, batch)).temporaries


def _is_embeddings(collective: Mapping[str, str | int], batch: int, width: int) -> bool:
    shapes = collective["shape"].split()
    if collective["kind"] == "all-reduce":  # of zeros but for one's own rows: a gather, to XLA
        return all(s.endswith(f"[{batch},{width}]") for s in shapes)
    kinds = ("all-gather", "collective-permute")
    return collective["kind"] in kinds and all(s.endswith(f",{width}]") for s in shapes)
