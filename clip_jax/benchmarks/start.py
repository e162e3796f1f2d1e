"""How long a launch takes until its first step, with an empty and with a full compile cache."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from clip_jax import cli
from clip_jax import config as config_lib
from clip_jax.benchmarks import paired

# What the training command prints, and what has been done by then.
_SIGNS = (
    ("imports and devices", re.compile(r"\d+ process\(es\), ")),
    ("data, model and state", re.compile(r"training: [\d,]+ steps")),
    ("first step", re.compile(r"step +\d+/")),
)
_CACHES = ("empty", "full")


def command(arguments: Sequence[str]) -> None:
    """The command ``benchmark start``."""
    parser = cli.Parser("benchmark start", __doc__)
    parser.add_argument("--config", required=True, help="Python file with get_config()")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="file to write the results to")
    flags, rest = parser.parse_known_args(arguments)
    config_lib.load(flags.config, config_lib.overrides(rest))  # refused here, not in a child
    if flags.rounds < 1:
        raise config_lib.ConfigError(f"--rounds={flags.rounds} must be 1 or more")
    paired.require_folder(flags.json)
    rounds = []
    for _ in range(flags.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append({name: launch(flags.config, rest, Path(folder)) for name in _CACHES})
    results = {name: _summary([r[name] for r in rounds]) for name in _CACHES}
    for name, parts in results.items():
        low, middle, high = parts["all"]
        detail = ", ".join(f"{k} {v[1]:.1f}" for k, v in parts.items() if k != "all")
        print(f"{name} cache: first step after {middle:.1f} s ({low:.1f} to {high:.1f}): {detail}")
    paired.write_record(flags.json, "start", arguments, results)


def launch(config: str, overrides: Sequence[str], folder: Path) -> dict[str, float]:
    """Starts a run, and ends it after its first step. Seconds of each part of the start.

    Args:
      config, overrides: of the training command.
      folder: for the compile cache, and for the run, which does not stay.

    Raises:
      RuntimeError: the run ended by itself; with what it printed.
    """
    command = [sys.executable, "-u", "-m", "clip_jax.train", f"--config={config}",
               f"--workdir={folder / 'run'}", *overrides, "--config.log.every_steps=1"]  # fmt: skip
    started = time.perf_counter()
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env=environment,
    )  # fmt: skip
    reached: dict[str, float] = {}
    printed = []
    try:
        for line in process.stdout:
            printed.append(line)
            for name, sign in _SIGNS:
                if name not in reached and sign.match(line):
                    reached[name] = time.perf_counter() - started
            if _SIGNS[-1][0] in reached:
                break
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder / "run", ignore_errors=True)
    if _SIGNS[-1][0] not in reached:
        raise RuntimeError(f"the run ended before its first step:\n{''.join(printed[-20:])}")
    times = [reached[name] for name, _ in _SIGNS]
    return {
        name: after - before
        for (name, _), before, after in zip(_SIGNS, [0.0, *times[:-1]], times, strict=True)
    }


def _summary(launches: Sequence[dict[str, float]]) -> dict[str, tuple[float, float, float]]:
    """Quartiles of the whole, and of each part."""
    parts = {name: paired.quartiles([x[name] for x in launches]) for name, _ in _SIGNS}
    return {"all": paired.quartiles([sum(x.values()) for x in launches]), **parts}
