"""How the processes of a run find each other: what is looked at, and what is decided from it.

JAX can find out by itself on TPU pods, under SLURM and under Open MPI, but fails where there is
nothing to be found: so this only decides whether to let it try. Imports no jax.
"""

import glob
import importlib.util
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

KEYS = ("CLIP_JAX_COORDINATOR", "CLIP_JAX_PROCESSES", "CLIP_JAX_PROCESS_ID")
# What the kernel calls TPU chips: up to v4 and since v5e. (vfio lists other devices too, hence
# the second condition in _tpu_here: JAX uses TPUs only through libtpu.)
CHIPS = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
METADATA_SECONDS = 15.0


class Decision(NamedTuple):
    """Whether to join other processes, and why.

    Attributes:
      join: call ``jax.distributed.initialize``.
      arguments: what to call it with; empty: JAX finds out by itself.
      why: in words; empty where there is nothing to report.
    """

    join: bool
    arguments: dict[str, str | int]
    why: str


def decide(env: Mapping[str, str]) -> Decision:
    """What the environment and the machine say about other processes.

    Raises:
      ValueError: some but not all of ``KEYS`` are set.
    """
    given = [k for k in KEYS if env.get(k)]
    if given and len(given) < len(KEYS):
        missing = ", ".join(k for k in KEYS if k not in given)
        raise ValueError(f"{given[0]} is set, but not {missing}; set all three, or none")
    if given:
        address, count, index = (env[k] for k in KEYS)
        arguments = {"coordinator_address": address, "num_processes": int(count),
                     "process_id": int(index)}  # fmt: skip
        return Decision(True, arguments, f"process {index} of {count}, by {KEYS[0]}={address}")
    for key, what in (("SLURM_NTASKS", "SLURM"), ("OMPI_COMM_WORLD_SIZE", "Open MPI")):
        if int(env.get(key) or 1) > 1:
            return Decision(True, {}, f"{env[key]} processes, by {what} ({key})")
    return _decide_tpu(env)


def _decide_tpu(env: Mapping[str, str]) -> Decision:
    """Looks at the variables of GKE, and at the metadata server of a TPU VM."""
    for key in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        hosts = [h for h in env.get(key, "").split(",") if h]
        slices = int(env.get("MEGASCALE_NUM_SLICES") or 1)
        if len(hosts) * slices > 1:
            return Decision(True, {}, f"{len(hosts)} host(s) x {slices} slice(s), by {key}")
        if hosts:
            return Decision(False, {}, f"one process: {key} names one host")
    if not _tpu_here(env):
        return Decision(False, {}, "")
    if env.get("TPU_SKIP_MDS_QUERY"):
        return Decision(False, {}, "one process: TPU chips, and TPU_SKIP_MDS_QUERY is set")
    if _metadata_server_answers(env):
        return Decision(True, {}, "a TPU VM, by its metadata server")
    return Decision(
        False, {},
        "one process: TPU chips, but no metadata server knows them; on a pod set "
        + ", ".join(KEYS),
    )  # fmt: skip


def _tpu_here(env: Mapping[str, str]) -> bool:
    platforms = env.get("JAX_PLATFORMS") or "tpu"
    library = env.get("TPU_LIBRARY_PATH") or importlib.util.find_spec("libtpu")
    return "tpu" in platforms and bool(library) and any(glob.glob(c) for c in CHIPS)


def _metadata_server_answers(env: Mapping[str, str]) -> bool:
    """Whether this machine is a TPU VM of Compute Engine; False after METADATA_SECONDS.

    In a thread, because looking up a name has no time-out of its own; several times, because a
    pod whose hosts each train alone is worse than a wait.
    """
    host = env.get("GCE_METADATA_IP") or "metadata.google.internal"
    url = f"http://{host}/computeMetadata/v1/instance/attributes/agent-worker-number"
    on_tpu = threading.Event()
    done = threading.Event()

    def ask():
        for _ in range(3):
            answer = _get(url)
            if answer == 200:
                on_tpu.set()
            if answer is not None:  # it is there, and knows or does not
                break
        done.set()

    threading.Thread(target=ask, name="metadata", daemon=True).start()
    done.wait(METADATA_SECONDS)
    return on_tpu.is_set()


def _get(url: str) -> int | None:
    """The status of an HTTP GET; None without an answer."""
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=4) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
