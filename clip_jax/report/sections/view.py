"""What the sections of an evaluation's report are made from."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from clip_jax.evals.records import Record
from clip_jax.report.titles import Titles
from clip_jax.report.types import Pairs, Query


class TaskInfo(Protocol):
    """What the report needs to know of a task (see ``evals.tasks.base.Task``)."""

    title: str
    section: str


class Compared(NamedTuple):
    """What models are compared with under natural shift, by names of ``Titles.source``: two or more
    measured models that were trained on ImageNet, for the line (without, the paper's two), and the
    measured model that the others were made from, for relative robustness.
    """

    baselines: Sequence[str] = ()
    reference: str = ""


@dataclasses.dataclass(frozen=True)
class View:
    """Records with their names.

    Attributes:
      tasks: by their names in the records.
      gallery: texts with the images retrieved for them.
      pairs: test images beside the training images that are most like them.
    """

    records: Sequence[Record]
    tasks: Mapping[str, TaskInfo] = dataclasses.field(default_factory=dict)
    gallery: Sequence[Query] = ()
    pairs: Pairs = dataclasses.field(default_factory=dict)
    compared: Compared = dataclasses.field(default_factory=Compared)

    @functools.cached_property
    def titles(self) -> Titles:
        """Names of the records."""
        return Titles(self.records)

    @functools.cached_property
    def measured(self) -> list[Record]:
        """The records that were not skipped."""
        return [r for r in self.records if not r.skipped]

    def section(self, record: Record) -> str:
        """The section that the record's task names; "" for an unknown task."""
        info = self.tasks.get(record.task)
        return info.section if info else ""

    def of(self, section: str) -> list[Record]:
        """The measured records whose tasks name a section."""
        return [r for r in self.measured if self.section(r) == section]

    def task(self, name: str) -> str:
        """A task as a headline."""
        info = self.tasks.get(name)
        return info.title if info else name.replace("_", " ").capitalize()

    def by_task(self, records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
        """(headline, records) of every task that has some, in the order of ``tasks``."""
        names = dict.fromkeys([*self.tasks, *(r.task for r in records)])
        groups = [(self.task(n), [r for r in records if r.task == n]) for n in names]
        return [group for group in groups if group[1]]
