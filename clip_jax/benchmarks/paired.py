"""Two programs measured in turn: resident processes, rounds in random order, ratios of neighbours.

Machines are shared and noisy: a time says little, the ratio of two times taken one after the other
says much. Each program runs in a process of its own, so that neither's threads or memory are the
other's; the processes wait while they are not asked.
"""

import functools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from clip_jax.analysis.chips import MEMORY_FRACTION
from clip_jax.config import ConfigError
from clip_jax.data.stream.input import usable_cores
from clip_jax.runtime.digests import Json

JsonDict = dict[str, Json]
Value = TypeVar("Value")


class Worker:
    """A process that measures when it is asked.

    Attributes:
      name: of what it measures.
      about: what it said when it was ready, such as its compile time.
    """

    def __init__(self, name: str, module: str, task: JsonDict):
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(task)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            # Two programs share a GPU, and both have to fit: neither takes memory in advance.
            env={"XLA_PYTHON_CLIENT_MEM_FRACTION": str(MEMORY_FRACTION)} | os.environ
            | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )  # fmt: skip
        self.about = self._answer()

    def measure(self, calls: int) -> float:
        """Seconds a call, over so many."""
        return self._ask({"calls": calls})["seconds"] / calls

    def close(self) -> JsonDict:
        """Ends the process; returns what it says last, such as its peak memory."""
        last = self._ask({"calls": 0})
        self._process.stdin.close()
        self._process.wait()
        return last

    def _ask(self, question: JsonDict) -> JsonDict:
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> JsonDict:
        for line in self._process.stdout:  # libraries print what they like
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.name} ended with {self._process.wait()}; see above")


def serve(about: JsonDict, call: Callable[[int], float], last: Callable[[], JsonDict]) -> None:
    """The worker's side: answers until its input ends.

    Args:
      about: said at once.
      call: makes so many calls and returns the seconds that they took.
      last: what to say at the end.
    """
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        count = json.loads(line)["calls"]
        print(json.dumps({"seconds": call(count)} if count else last()), flush=True)


def in_turn(workers: Sequence[Worker], rounds: int, calls: int) -> dict[str, list[float]]:
    """Seconds a call of every worker in every round; the order within a round is random."""
    for worker in workers:
        worker.measure(1)  # the first one warms caches
    return alternate({w.name: functools.partial(w.measure, calls) for w in workers}, rounds)


def alternate(calls: Mapping[str, Callable[[], Value]], rounds: int) -> dict[str, list[Value]]:
    """What every call returns in every round; the order within a round is random."""
    order, values = random.Random(0), {name: [] for name in calls}
    for _ in range(rounds):
        for name in order.sample(list(calls), len(calls)):
            values[name].append(calls[name]())
    return values


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    if len(values) < 2:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(times: Mapping[str, Sequence[float]], ours: str, other: str) -> tuple[float, ...]:
    """How many times as fast as the other ours was, round by round: quartiles."""
    return quartiles([b / a for a, b in zip(times[ours], times[other], strict=True)])


def require_folder(path: str | None) -> None:
    """Refuses, before anything is measured, a ``--json`` that could not be written.

    Raises:
      ConfigError: there is no folder for it.
    """
    if path and not Path(path).parent.is_dir():
        raise ConfigError(f"--json={path}: there is no folder of that name")


def write_record(path: str | None, name: str, arguments: Sequence[str], results: Json) -> None:
    """Writes results, with the command that made them and the machine, where there is a path."""
    if path:
        flags = " ".join(a for a in arguments if not a.startswith("--json="))
        record = {
            "command": f"python -m clip_jax.benchmark {name} {flags}",
            "machine": machine(),
            "results": results,
        }
        Path(path).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def machine() -> JsonDict:
    """What is measured on."""
    import jax

    devices = jax.local_devices()
    model = platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        pass
    return {
        "cpu": model,
        "cores": len(usable_cores()),
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
