"""The tasks of the suite by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

from clip_jax.data.test_sets.types import (
    ClassificationDataset,
    CompositionalityDataset,
    RetrievalDataset,
)
from clip_jax.evals.tasks import overlap_task, probe_tasks, zero_shot_task
from clip_jax.evals.tasks.bias_task import bias_record
from clip_jax.evals.tasks.overlap_task import overlap_record
from clip_jax.evals.tasks.probe_tasks import few_shot_record, linear_probe_record
from clip_jax.evals.tasks.retrieval_task import retrieval_record
from clip_jax.evals.tasks.selection_task import caption_selection_record
from clip_jax.evals.tasks.zero_shot_task import zero_shot_record


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      takes: the kind of data set.
      run: (model, store, test set, opener, settings) -> fields of the record.
      version: of its numbers; records of another are made anew.
      unasked: (test set, settings) -> whether to run it where no tasks are named.
      facts: (settings, opener) -> what decides its numbers besides the test set and the settings
        that concern all tasks.
    """

    takes: type
    run: Callable[..., dict[str, Any]]
    version: int = 1
    unasked: Callable[[Any, Any], bool] = lambda test, settings: True
    facts: Callable[[Any, Any], dict[str, Any]] = lambda settings, opener: {}


TASKS: dict[str, Task] = {
    "zero_shot": Task(
        ClassificationDataset, zero_shot_record, version=2, facts=zero_shot_task.facts
    ),
    "retrieval": Task(RetrievalDataset, retrieval_record, version=2),
    "linear_probe": Task(ClassificationDataset, linear_probe_record, facts=probe_tasks.facts),
    "few_shot": Task(
        ClassificationDataset, few_shot_record, version=2, facts=probe_tasks.few_shot_facts
    ),
    "overlap": Task(
        ClassificationDataset,
        overlap_record,
        unasked=lambda test, settings: bool(settings.overlap_with) and not test.multilabel,
        facts=overlap_task.facts,
    ),
    "caption_selection": Task(CompositionalityDataset, caption_selection_record),
    "bias": Task(
        ClassificationDataset,
        bias_record,
        unasked=lambda test, settings: bool(test.groups),
        facts=zero_shot_task.facts,
    ),
}
