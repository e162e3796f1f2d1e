"""The paper's evaluations of one model on many data sets: one record each, written as it is made.

A data set that is not here is skipped with the reason and the way to get it; one that is damaged
is reported, and the others go on. What has been measured before, of the same weights and data in
the same way, is read. Runs on every process with the same arguments; the lead writes.
"""

import dataclasses
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from clip_jax.config import ConfigError
from clip_jax.data.errors import DataError
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.registry import open_dataset
from clip_jax.data.test_sets.types import ImageDataset, Options
from clip_jax.evals import records
from clip_jax.evals.datasets import prompts
from clip_jax.evals.datasets.resolve import Opener, openers
from clip_jax.evals.embedder import Embedder
from clip_jax.evals.feature_store import Store
from clip_jax.evals.records import Record
from clip_jax.evals.tasks import overlap_task, registry
from clip_jax.runtime import distributed

PROTOCOLS = ("paper", "clip_benchmark", "datacomp")
# What comes with the project or PyPI.
OFFLINE = (
    "emoji:unseen_vendor", "emoji:held_out", "emoji:held_out_retrieval", "emoji:groups", "digits",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Model:
    """What is evaluated.

    Attributes:
      name: what to call it.
      fingerprint: hex, of weights, preprocessing, tokenizer and computation.
      embedder: its functions, over all devices of ``mesh``.
      tokenize: texts -> int32[n, L].
      preprocess: a picture -> uint8[H, W, 3].
      mesh: of the devices, where probes are fitted too.
    """

    name: str
    fingerprint: str
    embedder: Embedder
    tokenize: Callable[[Sequence[str]], Any]
    preprocess: Preprocess
    mesh: Mesh


@dataclasses.dataclass(frozen=True)
class Settings:
    """How is evaluated.

    Attributes:
      protocol: whose prompts and metrics: "paper", "clip_benchmark" or "datacomp".
      templates: "all" of the protocol's, "subset7", "plain" or "names" (see ``prompts.prompts``).
      class_file, template_file: the user's own, for data sets with as many classes.
      root: the folder with data sets of the catalog; "": TFDS only.
      options: how sets are read.
      shots, seeds: of few-shot probes.
      seed: of whatever is drawn at random.
      overlap_with: spec of ``open_dataset``: training pictures to be looked for in test sets.
      overlap_by: a way of ``suite_overlap.MEASURES``.
      overlap_threshold: from where pictures count as the same; None: the way's own.

    Raises:
      ConfigError: no such protocol or choice of templates, or as ``suite_overlap.check``.
    """

    protocol: str = "paper"
    templates: str = "all"
    class_file: str = ""
    template_file: str = ""
    root: str = "data"
    options: Options = dataclasses.field(default_factory=Options)
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds: int = 3
    seed: int = 0
    overlap_with: str = ""
    overlap_by: str = "embedding"
    overlap_threshold: float | None = None

    def __post_init__(self):
        for name, legal in (("protocol", PROTOCOLS), ("templates", prompts.TEMPLATES)):
            if (given := getattr(self, name)) not in legal:
                raise ConfigError(f"{name}={given!r} is not one of {list(legal)}")
        for name in ("class_file", "template_file"):
            if (file := getattr(self, name)) and not Path(file).is_file():
                raise ConfigError(f"{name}={file!r}: no such file")
        if self.seeds < 1 or not self.shots or min(self.shots) < 1:
            name = "seeds" if self.seeds < 1 else "shots"
            raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        overlap_task.check(self)

    def prompts(self) -> dict[str, str]:
        """What records say of the choice of prompts."""
        return {k: getattr(self, k) for k in ("templates", "class_file", "template_file")}

    @functools.cached_property
    def training(self) -> ImageDataset:
        """The pictures that ``overlap_with`` names, opened once.

        Raises:
          MissingData, DataError: they are not here, or not in order.
        """
        own = dataclasses.replace(self.options, class_names=(), group_keys=())
        return open_dataset(self.overlap_with, "train", own)


def run(
    model: Model,
    data: Sequence[str] = OFFLINE,
    tasks: Sequence[str] = (),
    settings: Settings | None = None,
    *,
    folder: Path | None = None,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Record]:
    """Evaluates a model.

    Args:
      model: see ``Model``.
      data: data sets: names of the catalog, specs of ``open_dataset`` ("wds:PATH",
        "tfds:NAME", "folder:PATH", "csv:PATH", "emoji:held_out", "digits"), or "NAME=SPEC", which
        has the prompts and the metric of NAME.
      tasks: names in ``suite_tasks.TASKS``; () for all that a data set allows.
      settings: see ``Settings``.
      folder: where records are written and found; None: nowhere.
      cache: where features are kept; None: nowhere.
      say: called with a line for every record, and with progress.

    Returns:
      A record for each data set and task, skipped ones included.

    Raises:
      ConfigError: no such task, or no such data set in the catalog.
      DataError: several processes, and they see different data.
    """
    settings = settings or Settings()
    data, tasks = _several(data), tuple(dict.fromkeys(_several(tasks)))
    if not data:
        raise ConfigError(f"data: none are named; without any it would be {','.join(OFFLINE)}")
    for task in tasks:
        if task not in registry.TASKS:
            raise ConfigError(f"tasks: {task!r} is not one of {list(registry.TASKS)}")
    if "overlap" in tasks and not settings.overlap_with:
        raise ConfigError("tasks: 'overlap' needs overlap_with, where the training pictures are")
    wanted = openers(data, settings)
    store = Store(cache, model.fingerprint, say)
    found = []
    with jax.set_mesh(model.mesh):
        for opener in wanted:
            say(f"{opener.title}:")
            found += _data_set(model, opener, tasks, settings, store, folder, say)
            store.forget()
            opener.forget()
    return found


def _several(given: str | Sequence[str]) -> Sequence[str]:
    return (given,) if isinstance(given, str) else given


def _data_set(
    model: Model, opener: Opener, tasks: Sequence[str], settings: Settings, store: Store,
    folder: Path | None, say: Callable[[str], None],
) -> list[Record]:  # fmt: skip
    common = {
        "dataset": opener.title,
        "split": "test",
        "protocol": settings.protocol,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "preprocess": dataclasses.asdict(model.preprocess),
        "seed": settings.seed,
        "settings": settings.prompts(),
    }
    try:
        test, why = opener.open("test"), ""
    except DataError as error:
        test, why = None, str(error)
    _check_same(opener, test.fingerprint if test is not None else "")
    if test is None:
        say(f"  skipped: {why}")
        return [Record(task=t, skipped=why, **common) for t in tasks or ("any",)]
    found = []
    for task in tasks or registry.TASKS:
        kind = registry.TASKS[task]
        if not isinstance(test, kind.takes):
            if tasks:
                say(f"  {task}: not for {type(test).__name__}")
        elif tasks or kind.unasked(test, settings):
            record = Record(task=task, data_fingerprint=test.fingerprint, **common)
            key = _key(task, model, test, opener, settings)
            _check_same(opener, key)
            old = records.read(folder / record.file_name, key) if folder else None
            read = distributed.agree(old is not None)
            if read:
                record = old
            else:
                record = _measured(record, model, store, test, opener, settings)
                if folder and not record.skipped and distributed.is_lead():
                    records.write(folder, record, key)
            say(f"  {_line(record)}{' (read)' if read else ''}")
            found.append(record)
    return found


def _check_same(opener: Opener, fact: str) -> None:
    """Processes that see other data would wait for each other's devices for ever.

    Raises:
      DataError: on all of them.
    """
    if not distributed.same(fact):
        raise DataError(
            f"{opener.title}: the processes do not see the same data; put it where all of them "
            "read it, or copy it to each"
        )


def _measured(
    record: Record, model: Model, store: Store, test: Any, opener: Opener, settings: Settings
) -> Record:
    """The record with its figures, or with the reason why there are none."""
    began = time.perf_counter()
    try:
        task = registry.TASKS[record.task]
        fields = task.run(model, store, test, opener, settings)
    except ValueError as error:  # MissingData, DataError, BadImage, NotApplicable: of the data
        if distributed.is_peer_loss(error):
            raise
        fields = {"skipped": str(error)}
    return dataclasses.replace(record, **fields, seconds=time.perf_counter() - began)


def _key(task: str, model: Model, test: Any, opener: Opener, settings: Settings) -> str:
    """Of what a record is the result: all that decides its numbers."""
    kind = registry.TASKS[task]
    facts = {"name": opener.name, "protocol": settings.protocol, "seed": settings.seed}
    facts |= kind.facts(settings, opener)
    whole = [task, kind.version, model.fingerprint, test.fingerprint, facts]
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


def _line(record: Record) -> str:
    if record.skipped:
        return f"{record.task}: skipped: {record.skipped}"
    low, high = record.intervals.get(record.main_metric, (math.nan, math.nan))
    return (
        f"{record.task}: {record.main_metric} {record.value:.1%} ({low:.1%} to {high:.1%}), "
        f"n {record.n:,}, {record.seconds:.0f} s"
    )
