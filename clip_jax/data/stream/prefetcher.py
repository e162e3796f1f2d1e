"""Upcoming batches, made ready in a thread."""

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


class Prefetcher(Generic[Made]):
    """Runs ``make(batch)`` for upcoming items in a thread and hands the results out in order.

    Attributes:
      waited: seconds the consumer has spent waiting, in all.
    """

    _END = object()

    def __init__(self, items: Iterator[Item], make: Callable[[Item], Made], depth: int):
        self.waited = 0.0
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(items, make), name="prefetch", daemon=True
        )
        self._thread.start()

    def _run(self, items: Iterator[Item], make: Callable[[Item], Made]) -> None:
        # Grain starts its workers from here, and they inherit what this thread blocks. A terminal
        # sends Ctrl-C, and a scheduler its stop, to them too, but the run needs them until it has
        # taken its last step and saved. Signals to this process go to its main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            for item in items:
                if not self._put(make(item)):
                    return
            self._put(self._END)
        except BaseException as error:  # handed over to the consumer, whatever it is
            self._put(error)
        finally:
            if hasattr(items, "close"):
                items.close()

    def _put(self, item: object) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> "Prefetcher[Made]":
        return self

    def __next__(self) -> Made:
        start = time.perf_counter()
        item = self._queue.get()
        self.waited += time.perf_counter() - start
        if item is self._END:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stops the thread; what it had prepared is dropped."""
        self._closed.set()
        self._thread.join(timeout=60)  # workers finish what they are making
        if self._thread.is_alive():
            logging.warning("the input has not ended after a minute; leaving it behind")
