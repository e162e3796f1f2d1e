"""Tasks of the suite that a training config names: "zero_shot@ImageNet", "retrieval@csv:PATH"."""

import dataclasses
from typing import Any

from jax.sharding import Mesh

from clip_jax.config import ConfigError
from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.image_file import BadImage
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.types import Options
from clip_jax.evals.datasets import resolve
from clip_jax.evals.embedder import Embedder
from clip_jax.evals.feature_store import Store
from clip_jax.evals.tasks import registry
from clip_jax.evals.tasks.base import Task
from clip_jax.evals.types import EvalModel, EvalSettings, NotApplicable
from clip_jax.runtime import distributed


@dataclasses.dataclass(frozen=True)
class SuiteTask:
    """One task of the suite on one data set, for the model as it is at the moment.

    Attributes:
      name: as in the config.
      kind: the task.
      test: the data set; its pictures are read whenever they are asked for.
      opener: of the data set's other splits.
      settings, preprocess, mesh: as of ``suite.Model`` and ``suite.run``.
      baselines: none are known.
    """

    name: str
    kind: Task
    test: Any
    opener: resolve.DatasetSplits
    settings: EvalSettings
    preprocess: Preprocess
    mesh: Mesh
    baselines: dict[str, float] = dataclasses.field(default_factory=dict)

    def run(self, embedder: Embedder, tokenize: Any) -> dict[str, float]:
        """Metric name -> value, as ``tasks.Task`` has it, the main metric first.

        A picture that cannot be read, and whatever else is wrong with the data, is said, and the
        task has no values this time: a run of weeks must not end of it.
        """
        model = EvalModel("", "", embedder, tokenize, self.preprocess, self.mesh)
        try:
            found = self.kind.run(model, self.test, self.opener, Store(None, ""))
        except ValueError as error:
            if distributed.is_peer_loss(error):
                raise
            if distributed.is_lead():
                print(f"eval.tasks, {self.name}: left out this time: {error}", flush=True)
            return {}
        main, metrics = found.main_metric, found.metrics
        low, high = found.intervals[main]
        first = {main: metrics[main], f"{main}_ci95": (high - low) / 2}
        return first | metrics | {"n": found.n}


def prepare(name: str, config: Any, preprocess: Preprocess, mesh: Mesh) -> SuiteTask:
    """Opens the data of a task.

    Args:
      name: TASK@DATA: a name in ``suite_tasks.TASKS``, and a data set as ``suite.run`` has it.
      config: the whole config.
      preprocess: the way from a picture to the model's input.
      mesh: of the devices.

    Raises:
      ConfigError: there is no such task or data set, or the one is not for the other.
      DataError: the data is missing or not in order.
    """
    task, _, data = name.partition("@")
    kind = registry.TASKS.get(task)
    if kind is None:
        raise ConfigError(f"eval.tasks has {name!r}: {task!r} is not one of {[*registry.TASKS]}")
    settings = EvalSettings(
        protocol=config.eval.protocol,
        root=config.eval.data_root,
        options=Options(
            data_dir=config.data.tfds_data_dir,
            cache_dir=config.data.cache_dir,
            emoji_preset=config.data.emoji.preset,
        ),
        seed=config.seed,
    )
    try:
        opener = resolve.resolve(data, settings)
        test = opener.open("test")
    except ConfigError as error:
        raise ConfigError(f"eval.tasks has {name!r}: {error}") from None
    except DataError as error:
        raise DataError(f"eval.tasks has {name!r}: {error}") from error
    if not isinstance(test, kind.dataset_type):
        raise ConfigError(
            f"eval.tasks has {name!r}: {task} takes a {kind.dataset_type.__name__}, but "
            f"{data} is a {type(test).__name__}"
        )
    try:
        kind.prepare(test, opener)
        test.load(0, preprocess)
    except (NotApplicable, MissingData) as error:
        raise ConfigError(f"eval.tasks has {name!r}: {error}") from error
    except BadImage as error:
        raise DataError(f"eval.tasks has {name!r}: {error}") from error
    return SuiteTask(name, kind, test, opener, settings, preprocess, mesh)
