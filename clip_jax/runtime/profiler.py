"""A trace of some steps, for TensorBoard or Perfetto."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax


class Profiler:
    """Traces the steps from ``steps[0]`` to ``steps[1]``, inclusive; none where it is empty.

    Attributes:
      folder: where the traces go, each process's into files of its own.
    """

    def __init__(self, steps: Sequence[int], folder: Path):
        self.folder = folder
        self._first, self._last = steps or (0, 0)
        self._tracing = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the dispatch of a step."""
        if number == self._first:
            jax.profiler.start_trace(str(self.folder))
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def after(self, number: int, outputs: object) -> bool:
        """Ends the trace when ``outputs`` of its last step are there; True if it did."""
        if not self._tracing or number < self._last:
            return False
        jax.block_until_ready(outputs)
        self.close()
        return True

    def close(self) -> None:
        """Ends a trace that is still under way."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
