"""Where a device's time goes, by kind of kernel, from a trace of JAX's profiler."""

import collections
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax

# Kind -> what names of kernels (cuBLAS's, cuDNN's, NCCL's) or of HLO operations contain; the first
# that fits counts.
KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("collectives", re.compile(r"nccl|all[-_](reduce|gather|to[-_]all)|reduce[-_]scatter|permute")),
    ("attention", re.compile(r"fmha|flash|attention|sdpa")),
    ("products", re.compile(r"gemm|dot|matmul|cublas|cutlass|nvjet|xmma|conv(?!ert)|ynn")),
    ("copies", re.compile(r"copy|memcpy|memset|transpose|slice|concatenate|bitcast")),
    ("reductions", re.compile(r"reduce")),
)  # fmt: skip
REST = "elementwise and other"


class Span(NamedTuple):
    """An event of one line of a trace.

    Attributes:
      name: of the kernel, and of the HLO operation.
      start, end: in nanoseconds.
    """

    name: str
    start: float
    end: float


def kind_of(name: str) -> str:
    """The kind of a kernel or operation by its name."""
    lower = name.lower()
    return next((kind for kind, pattern in KINDS if pattern.search(lower)), REST)


def time_by_kind(folder: Path) -> dict[str, float]:
    """Seconds of each kind, over all devices and threads, most first.

    An operation that contains others, such as a loop, counts with what is its own.

    Args:
      folder: what ``jax.profiler.trace`` was given; its latest trace is read.

    Raises:
      FileNotFoundError: there is no trace.
    """
    paths = sorted(folder.rglob("*.xplane.pb"), key=lambda p: p.stat().st_mtime)
    if not paths:
        raise FileNotFoundError(f"{folder} has no *.xplane.pb")
    seconds: collections.Counter[str] = collections.Counter()
    with warnings.catch_warnings():
        # One that jaxlib's own types cause; where warnings are errors, it ends the process.
        warnings.simplefilter("ignore", DeprecationWarning)
        for line in _lines(jax.profiler.ProfileData.from_file(str(paths[-1]))):
            for name, own in own_times(line):
                seconds[kind_of(name)] += own / 1e9
    return dict(seconds.most_common())


def _lines(data: jax.profiler.ProfileData) -> Iterator[list[Span]]:
    """The operations of each stream or thread."""
    for plane in data.planes:
        for line in plane.lines:
            if line.name.startswith(("XLA Modules", "Steps", "XLA TraceMe", "Async")):
                continue  # the same time once more
            spans = []
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation is not None:
                    end = event.start_ns + event.duration_ns
                    spans.append(Span(f"{event.name} {operation}", event.start_ns, end))
            if spans:
                yield spans


def own_times(spans: Iterable[Span]) -> Iterator[tuple[str, float]]:
    """The time of each span without that of the spans inside it, in nanoseconds."""
    open_spans: list[tuple[Span, list[float]]] = []  # and the time of what is inside

    def closed(until: float) -> Iterator[tuple[str, float]]:
        while open_spans and open_spans[-1][0].end <= until:
            span, inside = open_spans.pop()
            if open_spans:
                open_spans[-1][1].append(span.end - span.start)
            yield span.name, span.end - span.start - sum(inside)

    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        yield from closed(span.start)
        open_spans.append((span, []))
    yield from closed(float("inf"))
