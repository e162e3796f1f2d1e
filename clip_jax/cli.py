"""What all commands share: the parser, the exit codes, and one line for an expected error."""

import argparse
import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from clip_jax.runtime import distributed
from clip_jax.runtime.errors import ConfigError

FAILED = 1  # what the system refused, and defects


class Parser(argparse.ArgumentParser):
    """The flags of ``python -m clip_jax.<command>``; a wrong one is a ConfigError.

    (argparse itself ends the process, with the exit code 2.)
    """

    def __init__(self, command: str, description: str | None):
        super().__init__(
            prog=f"python -m clip_jax.{command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


@contextlib.contextmanager
def user_values() -> Iterator[None]:
    """Takes a plain ValueError of this package as one about the user's values.

    For the part of a command in which its flags, config and files are put together. A ValueError
    that a library raises, or that comes later, is a defect.

    Raises:
      ConfigError: in place of such an error.
    """
    try:
        yield
    except ValueError as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        ours = Path(raised_in).is_relative_to(Path(__file__).parent)
        if type(error) is not ValueError or not ours:
            raise
        raise ConfigError(str(error)) from error


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error that a user can do something about; None for any other."""
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return code
    if isinstance(error, KeyboardInterrupt):
        return distributed.PREEMPTED
    if isinstance(error, FileNotFoundError):
        return distributed.USAGE
    if isinstance(error, OSError):
        return FAILED
    if "jax" in sys.modules and distributed.is_peer_loss(error):
        return distributed.PEER_LOST
    return None


def run_command(command: Callable[[list[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    An expected error is one line on stderr; one that is not keeps its traceback.

    Args:
      command: takes the arguments of a command line and returns an exit code.
      arguments: those of the process by default.
    """
    try:
        return command(sys.argv[1:] if arguments is None else list(arguments))
    except (Exception, KeyboardInterrupt) as error:
        code = exit_code(error)
        if code is None:
            traceback.print_exc()
            return FAILED
        if code == distributed.PREEMPTED:
            print(str(error) or "stopped; the same command continues from what is saved")
            return code
        message = str(error)
        if code == distributed.PEER_LOST:
            message = f"another process was lost; start them all again to continue ({error})"
        print(f"error: {message}", file=sys.stderr)
        return code
