"""The largest batch that fits, and the fastest way to compute a step."""

import math
from collections.abc import Iterator

from clip_jax import config as config_lib
from clip_jax.compiled.report import Report, gib, verdict
from clip_jax.compiled.step import Target, compile_step
from clip_jax.models.execution import REMAT_POLICIES
from clip_jax.runtime import mesh


def largest_batch(config: config_lib.ConfigDict, target: Target) -> Report | None:
    """The report of the largest global batch that fits, to within an eighth; None if none does.

    Begins with the config's own. Batches are multiples of all that has to divide them: the batch
    shards, ``train.num_microbatches``, ``loss.chunk_size`` and ``model.batch_norm_group``.
    """
    config = config.copy_and_resolve_references()
    parts = config.train.num_microbatches
    shards = mesh.batch_shards(mesh.create_mesh(config.mesh.to_dict(), target.devices))
    unit = math.lcm(
        shards * parts, config.loss.chunk_size or 1, (config.model.batch_norm_group or 1) * parts
    )
    best, low, high = None, 0, 0  # in units: fits, does not fit
    count = max(1, config.train.batch_size // unit)
    while not high or high - low > max(1, low // 8):
        config.train.batch_size = unit * count
        report = compile_step(config, target)
        print(f"batch {report.batch:,}: {verdict(report)}", flush=True)
        if report.fits:
            best, low = report, count
        else:
            high = count
        count = (low + high) // 2 if high else 2 * low
    return best


def fastest_plan(
    config: config_lib.ConfigDict, target: Target, search_batch: bool = False
) -> Report | None:
    """Tries every way to compute the step, prints a table, and returns the best report.

    The best is the one of the least step time an example, then of the fewest bytes copied, then of
    the least memory; None if nothing fits.

    Args:
      search_batch: each at the largest batch that fits, instead of the config's.
    """
    print(_row("layers", "recomputed", "attention", "batch", "memory", "FLOPs", "copied", "step"))
    best = None
    for plan in _plans(target):
        tried = config.copy_and_resolve_references()
        with tried.ignore_type():  # "auto" or a bool
            tried.model.update(plan)
        report = largest_batch(tried, target) if search_batch else compile_step(tried, target)
        layers = "loop" if plan["scan_layers"] else "unrolled"
        names = (layers, plan["remat_policy"], plan["attention"])
        if report is None or not report.fits:
            print(_row(*names, "-", "does not fit", "-", "-", "-"), flush=True)
            continue
        moved = sum(m["size"] for m in report.moves)
        print(
            _row(
                *names, f"{report.batch:,}", gib(report.memory["total"]),
                f"+{report.recomputed_flops / report.flops:.0%}", f"{moved / 1e9:.2f} GB",
                f"{1e3 * report.step_seconds:.1f} ms",
            ),
            flush=True,
        )  # fmt: skip
        if best is None or _cost(report) < _cost(best):
            best = report
    return best


def _plans(target: Target) -> Iterator[dict[str, bool | str]]:
    platform = target.devices[0].platform
    for attention in ("cudnn", "xla") if platform in ("gpu", "cuda") else ("xla",):
        for policy in ("none", *REMAT_POLICIES):
            for scan in (False, True):
                yield {"scan_layers": scan, "remat_policy": policy, "attention": attention}


def _cost(r: Report) -> tuple[float, int, int]:
    moved = sum(m["size"] for m in r.moves)
    return r.step_seconds / r.batch, moved, r.memory["total"]


def _row(*cells: str) -> str:
    widths = (9, 12, 10, 8, 13, 7, 10, 9)
    return "  ".join(f"{c:<{w}}" for c, w in zip(cells, widths, strict=True)).rstrip()
