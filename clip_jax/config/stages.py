"""The stages of a run: which config each of its steps is trained with, and what it has seen.

A run without ``train.stages`` has one stage, its whole config.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict

from clip_jax.config.checks import nearest
from clip_jax.config.keys import KEYS
from clip_jax.runtime.errors import ConfigError

# Key of a stage -> the config key that it stands for.
STAGE_KEYS: dict[str, str] = {
    "examples": "train.examples",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "num_microbatches": "train.num_microbatches",
    "image_size": "model.vision.image_size",
    "context_length": "train.context_length",
    "patch_dropout": "model.patch_dropout",
    "learning_rate": "optim.learning_rate",
    "warmup_examples": "optim.warmup_examples",
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
      number: counted from 0.
      config: the whole config, with what the stage sets, and without stages.
      first_step, last_step: steps done before it, and after it.
      first_example: examples seen before it: its first position in the stream of the data.
      new_schedule: whether the learning rate begins a schedule of its own.
    """

    number: int
    config: ConfigDict
    first_step: int
    last_step: int
    first_example: int
    new_schedule: bool

    @property
    def batch_size(self) -> int:
        """Examples of a step."""
        return self.config.train.batch_size


def stage_config(config: ConfigDict, number: int) -> ConfigDict:
    """The config of one stage: what it does not set is as in the whole config.

    Args:
      number: counted from 0; a config without stages has stage 0.

    Raises:
      ConfigError: there is no such stage.
    """
    count = len(config.train.stages) or 1
    if not 0 <= number < count:
        raise ConfigError(f"there is no stage {number + 1}: the config has {count}")
    if not config.train.stages:
        return config
    changed = copy.deepcopy(config)
    with changed.unlocked():
        for key, value in config.train.stages[number].items():
            *groups, last = STAGE_KEYS[key].split(".")
            group = changed
            for name in groups:
                group = group[name]
            group[last] = float(value) if isinstance(group[last], float) else value
        changed.train.stages = ()
    return changed


def check(config: ConfigDict) -> None:
    """Whether the lengths of a run and of its stages, and what stages set, are legal.

    Raises:
      ConfigError: names the stage, its key and what is allowed.
    """
    stages = config.train.stages
    if not stages:
        _check_length(config.train, "train.")
        return
    if config.train.epochs or config.train.examples:
        raise ConfigError(
            f"train.epochs={config.train.epochs} and train.examples={config.train.examples}: with "
            "train.stages both must be 0; each stage has its own"
        )
    for number, stage in enumerate(stages):
        where = f"train.stages[{number}]"
        for key, value in stage.items():
            if key not in STAGE_KEYS:
                raise ConfigError(
                    f"{where} has {key!r}, which is not one of {[*STAGE_KEYS]}"
                    f"{nearest(key, STAGE_KEYS)}"
                )
            required = KEYS[STAGE_KEYS[key]].problem(value)
            if required or value is None:
                required = required or "set, or left out"
                raise ConfigError(f"{where}: {key}={value!r} must be {required}")
        _check_length(stage, f"{where}: ")
        if "warmup_examples" in stage and "learning_rate" not in stage:
            raise ConfigError(
                f"{where}: warmup_examples belongs to a learning_rate of the stage's own; without "
                "one, the schedule of the stage before it goes on"
            )


def _check_length(given: Mapping[str, object] | ConfigDict, where: str) -> None:
    epochs, examples = given.get("epochs", 0), given.get("examples", 0)
    if (epochs > 0) == (examples > 0):
        raise ConfigError(
            f"{where}epochs={epochs} and {where}examples={examples}: set exactly one of them "
            "above 0"
        )


class Stages:
    """All stages of a run, in order.

    Attributes:
      total_steps: length of the run.
    """

    def __init__(self, config: ConfigDict, dataset_size: int):
        self._stages: list[Stage] = []
        step = example = 0
        for number, given in enumerate(config.train.stages or ({},)):
            own = stage_config(config, number)
            batch = own.train.batch_size
            examples = own.train.examples or round(own.train.epochs * dataset_size)
            steps = max(1, math.ceil(examples / batch))
            fresh = number == 0 or "learning_rate" in given
            self._stages.append(Stage(number, own, step, step + steps, example, fresh))
            step, example = step + steps, example + steps * batch
        self.total_steps = step

    def __len__(self) -> int:
        return len(self._stages)

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._stages)

    def __getitem__(self, number: int) -> Stage:
        return self._stages[number]

    def at(self, step: int) -> Stage:
        """The stage that the state of a step belongs to: at a border, the one that ends there."""
        return next((s for s in self._stages if step <= s.last_step), self._stages[-1])

    def examples(self, step: int) -> int:
        """Examples seen after so many steps."""
        stage = self.at(step)
        return stage.first_example + (step - stage.first_step) * stage.batch_size

    def steps(self, examples: int) -> int:
        """The least number of steps that have seen so many examples; may be beyond the end."""
        for stage in self._stages:
            done = stage.first_step + math.ceil((examples - stage.first_example) / stage.batch_size)
            if done <= stage.last_step:
                break
        return done

    def due(self, step: int, every_examples: int) -> bool:
        """Whether a step is the one after which something is due; never where the period is 0.

        With one stage the period is rounded up to whole steps. Of several, whose steps differ, it
        is the step by which another ``every_examples`` have been seen.
        """
        if every_examples <= 0:
            return False
        if len(self) == 1:
            return step % math.ceil(every_examples / self._stages[0].batch_size) == 0
        return self.examples(step) // every_examples > self.examples(step - 1) // every_examples
