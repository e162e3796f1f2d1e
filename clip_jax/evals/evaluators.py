"""The evaluators of a training run: which task is run on which data, and how often."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from clip_jax.config import ConfigError
from clip_jax.data.digests import digest
from clip_jax.data.errors import DataError
from clip_jax.data.image_file import BadImage
from clip_jax.data.pairs import registry as pairs
from clip_jax.data.pairs.base import Source
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.types import ImageDataset, Options, RetrievalDataset
from clip_jax.data.transforms import decode
from clip_jax.evals import runner
from clip_jax.evals.datasets.resolve import DatasetSplits, resolve
from clip_jax.evals.feature_store import PixelCache, Store
from clip_jax.evals.metrics.intervals import wilson_half_width
from clip_jax.evals.records import Record
from clip_jax.evals.tasks.base import Task
from clip_jax.evals.tasks.registry import TASKS
from clip_jax.evals.types import EvalModel, EvalSettings, NotApplicable

KEY = "eval.evaluators"
VALIDATION = "validation"  # the pairs that config.data keeps from training
_FIELDS = ("task", "data", "every_examples")
# Of preprocessed test images in the memory of each host; datasets that do not fit are decoded
# at every evaluation.
PIXEL_CACHE_BYTES = 2**30
# Other names of the short form.
_NAMED = {
    "unseen_vendor": "zero_shot@emoji:unseen_vendor",
    "held_out": "zero_shot@emoji:held_out",
    "held_out_retrieval": "retrieval@emoji:held_out_retrieval",
    "retrieval": f"retrieval@{VALIDATION}",
}
Entry = Mapping[str, str | int]  # the config of one: task, data, every_examples


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """One task on one dataset, for a model that is still learning.

    Attributes:
      name: as in the config.
      task: the task.
      data: the dataset.
      every_examples: the period in training examples; 0: at the end only.
      pixels: its images, as far as they fit in memory.
    """

    name: str
    task: Task
    data: DatasetSplits
    every_examples: int
    pixels: PixelCache

    def run(self, model: EvalModel) -> Record:
        """The record of an evaluation; where the data cannot be read, it says why."""
        record = dataclasses.replace(
            runner.new_record(model, self.data),
            task=self.task.name,
            data_fingerprint=self.data.open("test").fingerprint,
        )
        store = Store(None, "", pixels=self.pixels)
        return runner.evaluate(record, model, self.task, self.data, store)


def scalars(record: Record) -> dict[str, float]:
    """The numbers of a record for metrics.jsonl: the main metric first, with its half interval."""
    if record.skipped:
        return {}
    low, high = record.intervals[record.main_metric]
    half, wilson = (high - low) / 2, wilson_half_width(record.value, record.n)
    if math.isclose(half, wilson):  # without the rounding error of the difference
        half = wilson
    main = {record.main_metric: record.value, f"{record.main_metric}_ci95": half}
    return main | dict(record.metrics) | {"n": record.n}


def from_config(given: Mapping[str, Entry] | str | Sequence[str] | None) -> dict[str, Entry]:
    """Reads ``eval.evaluators``: name -> entry, every_examples 0 where it is not given.

    Args:
      given: the same; or, in short, names of the form TASK@DATA, as a list or with commas between.

    Raises:
      ConfigError: a name or an entry that is not of this form.
    """
    if isinstance(given, Mapping | ConfigDict):
        return {name: _entry(name, entry) for name, entry in given.items()}
    if isinstance(given, str):
        given = [name.strip() for name in given.split(",") if name.strip()]
    entries = {}
    for name in given or ():
        task, _, data = _NAMED.get(name, name).partition("@")
        if not data:
            raise ConfigError(
                f"{KEY} has {name!r}, which is not one of {sorted(_NAMED)}, nor TASK@DATA such as "
                "'zero_shot@ImageNet'"
            )
        entries[name] = {"task": task, "data": data, "every_examples": 0}
    return entries


def _entry(name: str, entry: Entry) -> Entry:
    known = isinstance(entry, Mapping | ConfigDict) and set(entry) <= set(_FIELDS)
    if not known or not {"task", "data"} <= set(entry):
        raise ConfigError(f"{KEY}.{name}={entry!r}: must have task, data and maybe every_examples")
    return {"every_examples": 0} | dict(entry)


def prepare(config: ConfigDict, preprocess: Preprocess, trained_on: str = "") -> list[Evaluator]:
    """Opens the data of every evaluator of a whole config.

    Args:
      config: the config.
      preprocess: image -> the model's input.
      trained_on: fingerprint of the training data, which no evaluator may use.

    Raises:
      ConfigError: unknown task or dataset, or one that does not allow the other.
      DataError: data is missing or unreadable.
    """
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
    pixels = PixelCache(PIXEL_CACHE_BYTES)
    prepared = []
    for name, entry in from_config(config.eval.evaluators).items():
        task = TASKS.get(entry["task"])
        if task is None:
            raise ConfigError(f"{KEY} has {name!r}: {entry['task']!r} is not one of {[*TASKS]}")
        try:
            if entry["data"] == VALIDATION:
                data = DatasetSplits("", VALIDATION, settings)
                data.add("test", _validation(config, preprocess, trained_on))
            else:
                data = resolve(entry["data"], settings)
            _check(task, data, preprocess)
        except (NotApplicable, ConfigError) as error:
            raise ConfigError(f"{KEY} has {name!r}: {error}") from error
        except (DataError, BadImage) as error:
            raise DataError(f"{KEY} has {name!r}: {error}") from error
        period = entry["every_examples"] or config.eval.every_examples
        prepared.append(Evaluator(name, task, data, period, pixels))
    return prepared


def _check(task: Task, data: DatasetSplits, preprocess: Preprocess) -> None:
    """Checks all that the task needs, before the run has cost anything."""
    test = data.open("test")
    if not isinstance(test, task.dataset_type):
        raise ConfigError(
            f"{task.name} takes a {task.dataset_type.__name__}, but {data.title} is a "
            f"{type(test).__name__}"
        )
    try:
        task.prepare(test, data)
    except DataError as error:
        raise ConfigError(str(error)) from error
    test.load(0, preprocess)


class _Decoded(Sequence):
    """Images of training pairs, decoded as in training: 16-bit grey keeps its range."""

    def __init__(self, images: Sequence[bytes | np.ndarray], source: Source):
        self._images, self.describe = images, source.describe

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Image.Image:
        return decode(self._images[index])


def _validation(config: ConfigDict, preprocess: Preprocess, trained_on: str) -> ImageDataset:
    """The validation pairs of ``config.data``, every image of which has been decoded once."""
    source = pairs.build_validation(config.data)
    if source.fingerprint == trained_on:
        raise ConfigError(
            "data.validation_path (tfds: data.validation_split) gives the pairs that are trained "
            "on; give it others"
        )
    count = min(config.eval.limit or len(source), len(source))
    rng = np.random.default_rng(0)
    images, captions = [], []
    for i in range(count):
        try:
            pair = source.read(i, rng)
            preprocess(decode(pair.image))
        except Exception as error:  # whatever the data did
            raise DataError(
                f"validation pair {source.describe(i)}: {error}; repair it or remove it"
            ) from error
        images.append(pair.image)
        captions.append(pair.caption)
    fingerprint = digest(VALIDATION, source.fingerprint, count)
    rows = np.arange(count)
    return RetrievalDataset(
        VALIDATION, "test", _Decoded(images, source), captions, rows, fingerprint
    )
