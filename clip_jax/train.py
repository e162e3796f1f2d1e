"""Trains CLIP: python -m clip_jax.train --config=configs/quickstart.py [--workdir=DIR]

The workdir decides what happens: an empty one begins a run, one with a run in it continues that
run where it stopped. Any config key can be overridden: --config.optim.learning_rate=1e-3
"""

import os
import sys
from pathlib import Path

from clip_jax.runtime import distributed

if __name__ == "__main__":
    # Before the imports below, which take seconds: a stop signal must not be lost meanwhile.
    distributed.catch_stop_signals()

import argparse
import contextlib
import logging
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn

from clip_jax import config as config_lib


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise config_lib.ConfigError(message)  # argparse itself exits with 2, whatever we want


def parse(arguments: list[str]) -> tuple[config_lib.ConfigDict, Path]:
    """The config and the workdir of a command line.

    Raises:
      ConfigError: a flag, key or value that is not legal.
    """
    parser = _Parser(
        prog="python -m clip_jax.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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


@contextlib.contextmanager
def _values_checked() -> Iterator[None]:
    """While a run is built, a plain ValueError of ours is about a value that does not fit the
    model, the mesh or the data. One out of a library or from a later time is a defect.

    Raises:
      ConfigError: in place of such an error.
    """
    try:
        yield
    except ValueError as error:
        place = traceback.extract_tb(error.__traceback__)[-1].filename
        if type(error) is not ValueError or not Path(place).is_relative_to(Path(__file__).parent):
            raise
        raise config_lib.ConfigError(str(error)) from error


def run(config: config_lib.ConfigDict, workdir: Path) -> dict:
    """Trains from a resolved config in a workdir, start to finish. Returns the result record.

    Raises:
      Whatever ``exit_code`` knows; Preempted where a stop was asked for, and OSError whenever the
      last checkpoint is not there.
    """
    from clip_jax.training import results, trainer
    from clip_jax.training import workdir as workdir_lib

    lead = distributed.is_lead()
    with (
        contextlib.closing(distributed.Watchdog(config.watchdog_seconds)),
        workdir_lib.locked(workdir) if lead else contextlib.nullcontext(),
    ):
        with _values_checked():
            workdir_lib.check_shared(workdir)
            workdir_lib.check_config(workdir, config)
            this = trainer.Run(config, workdir)
        this.describe()
        if lead and not (workdir / "config.json").is_file():
            workdir_lib.write_json(workdir / "config.json", config.to_dict())
        result, stopped = {}, None
        try:
            this.train()
            result = results.finish(this)
        except trainer.Preempted as stop:
            stopped = stop
        finally:
            saved = this.checkpoints.close()
        if not distributed.agree(saved):
            raise OSError(f"the last checkpoint could not be written to {workdir}: see above")
        if stopped is not None:
            raise stopped
        return result


def exit_code(error: BaseException) -> int:
    """The exit code that an error means to whoever started the command."""
    from clip_jax.data import tar_index
    from clip_jax.data.emoji import drawings
    from clip_jax.data.errors import DataError
    from clip_jax.interop.mapping import LayoutError
    from clip_jax.interop.torch.torch_file import WeightFileError
    from clip_jax.training import checkpoint, trainer, workdir

    if isinstance(error, trainer.Preempted):
        return distributed.PREEMPTED
    codes = {
        config_lib.ConfigError: distributed.USAGE,
        workdir.WorkdirInUse: distributed.IN_USE,
        workdir.Mismatch: distributed.MISMATCH,
        checkpoint.CheckpointError: distributed.BAD_DATA,
        DataError: distributed.BAD_DATA,
        tar_index.ShardError: distributed.BAD_DATA,
        drawings.EmojiError: distributed.BAD_DATA,
        LayoutError: distributed.MISMATCH,
        WeightFileError: distributed.BAD_DATA,
        trainer.TrainingError: 1,
        OSError: 1,
    }
    for kind, code in codes.items():
        if isinstance(error, kind):
            return code
    return distributed.PEER_LOST if distributed.is_peer_loss(error) else -1


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # Orbax logs the stacks of failed saves; checkpoint.py reports them in one line.
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
    started = time.time()
    try:
        config, workdir = parse(sys.argv[1:] if arguments is None else arguments)
        with _values_checked():
            distributed.initialize()
        result = run(config, workdir)
    except KeyboardInterrupt:
        return distributed.PREEMPTED
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        code = exit_code(error)
        if code == distributed.PREEMPTED:
            print("stopped, with a checkpoint; the same command continues the run")
            return code
        if code == -1:  # not an error we know: a defect, whose place matters
            traceback.print_exc()
            return 1
        if code == distributed.PEER_LOST:
            print("error: another process was lost; the same command on all of them continues "
                  f"from the last checkpoint ({error})", file=sys.stderr)  # fmt: skip
        else:
            print(f"error: {error}", file=sys.stderr)
        return code
    if distributed.is_lead():
        print(f"done in {time.time() - started:.0f} s: {workdir}")
    del result
    return distributed.OK


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own chatter
    distributed.shut_down(main())
