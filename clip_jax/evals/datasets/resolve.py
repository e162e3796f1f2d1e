"""Datasets as the user names them: from the catalog, or by path; opened split by split."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from clip_jax.config import ConfigError
from clip_jax.data.test_sets.registry import open_dataset
from clip_jax.data.test_sets.types import ClassificationDataset, ImageDataset
from clip_jax.evals.datasets import locate, prompts
from clip_jax.evals.datasets.catalog import CATALOG
from clip_jax.evals.datasets.prompts import matching
from clip_jax.evals.types import EvalSettings, NotApplicable

# Kinds of datasets whose title is the name of their folder or file.
_PATHS = {"wds": "folder", "folder": "folder", "csv": "file", "selection": "file"}


class DatasetSplits:
    """The splits of one dataset, opened when needed, with prompts and the settings.

    Attributes:
      name: in the catalog, or "".
      spec: its path as ``open_dataset`` takes it, or "" to be looked for.
      settings: of the evaluation.
      title: its name in the records.
      entry: of the catalog, or None.
      training_images: opens the images that ``settings.overlap_with`` names, once for all datasets
        of a run; raises MissingData or DataError.
    """

    def __init__(
        self,
        name: str,
        spec: str,
        settings: EvalSettings,
        training_images: Callable[[], ImageDataset] | None = None,
    ):
        self.name, self.spec, self.settings = name, spec, settings
        self.training_images = training_images or _training_images(settings)
        kind, _, rest = spec.partition(":")
        path = Path(rest.replace("_{split}", "").replace("{split}", ""))
        title = {"folder": path.name, "file": path.stem}.get(_PATHS.get(kind, ""), rest)
        self.title = name or title or spec
        self.entry = CATALOG.get(name)
        self._opened: dict[str, ImageDataset] = {}

    def open(self, split: str) -> ImageDataset:
        """A split as it is. All splits are of one source: another may number its classes otherwise.

        Raises:
          MissingData, DataError: it is not here, or not in order.
        """
        if split not in self._opened:
            s = self.settings
            if self.name and not self.spec:
                self.spec = locate.locate(self.name, s.root, s.options)
            self._opened[split] = (
                locate.open_at(self.spec, self.name, split, s.options)
                if self.name
                else open_dataset(self.spec, split, s.options)
            )
        return self._opened[split]

    def add(self, split: str, dataset: ImageDataset) -> None:
        """Gives a split that ``open`` is to return."""
        self._opened[split] = dataset

    def clear(self) -> None:
        """Frees what was opened."""
        self._opened.clear()

    def with_prompts(self, test: ClassificationDataset) -> ClassificationDataset:
        """A test set with the prompts that its classifier is made of, labels in their order.

        Raises:
          NotApplicable: there are no class names; or they are not those of the protocol.
        """
        try:
            test = self._with_prompts(test)
        except (ValueError, OSError) as error:
            raise NotApplicable(str(error)) from error
        if not len(test.class_names) and not len(test.descriptions):
            raise NotApplicable(f"{self.title} has no class names: give a file with them")
        return test

    def _with_prompts(self, test: ClassificationDataset) -> ClassificationDataset:
        s, known = self.settings, self.name in prompts.names()
        if known and not s.class_file:
            test = matching.with_prompts(test, self.name, s.protocol, templates=s.templates)
        elif known and not s.template_file:  # the user's names in the protocol's templates
            wanted = prompts.prompts(self.name, s.protocol, templates=s.templates)
            test = dataclasses.replace(test, templates=wanted.templates)
        elif s.templates != "all":
            test = dataclasses.replace(test, templates=prompts.of_any(s.templates), descriptions=())
        if s.class_file or s.template_file:
            names = locate.aliases(self.name) if self.name else (self.title,)
            test = matching.with_files(test, s.class_file, s.template_file, names)
        return test


def _training_images(settings: EvalSettings) -> Callable[[], ImageDataset]:
    options = dataclasses.replace(settings.options, class_names=(), group_keys=())
    return functools.cache(lambda: open_dataset(settings.overlap_with, "train", options))


def resolve(text: str, settings: EvalSettings) -> DatasetSplits:
    """The dataset of one name, as ``runner.run`` takes it; ConfigError if the catalog lacks it."""
    return DatasetSplits(*_named(text), settings)


def resolve_all(data: Sequence[str], settings: EvalSettings) -> list[DatasetSplits]:
    """The datasets of a run, with titles that tell them apart.

    Raises:
      ConfigError: the catalog lacks a dataset, or has one that is given in two places.
    """
    training = _training_images(settings)
    names = dict.fromkeys(map(_named, data))
    datasets = [DatasetSplits(*named, settings, training) for named in names]
    times = collections.Counter(each.title for each in datasets)
    for each in datasets:
        if times[each.title] > 1 and each.name:
            raise ConfigError(
                f"data: {each.name} is named {times[each.title]} times, in different places; "
                "evaluate one of them, or each into a folder of its own"
            )
        if times[each.title] > 1:
            each.title = each.spec
    return datasets


def _named(text: str) -> tuple[str, str]:
    """The name in the catalog and the spec; either may be ""."""
    name, _, spec = text.partition("=") if "=" in text.partition(":")[0] else ("", "", text)
    try:
        if name:
            return locate.find(name), spec
        if ":" in spec or spec == "digits":
            return "", spec
        return locate.find(spec), ""
    except ValueError as error:
        raise ConfigError(f"data: {error}") from None
