"""Shared fixtures. Tests see 8 CPU devices, whatever the machine has."""

import importlib.metadata
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from clip_jax.runtime import compile_cache  # imports no jax

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile hundreds of small programs and run each for milliseconds: what makes programs fast
# is left out of the compilation, which then takes a third of its time.
FLAGS = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
JAXLIB = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
if JAXLIB <= (0, 10):  # newer ones do not know the flag, and end the process
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{FLAGS} --xla_force_host_platform_device_count=8"

ROOT = pathlib.Path(__file__).resolve().parents[1]


# What XLA compiles: the workers and processes of a test run share it, and the next run finds it.
CACHE = ROOT / ".pytest_cache" / f"xla-{compile_cache.cpu_name()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest


def pytest_collection_modifyitems(items):
    """The longest files first: the workers then end together."""
    longest = (
        "test_interrupted_runs.py", "test_train.py", "test_distributed.py", "test_step.py",
        "test_pretrained.py", "test_evaluation.py", "test_clip.py", "test_resnet.py",
    )  # fmt: skip
    items.sort(key=lambda item: item.path.name not in longest)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The project's folder."""
    return ROOT


def _fail_instead_of_skipping(report):
    """Turns a skipped test into a failed one, unless what it needs is optional everywhere."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if report.skipped and "set CLIP_JAX_" not in reason:
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as a failure where CI is set. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if os.environ.get("CI"):
        _fail_instead_of_skipping(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    # Files that need the extra "reference" are left out as a whole where it is not installed.
    if os.environ.get("CI") and "not reference" not in collector.config.option.markexpr:
        _fail_instead_of_skipping(report)
    return report


@pytest.fixture(scope="session")
def goldens() -> pathlib.Path:
    """Outputs of other implementations; their README tells which."""
    folder = ROOT / "tests" / "goldens"
    if not folder.is_dir():
        pytest.skip("the folder tests/goldens is missing")
    return folder


@pytest.fixture(scope="session")
def large_goldens() -> pathlib.Path:
    """The goldens that are too large for the repository."""
    folder = os.environ.get("CLIP_JAX_GOLDENS")
    if not folder:
        pytest.skip("set CLIP_JAX_GOLDENS to the folder of the large goldens")
    return pathlib.Path(folder)


@pytest.fixture(scope="session")
def emoji_cache(tmp_path_factory) -> pathlib.Path:
    """A cache folder with the emoji dataset prepared in it, once for all workers of a session."""
    from clip_jax.data.emoji import builder

    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "emoji_cache"
    builder.prepare(cache)  # under a lock of its own
    return cache


class Trainer:
    """Starts ``python -m clip_jax.train`` as users do, in processes of their own."""

    @staticmethod
    def environment(devices=1, **changes) -> dict[str, str]:
        """The environment of a process with a number of CPU devices."""
        flags = f"{FLAGS} --xla_force_host_platform_device_count={devices}"
        return os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags} | changes

    def start(
        self, workdir, *flags, config="configs/tiny.py", devices=1, env=(), prefix=(),
        program=("-m", "clip_jax.train"),
    ):  # fmt: skip
        """A running process, its command after ``prefix``; stdout and stderr come as one text."""
        environment = self.environment(devices, **dict(env))
        return subprocess.Popen(
            [*prefix, sys.executable, *program, f"--config={ROOT / config}",
             f"--workdir={workdir}", *(f"--config.{f}" for f in flags)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, workdir, *flags, timeout=300, **options):
        """Exit code and output of a whole run."""
        process = self.start(workdir, *flags, **options)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            pytest.fail(f"no end after {timeout} s:\n{output[-3000:]}")
        return process.returncode, output

    def start_group(self, workdir, count, *flags, devices=1, **options):
        """``count`` processes of one run, on this machine; ``workdir`` may be one for each."""
        workdirs = workdir if isinstance(workdir, tuple) else (workdir,) * count
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        return [
            self.start(
                workdirs[i], *flags, devices=devices, **options,
                env={"CLIP_JAX_COORDINATOR": f"127.0.0.1:{port}",
                     "CLIP_JAX_PROCESSES": str(count), "CLIP_JAX_PROCESS_ID": str(i)},
            )
            for i in range(count)
        ]  # fmt: skip

    @staticmethod
    def wait_for_step(process, workdir, step, timeout=120):
        """Waits until metrics.jsonl has the record of a step."""
        deadline = time.time() + timeout
        path = pathlib.Path(workdir) / "metrics.jsonl"
        while not (path.is_file() and f'"step": {step},' in path.read_text()):
            if process.poll() is not None or time.time() > deadline:
                process.kill()
                pytest.fail(f"step {step} not reached:\n{process.communicate()[0][-3000:]}")
            time.sleep(0.01)

    @staticmethod
    def kill(process, number=signal.SIGKILL):
        """Sends a signal and returns exit code and output."""
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output


@pytest.fixture(scope="session")
def trainer() -> Trainer:
    """Starts training runs in subprocesses."""
    return Trainer()
