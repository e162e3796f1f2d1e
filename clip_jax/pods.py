"""What the recipes need on TPU pods, by compiling them ahead of time: the tables of docs/pods.md.

python -m clip_jax.benchmark fits
python -m clip_jax.benchmark scaling
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_jax import aot
from clip_jax import config as config_lib

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

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
# Weak scaling: pairs on each chip, and slices of more and more chips.
PAIRS_EACH = 128
SLICES = ("v5e:2x4", "v5e:4x8", "v5e:8x8", "v5e:16x16")


def _config(name: str, **changes: Any) -> Any:
    overrides = [(k.replace("__", "."), str(v)) for k, v in changes.items()]
    return config_lib.load(str(CONFIGS / f"{name}.py"), overrides)


def _compiled(name: str, topology: str, **changes: Any) -> aot.Report:
    devices, chip = aot.devices_of(topology)
    return aot.compile_step(_config(name, **changes), topology, devices, chip)


def _row(cells: Sequence[Any]) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def _head(cells: Sequence[str]) -> None:
    _row(cells)
    _row(["---"] * len(cells))


def fits(only: Sequence[str] = ()) -> None:
    """Prints, for each recipe, whether it fits its slice, and how fast a step could be at best.

    Args:
      only: names of recipes; all of them by default.
    """
    _head(("config", "slice", "chips", "GiB a chip", "of", "TFLOPs a chip", "MB received",
           "step at the least", "MFU at most"))  # fmt: skip
    for name, topology in RECIPES:
        if only and name not in only:
            continue
        r = _compiled(name, topology)
        gib = f"{r.memory['total'] / 2**30:.2f}" if not r.problem else r.problem
        _row((f"`{name}`", topology, r.devices, gib, f"{r.capacity / 2**30:.0f}",
              f"{r.flops / 1e12:.1f}", f"{r.received / 1e6:,.0f}",
              f"{1e3 * r.step_seconds:,.0f} ms", f"{r.best_mfu:.0%}"))  # fmt: skip


def loss_bytes(implementation: str, chips: int, each: int, width: int, itemsize: int) -> int:
    """What the softmax loss sends to each chip, in closed form.

    ``all_gather``: both towers' embeddings of all other chips, 2 (n - 1) b E s. ``ring``: n steps
    with the texts forward, n with the texts and their float32 gradients back, n b E (2 s + 4).
    Numbers of examples (log-sums and the like, 1 / E of this) are left out.
    """
    if implementation == "all_gather":
        return 2 * (chips - 1) * each * width * itemsize
    return chips * each * width * (2 * itemsize + 4)


def scaling(slices: Sequence[str] = SLICES) -> None:
    """Prints what a chip of more and more chips does, at the same number of pairs on each."""
    _head(("loss", "chips", "batch", "TFLOPs a chip", "of these the loss", "temporaries, MiB",
           "MB received", "of these embeddings", "by the formula"))  # fmt: skip
    for implementation in ("all_gather", "ring"):
        for topology in slices:
            devices, chip = aot.devices_of(topology)
            batch = PAIRS_EACH * len(devices)
            config = _config(
                "vit_b32", train__batch_size=batch, loss__implementation=implementation
            )
            r = aot.compile_step(config, topology, devices, chip)
            width, itemsize = 512, 2
            sent = sum(c["received"] for c in r.collectives if _is_embeddings(c, width))
            theory = loss_bytes(implementation, len(devices), PAIRS_EACH, width, itemsize)
            loss = 6 * batch * width * PAIRS_EACH
            _row((implementation, len(devices), f"{batch:,}", f"{r.flops / 1e12:.3f}",
                  f"{loss / 1e12:.3f}", f"{r.memory['temporaries'] / 2**20:,.0f}",
                  f"{r.received / 1e6:,.1f}", f"{sent / 1e6:,.1f}",
                  f"{theory / 1e6:,.1f}"))  # fmt: skip


def _is_embeddings(collective: dict[str, Any], width: int) -> bool:
    return collective["kind"] in ("all-gather", "collective-permute") and all(
        part.endswith(f",{width}]") for part in collective["shape"].split()
    )
