"""Where a run's time goes: training time across restarts, speed, and goodput."""

import contextlib
import time
from collections.abc import Iterator

# What is not training. "input" is the time spent waiting for batches.
KINDS = ("start", "compile", "input", "evaluation", "checkpoint")


class Clock:
    """Training time across restarts, the speed since the last report, and what else took time.

    Attributes:
      seconds_before: training time of the launches before this one.
    """

    def __init__(self, launched: float | None = None):
        """``launched`` is when the launch began, by ``time.perf_counter()``; by default now."""
        self.seconds_before = 0.0
        self._start = self._launched = time.perf_counter() if launched is None else launched
        self._spent = dict.fromkeys(KINDS, 0.0)
        self._waited_before = 0.0  # for earlier inputs
        self.skip(0, 0.0)

    def begin(self, step: int, seconds_before: float) -> None:
        """Says that what a launch needs is there, and training goes on at a step."""
        self.seconds_before = seconds_before
        self._start = time.perf_counter()
        self._spent["start"] = self._start - self._launched
        self.skip(step, 0.0)

    def seconds(self) -> float:
        """Training time so far, earlier launches included."""
        return self.seconds_before + time.perf_counter() - self._start

    def lap(self, step: int, waited: float) -> tuple[float, float]:
        """Seconds a step since the last mark, and the share spent waiting for data. Sets a mark.

        ``waited`` are the seconds spent waiting for data since the input began, in all.
        """
        seconds = max(time.perf_counter() - self._mark, 1e-9)
        per_step = seconds / max(step - self._step, 1)
        share = (waited - self._waited) / seconds
        self.skip(step, waited)
        return per_step, min(max(share, 0.0), 1.0)

    def skip(self, step: int, waited: float) -> None:
        """Sets a mark: what has passed (an evaluation, say) is left out of the speed, and so are
        the steps done since the last mark.
        """
        self._mark, self._step, self._waited = time.perf_counter(), step, waited
        self._spent["input"] = self._waited_before + waited

    def next_input(self, step: int) -> None:
        """Says that another input begins, which has not been waited for yet. Sets a mark."""
        self._waited_before = self._spent["input"]
        self.skip(step, 0.0)

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """Around what is not training; ``kind`` is one of ``KINDS``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[kind] += time.perf_counter() - start

    def shares(self) -> dict[str, float]:
        """Of this launch's time on this process, "time/KIND", the share of each of ``KINDS``, and
        "goodput", the rest: train steps, and in them the wait for slower processes.
        """
        seconds = max(time.perf_counter() - self._launched, 1e-9)
        shares = {f"time/{kind}": min(spent / seconds, 1) for kind, spent in self._spent.items()}
        return {"goodput": max(0.0, 1 - sum(shares.values())), **shares}
