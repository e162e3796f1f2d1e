"""Tasks of the suite that a training config names: "zero_shot@ImageNet", "retrieval@csv:PATH"."""

import dataclasses
from typing import Any

from jax.sharding import Mesh

from clip_jax.config import ConfigError
from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.image_file import BadImage
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.types import ClassificationDataset, Options
from clip_jax.evals import runner
from clip_jax.evals.datasets import resolve
from clip_jax.evals.embedder import Embedder
from clip_jax.evals.feature_store import Store
from clip_jax.evals.records import NotApplicable
from clip_jax.evals.tasks import probe_tasks, registry
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
    kind: registry.Task
    test: Any
    opener: resolve.Opener
    settings: runner.Settings
    preprocess: Preprocess
    mesh: Mesh
    baselines: dict[str, float] = dataclasses.field(default_factory=dict)

    def run(self, embedder: Embedder, tokenize: Any) -> dict[str, float]:
        """Metric name -> value, as ``tasks.Task`` has it, the main metric first.

        A picture that cannot be read, and whatever else is wrong with the data, is said, and the
        task has no values this time: a run of weeks must not end of it.
        """
        model = runner.Model("", "", embedder, tokenize, self.preprocess, self.mesh)
        try:
            found = self.kind.run(model, Store(None, ""), self.test, self.opener, self.settings)
        except ValueError as error:
            if distributed.is_peer_loss(error):
                raise
            if distributed.is_lead():
                print(f"eval.tasks, {self.name}: left out this time: {error}", flush=True)
            return {}
        main, metrics = found["main_metric"], found["metrics"]
        low, high = found["intervals"][main]
        first = {main: metrics[main], f"{main}_ci95": (high - low) / 2}
        return first | metrics | {"n": found["n"]}


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
    settings = runner.Settings(
        protocol=config.eval.protocol,
        root=config.eval.data_root,
        options=Options(
            data_dir=config.eval.data_dir,
            cache_dir=config.data.cache_dir,
            emoji_preset=config.data.emoji_preset,
        ),
        seed=config.seed,
    )
    try:
        opener = resolve.opener(data, settings)
        test = opener.open("test")
    except ConfigError as error:
        raise ConfigError(f"eval.tasks has {name!r}: {error}") from None
    except DataError as error:
        raise DataError(f"eval.tasks has {name!r}: {error}") from error
    if not isinstance(test, kind.takes):
        raise ConfigError(
            f"eval.tasks has {name!r}: {task} takes a {kind.takes.__name__}, but {data} is a "
            f"{type(test).__name__}"
        )
    try:
        _check(task, test, opener, settings)
        test.load(0, preprocess)
    except (NotApplicable, MissingData) as error:
        raise ConfigError(f"eval.tasks has {name!r}: {error}") from error
    except BadImage as error:
        raise DataError(f"eval.tasks has {name!r}: {error}") from error
    return SuiteTask(name, kind, test, opener, settings, preprocess, mesh)


def _check(task: str, test: Any, opener: resolve.Opener, settings: runner.Settings) -> None:
    """Asks for what the task will need, before a run has cost anything.

    Raises:
      NotApplicable, MissingData: it is not there.
    """
    if not registry.TASKS[task].unasked(test, settings):
        raise NotApplicable(f"{task} needs what a training run does not know")
    if task == "linear_probe":
        probe_tasks.splits(test, opener)
    elif task == "few_shot":
        probe_tasks.shots(probe_tasks.splits(test, opener)["train"], test, settings)
    elif isinstance(test, ClassificationDataset):
        opener.prompted(test)
