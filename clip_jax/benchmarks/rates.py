"""How much is done in a second of wall time and of CPU time, by several methods in turn."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from clip_jax.benchmarks import paired


@dataclasses.dataclass
class Rate:
    """Things a second of wall time and of CPU time, one value a round."""

    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to get things done, such as images.

    Attributes:
      name: for the table.
      run: does some, and returns how many.
      reference: name of the method with which it is compared. It should use as many threads:
        cores that are all busy are slower than one alone.
      prepare: called before each ``run``, and not measured.
    """

    name: str
    run: Callable[[], int]
    reference: str
    prepare: Callable[[], object] = lambda: None


def in_turn(methods: Sequence[Method], rounds: int) -> dict[str, Rate]:
    """Measures all in every round, in random order, after one that warms caches."""
    measured = paired.alternate({m.name: functools.partial(_rates, m) for m in methods}, rounds + 1)
    return {
        name: Rate(*map(list, zip(*values[1:], strict=True))) for name, values in measured.items()
    }


def _rates(method: Method) -> tuple[float, float]:
    """Things a second of wall time, and of CPU time."""
    method.prepare()
    wall, cpu = time.perf_counter(), cpu_seconds()
    count = method.run()
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    _settle()
    return count / wall, count / cpu


def _settle() -> None:
    """Waits until the threads and workers of a stream have filled its buffers and rest."""
    before, now = -1.0, cpu_seconds()
    while now - before > 0.02:
        time.sleep(0.2)
        before, now = now, cpu_seconds()


def cpu_seconds() -> float:
    """CPU time of this process and of its living descendants (on Linux; else of itself alone)."""
    ticks = os.sysconf("SC_CLK_TCK")
    parents, spent = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(folder.name)] = int(fields[1])
        spent[int(folder.name)] = (int(fields[11]) + int(fields[12])) / ticks
    mine = {os.getpid()}
    while more := {p for p, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return time.process_time() + sum(spent.get(p, 0.0) for p in mine - {os.getpid()})


def compare(methods: Sequence[Method], rounds: int, unit: str, ratio: str) -> paired.JsonDict:
    """Measures all methods in turn, and prints and returns what was found.

    Args:
      methods: at least those that others refer to.
      rounds: to measure.
      unit: what is counted, such as "images".
      ratio: the name of the quartiles of a method's ratio by CPU time to its reference.
    """
    rates = in_turn(methods, rounds)
    results: paired.JsonDict = {}
    print(f"{'':<32}{unit + '/s':>10}{'by CPU-s':>12}{'by CPU-s, to reference':>26}")
    for method in methods:
        rate, reference = rates[method.name], rates[method.reference]
        shares = [a / b for a, b in zip(rate.cpu, reference.cpu, strict=True)]
        low, share, high = paired.quartiles(shares)
        wall, cpu = paired.quartiles(rate.wall)[1], paired.quartiles(rate.cpu)[1]
        ratios = f"{share:.2f} ({low:.2f} to {high:.2f})"
        print(f"{method.name:<32}{wall:>10,.0f}{cpu:>12,.0f}{ratios:>26}")
        results[method.name] = {
            f"{unit}_per_second": wall, f"{unit}_per_cpu_second": cpu,
            ratio: [low, share, high], "all": dataclasses.asdict(rate),
        }  # fmt: skip
    return results
