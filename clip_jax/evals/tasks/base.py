"""What every evaluation task has in common."""

import abc
from typing import ClassVar, Generic, TypeVar

from clip_jax.data.test_sets.types import ImageDataset
from clip_jax.evals.datasets.resolve import DatasetSplits
from clip_jax.evals.feature_store import Store
from clip_jax.evals.types import EvalModel, EvalSettings, Result

D = TypeVar("D", bound=ImageDataset)


class Task(abc.ABC, Generic[D]):
    """A measurement of a model on one dataset; ``D`` is the type of the dataset.

    Its examples for reports, if any, are in the details of its results: see ``tasks.search``.

    Attributes:
      name: its name on the command line, in configs and in records.
      title: its name as a headline.
      section: of an evaluation's report, for the details of its results: a name in
        ``report.sections.registry.SECTIONS``; by default a table of all metrics.
      dataset_type: ``D``.
      version: of its numbers; records of another version are measured again.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    section: ClassVar[str] = "metrics"
    dataset_type: ClassVar[type[ImageDataset]]
    version: ClassVar[int] = 1

    def check_settings(self, settings: EvalSettings) -> None:
        """Raises ConfigError if the settings lack something that the task, when named, needs."""

    def default_on(self, test: D, settings: EvalSettings) -> bool:
        """Whether to run the task where no tasks are named."""
        return True

    def prepare(self, test: D, data: DatasetSplits) -> None:
        """Checks all that ``run`` needs before anything is computed.

        Raises:
          NotApplicable, DataError: the dataset does not allow the task.
        """

    def cache_key_parts(self, data: DatasetSplits) -> dict[str, object]:
        """What decides the numbers besides the test set and the settings that concern all tasks."""
        return {}

    @abc.abstractmethod
    def run(self, model: EvalModel, test: D, data: DatasetSplits, store: Store) -> Result:
        """Measures the model. All processes must call it with the same arguments.

        Args:
          model: the model.
          test: the images to be scored.
          data: the other splits of the dataset, its prompts and the settings.
          store: where image embeddings are computed and cached.

        Raises:
          NotApplicable, DataError, BadImage: the dataset does not allow the task.
        """
