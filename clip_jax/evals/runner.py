"""Runs tasks on datasets for one model: a record each, written as soon as it is made.

A missing dataset is skipped with the command that gets it, a damaged one is reported, and the
others go on. What has been measured before, of the same weights and data in the same way, is read.
Runs on every process with the same arguments; the lead writes.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from clip_jax.config import ConfigError
from clip_jax.data.errors import DataError
from clip_jax.evals import records
from clip_jax.evals.datasets.resolve import DatasetSplits, resolve_all
from clip_jax.evals.feature_store import Store
from clip_jax.evals.records import Record
from clip_jax.evals.tasks import registry
from clip_jax.evals.tasks.base import Task
from clip_jax.evals.types import EvalModel, EvalSettings
from clip_jax.runtime import distributed
from clip_jax.runtime.digests import json_digest

# What comes with the project or PyPI.
OFFLINE = (
    "emoji:unseen_vendor", "emoji:held_out", "emoji:held_out_retrieval", "emoji:groups", "digits",
)  # fmt: skip


def run(
    model: EvalModel,
    data: Sequence[str] = OFFLINE,
    tasks: Sequence[str] = (),
    settings: EvalSettings | None = None,
    *,
    folder: Path | None = None,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Record]:
    """Evaluates a model.

    Args:
      model: see ``EvalModel``.
      data: datasets: names of the catalog, specs of ``open_dataset`` ("folder:PATH"), or
        "NAME=SPEC", which has the prompts and the metric of NAME.
      tasks: names in ``tasks.registry.TASKS``; () for all that a dataset allows.
      settings: see ``EvalSettings``.
      folder: where records are written and read; None: nowhere.
      cache: the folder of features; None: none are stored.
      say: called with a line for every record, and with progress.

    Returns:
      A record for each dataset and task, skipped ones included.

    Raises:
      ConfigError: no such task, or no such dataset in the catalog.
      DataError: several processes, and they see different data.
    """
    settings = settings or EvalSettings()
    data, tasks = _several(data), tuple(dict.fromkeys(_several(tasks)))
    if not data:
        raise ConfigError(f"data: none are named; without any it would be {','.join(OFFLINE)}")
    for task in tasks:
        if task not in registry.TASKS:
            raise ConfigError(f"tasks: {task!r} is not one of {list(registry.TASKS)}")
        registry.TASKS[task].check_settings(settings)
    resolved = resolve_all(data, settings)
    store = Store(cache, model.fingerprint, say)
    made = []
    with jax.set_mesh(model.mesh):
        for splits in resolved:
            say(f"{splits.title}:")
            made += _dataset(model, splits, tasks, store, folder)
            store.clear()
            splits.clear()
    return made


def _several(given: str | Sequence[str]) -> Sequence[str]:
    return (given,) if isinstance(given, str) else given


def evaluate(
    record: Record, model: EvalModel, task: Task, data: DatasetSplits, store: Store
) -> Record:
    """Runs one task on the test split of a dataset, which is open.

    Returns:
      ``record`` with the result, or with the reason why there is none.
    """
    began = time.perf_counter()
    try:
        result = task.run(model, data.open("test"), data, store)
        fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    except ValueError as error:  # MissingData, DataError, BadImage, NotApplicable: of the data
        if distributed.is_peer_loss(error):
            raise
        fields = {"skipped": str(error)}
    return dataclasses.replace(record, **fields, seconds=time.perf_counter() - began)


def new_record(model: EvalModel, data: DatasetSplits) -> Record:
    """A record with all that is known before a task is run, except the task."""
    settings = data.settings
    return Record(
        task="any",
        dataset=data.title,
        split="test",
        protocol=settings.protocol,
        model=model.name,
        model_fingerprint=model.fingerprint,
        preprocess=dataclasses.asdict(model.preprocess),
        seed=settings.seed,
        settings=settings.prompts(),
    )


def _dataset(
    model: EvalModel,
    data: DatasetSplits,
    tasks: Sequence[str],
    store: Store,
    folder: Path | None,
) -> list[Record]:
    """The records of one dataset: measured, or read from ``folder``."""
    common = new_record(model, data)
    try:
        test, why = data.open("test"), ""
    except DataError as error:
        test, why = None, str(error)
    _check_same(data, test.fingerprint if test is not None else "")
    if test is None:
        store.say(f"  skipped: {why}")
        return [dataclasses.replace(common, task=t, skipped=why) for t in tasks or ("any",)]
    made = []
    for name in tasks or registry.TASKS:
        task = registry.TASKS[name]
        if not isinstance(test, task.dataset_type):
            if tasks:
                store.say(f"  {name}: not for {type(test).__name__}")
        elif tasks or task.default_on(test, data.settings):
            record = dataclasses.replace(common, task=name, data_fingerprint=test.fingerprint)
            key = cache_key(model, task, data)
            _check_same(data, key)
            old = records.read(folder / record.file_name, key) if folder else None
            read = distributed.all_hosts(old is not None)
            record = old if read else evaluate(record, model, task, data, store)
            if folder and not read and not record.skipped and distributed.is_lead():
                records.write(folder, record, key)
            store.say(f"  {_line(record)}{' (read)' if read else ''}")
            made.append(record)
    return made


def _check_same(data: DatasetSplits, value: str) -> None:
    """Raises DataError on all processes if they see different data: they would wait in vain."""
    if not distributed.identical_on_all_hosts(value):
        raise DataError(
            f"{data.title}: the processes do not see the same data; put it where all of them "
            "read it, or copy it to each"
        )


def cache_key(model: EvalModel, task: Task, data: DatasetSplits) -> str:
    """Everything that decides the numbers of a record, as sha256."""
    settings = data.settings
    parts = {"name": data.name, "protocol": settings.protocol, "seed": settings.seed}
    parts |= task.cache_key_parts(data)
    fingerprints = model.fingerprint, data.open("test").fingerprint
    return json_digest([task.name, task.version, *fingerprints, parts])


def _line(record: Record) -> str:
    if record.skipped:
        return f"{record.task}: skipped: {record.skipped}"
    low, high = record.intervals.get(record.main_metric, (math.nan, math.nan))
    return (
        f"{record.task}: {record.main_metric} {record.value:.1%} ({low:.1%} to {high:.1%}), "
        f"n {record.n:,}, {record.seconds:.0f} s"
    )
