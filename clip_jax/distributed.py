"""Processes: start-up, the lead, agreement, stop signals, the watchdog, exit codes.

Imports jax only inside functions: stop signals must be caught before the seconds that importing
jax takes, or one that arrives meanwhile kills a run that would have saved its state.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

# Exit codes of every command line (those of sysexits.h where one fits).
OK, USAGE, BAD_DATA, PEER_LOST, HANGING, IN_USE, PREEMPTED, MISMATCH = (
    0, 64, 65, 70, 71, 73, 75, 78,
)  # fmt: skip

_stop = threading.Event()


def catch_stop_signals() -> None:
    """Makes SIGTERM and the first SIGINT ask for a stop at the next step; a second SIGINT kills."""

    def handler(number, frame):
        del frame
        if number == signal.SIGINT and _stop.is_set():
            os._exit(128 + number)
        _stop.set()
        sys.stderr.write("\nstopping after this step, with a checkpoint\n")

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)


def stop_requested() -> bool:
    """Whether this process has been asked to stop."""
    return _stop.is_set()


def _several_tasks(env: Mapping[str, str]) -> bool:
    """Whether a launcher that JAX knows how to read has started more than one process."""
    counts = (env.get("SLURM_NTASKS"), env.get("OMPI_COMM_WORLD_SIZE"))
    hosts = env.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return any(c and int(c) > 1 for c in counts) or len(hosts) > 1


def initialize(env: Mapping[str, str] | None = None) -> None:
    """Joins the other processes of the run, if there are any; does nothing for a single one.

    Explicit: CLIP_JAX_COORDINATOR (host:port), CLIP_JAX_PROCESSES and CLIP_JAX_PROCESS_ID. On a
    TPU pod, under SLURM and under Open MPI, JAX finds out by itself.

    Raises:
      ValueError: some but not all of the three variables are set.
    """
    env = os.environ if env is None else env
    keys = ("CLIP_JAX_COORDINATOR", "CLIP_JAX_PROCESSES", "CLIP_JAX_PROCESS_ID")
    given = [k for k in keys if env.get(k)]
    if not given and not _several_tasks(env):
        return
    if given and len(given) < 3:
        raise ValueError(f"{given[0]} is set, but not {', '.join(set(keys) - set(given))}")
    import jax

    # Orbax would poll JAX's preemption service, which loses signals; the train step carries ours.
    jax.config.update("jax_enable_preemption_service", False)
    explicit: dict[str, Any] = {}
    if given:
        explicit = dict(
            coordinator_address=env[keys[0]],
            num_processes=int(env[keys[1]]),
            process_id=int(env[keys[2]]),
        )
    jax.distributed.initialize(
        **explicit,
        initialization_timeout=300,
        heartbeat_timeout_seconds=20,
        shutdown_timeout_seconds=30,
    )


def is_lead() -> bool:
    """Whether this is the process that writes files and speaks."""
    import jax

    return jax.process_index() == 0


def agree(ok: bool) -> bool:
    """True on every process if ``ok`` is true on every process. All must call it."""
    import jax

    if jax.process_count() == 1:
        return ok
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(ok))))


def barrier(name: str) -> None:
    """Waits for all processes."""
    import jax

    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


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


def is_peer_loss(error: BaseException) -> bool:
    """Whether an error says that another process has gone."""
    import jax

    signs = ("gloo", "connection", "peer", "heartbeat", "coordination", "unavailable", "socket")
    text = str(error).lower()
    return isinstance(error, jax.errors.JaxRuntimeError) and any(s in text for s in signs)


class Watchdog:
    """Ends the process with all stacks on stderr when ``beat`` is not called for ``seconds``.

    A loader worker or a collective that hangs would otherwise hold an allocation for ever.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._last = time.monotonic()
        self._done = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """Says that the run is alive."""
        self._last = time.monotonic()

    def close(self) -> None:
        """Stops watching."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(min(self.seconds / 4, 5.0)):
            if time.monotonic() - self._last > self.seconds:
                sys.stderr.write(
                    f"no step for {self.seconds:.0f} s (watchdog_seconds): giving up. Stacks:\n"
                )
                faulthandler.dump_traceback(file=sys.stderr)
                sys.stderr.flush()
                os._exit(HANGING)
