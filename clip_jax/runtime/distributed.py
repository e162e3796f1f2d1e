"""Processes: start-up, the lead, agreement of all hosts, stop signals, the watchdog, exit codes.

Imports jax only inside functions: stop signals must be caught before the seconds that importing
jax takes, or one that arrives meanwhile kills a run that would have saved its state.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping

from clip_jax.runtime import cluster

# Exit codes of every command line (those of sysexits.h where one fits).
OK, USAGE, BAD_DATA, PEER_LOST, HANGING, IN_USE, PREEMPTED, MISMATCH = (
    0, 64, 65, 70, 71, 73, 75, 78,
)  # fmt: skip

_RUNTIME_CODES = (
    "UNKNOWN:", "UNAVAILABLE:", "INTERNAL:", "DEADLINE_EXCEEDED:", "ABORTED:", "CANCELLED:",
    "FAILED_PRECONDITION:",
)  # fmt: skip

_stop = threading.Event()


def catch_stop_signals() -> None:
    """Makes SIGTERM and the first SIGINT ask for a stop; a second SIGINT kills.

    The request travels with the batches, so that all processes stop at the same step: it takes
    effect after those already prepared, and after an evaluation that is under way.
    """

    def handler(number, frame):
        del frame
        if number == signal.SIGINT and _stop.is_set():
            os._exit(128 + number)
        _stop.set()
        sys.stderr.write("\nstopping within a few steps, with a checkpoint\n")

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)


def stop_requested() -> bool:
    """Whether this process has been asked to stop."""
    return _stop.is_set()


def initialize(env: Mapping[str, str] | None = None) -> None:
    """Joins the other processes of the run, if there are any (see ``cluster.decide``); says so.

    Raises:
      ValueError: the others cannot be found with what the environment says.
    """
    decision = cluster.decide(os.environ if env is None else env)
    if decision.why:
        print(f"joining the run: {decision.why}" if decision.join else decision.why, flush=True)
    if not decision.join:
        return
    import jax

    # Orbax would poll JAX's preemption service, which loses signals; the train step carries ours.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **decision.arguments,
            initialization_timeout=300,
            heartbeat_timeout_seconds=20,
            shutdown_timeout_seconds=30,
        )
    except (ValueError, ImportError, OSError) as error:
        raise ValueError(
            f"{decision.why}, but JAX cannot join it ({error}); set {', '.join(cluster.KEYS)} "
            "on every process (see launch/README.md)"
        ) from error


def is_lead() -> bool:
    """Whether this is the process that writes files and prints."""
    import jax

    return jax.process_index() == 0


def _gathered(number: int) -> list[int]:
    """The 32-bit number of each process, the lead's first."""
    import jax

    if jax.process_count() == 1:
        return [number]
    import numpy as np
    from jax.experimental import multihost_utils

    return np.ravel(multihost_utils.process_allgather(np.uint32(number))).tolist()


def all_hosts(ok: bool) -> bool:
    """True on every process if ``ok`` is true on every process. All must call it."""
    return all(_gathered(ok))


def identical_on_all_hosts(value: object) -> bool:
    """Whether ``value`` prints alike on all processes. All must call it."""
    return len(set(_gathered(zlib.crc32(repr(value).encode())))) == 1


def say(*lines: str) -> None:
    """Prints on the lead process."""
    if is_lead():
        print(*lines, sep="\n", flush=True)


def broadcast_from_lead(number: int) -> int:
    """The lead's 32-bit number, on every process. All must call it."""
    return _gathered(number)[0]


def barrier(name: str) -> None:
    """Waits for all processes; no longer than the watchdog, if there is one."""
    import jax

    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        heartbeat(f"waiting for the other processes ({name})")
        multihost_utils.sync_global_devices(name)
        heartbeat(f"past {name}")


def shut_down(code: int) -> None:
    """Ends the process. On failure in a run of several it leaves at once: the others notice a
    closed connection in a fraction of a second, and an orderly exit would wait for them instead.
    """
    import jax

    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_count() > 1:
        if code not in (OK, PREEMPTED):
            os._exit(code)
        jax.distributed.shutdown()
    sys.exit(code)


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and the errors that it came from."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def is_peer_loss(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that another process has gone."""
    import jax

    signs = ("gloo", "connection", "peer", "heartbeat", "coordination", "unavailable", "socket",
             "barrier", "deadline_exceeded")  # fmt: skip

    def of_the_runtime(e: BaseException) -> bool:
        # Where a result is waited for, the runtime's error comes as a plain ValueError.
        return isinstance(e, jax.errors.JaxRuntimeError) or (
            type(e) is ValueError and str(e).startswith(_RUNTIME_CODES)
        )

    return any(of_the_runtime(e) and any(s in str(e).lower() for s in signs) for e in causes(error))


class Watchdog:
    """Ends the process with all stacks on stderr when ``heartbeat`` is not called for ``seconds``.

    A loader worker or a collective that hangs would otherwise hold an allocation without end. There
    is one at a time.
    """

    def __init__(self, seconds: float):
        global _watchdog
        self.seconds = seconds
        self._last, self._what = time.monotonic(), "starting"
        self._done = threading.Event()
        _watchdog = self
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def heartbeat(self, what: str) -> None:
        """Says that the run is alive, and what it does now."""
        self._last, self._what = time.monotonic(), what

    def close(self) -> None:
        """Stops watching."""
        global _watchdog
        _watchdog = None
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(min(self.seconds / 4, 5.0)):
            if time.monotonic() - self._last > self.seconds:
                sys.stderr.write(
                    f"no progress for {self.seconds:.0f} s (runtime.watchdog_seconds), "
                    f"the last being: {self._what}. Giving up. Stacks:\n"
                )
                faulthandler.dump_traceback(file=sys.stderr)
                sys.stderr.flush()
                os._exit(HANGING)


_watchdog: Watchdog | None = None


def heartbeat(what: str) -> None:
    """Tells the watchdog, where there is one, that the run is alive and what it does now."""
    if _watchdog is not None:
        _watchdog.heartbeat(what)
