"""Trains CLIP: python -m clip_jax.train --config=configs/quickstart.py [--workdir=DIR]

The workdir decides what happens: an empty one begins a run, one with a run in it continues that
run where it stopped. Any config key can be overridden: --config.optim.learning_rate=1e-3
"""

import os
from pathlib import Path

from clip_jax.runtime import distributed

if __name__ == "__main__":
    # Before the imports below, which take seconds: a stop signal must not be lost meanwhile.
    distributed.catch_stop_signals()

import contextlib
import logging
import time

from clip_jax import cli
from clip_jax import config as config_lib
from clip_jax.analysis.chips import MEMORY_FRACTION
from clip_jax.data import paths
from clip_jax.runtime import compile_cache


def parse(arguments: list[str]) -> tuple[config_lib.ConfigDict, Path]:
    """The config and the workdir of a command line.

    Raises:
      ConfigError: a flag, key or value that is not legal.
    """
    parser = cli.Parser("train", __doc__)
    parser.add_argument("--config", required=True, help="Python file with get_config()")
    parser.add_argument("--workdir", help="folder of the run; default: runs/<config name>")
    flags, rest = parser.parse_known_args(arguments)
    workdir = flags.workdir or f"runs/{Path(flags.config).stem}"
    if "://" in workdir:
        raise config_lib.ConfigError(
            f"--workdir={workdir}: must be a folder, not an address; mount the bucket on every "
            "host (for gs://, with gcsfuse) and give the folder where it is mounted"
        )
    config = config_lib.load(flags.config, config_lib.overrides(rest))
    return config, Path(workdir).absolute()


def run(config: config_lib.ConfigDict, workdir: Path) -> dict:
    """Trains from a resolved config in a workdir, start to finish. Returns the result record.

    Raises:
      Preempted: a stop was requested.
      OSError: the last checkpoint is not there.
      Exception: any other that ``cli.exit_code`` knows.
    """
    from clip_jax import pretrained
    from clip_jax.report import examples
    from clip_jax.training import results, trainer
    from clip_jax.training import workdir as workdir_lib

    lead = distributed.is_lead()
    with (
        contextlib.closing(distributed.Watchdog(config.runtime.watchdog_seconds)),
        workdir_lib.locked(workdir) if lead else contextlib.nullcontext(),
    ):
        with cli.user_values():
            workdir_lib.check_shared(workdir)
            workdir_lib.check_config(workdir, config)
            this = trainer.Run(config, workdir, pretrained.find)
        this.describe()
        if lead and not (workdir / "config.json").is_file():
            workdir_lib.write_json(workdir / "config.json", config.to_dict())
        result, stopped = {}, None
        try:
            this.train()
            result = results.finish(this, examples.write_run)
        except trainer.Preempted as stop:
            stopped = stop
        finally:
            saved = this.checkpoints.close()
        if not distributed.all_hosts(saved):
            raise OSError(f"the last checkpoint could not be written to {workdir}: see above")
        if stopped is not None:
            raise stopped
        return result


def _command(arguments: list[str]) -> int:
    started = time.time()
    config, workdir = parse(arguments)
    with cli.user_values():
        distributed.initialize()
    compile_cache.enable(paths.cache_dir(config.data.cache_dir))
    run(config, workdir)
    if distributed.is_lead():
        print(f"done in {time.time() - started:.0f} s: {workdir}")
    return distributed.OK


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # Orbax logs the stacks of failed saves; checkpoint.py reports them in one line.
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
    return cli.run_command(_command, arguments)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own chatter
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(MEMORY_FRACTION))
    distributed.shut_down(main())
