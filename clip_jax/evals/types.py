"""What evaluations are given and what they return: the types that all tasks share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from clip_jax.config import ConfigError
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.registry import READERS
from clip_jax.data.test_sets.types import Options
from clip_jax.evals.datasets import prompts
from clip_jax.evals.embedder import Embedder

# texts -> int32[n, L]
Tokenize = Callable[[Sequence[str]], np.ndarray]


class NotApplicable(ValueError):
    """A task that a dataset does not allow; the message says why."""


class OverlapMeasure(NamedTuple):
    """A way to compare images, its default threshold and its range.

    Images are similar from the threshold up (unit "cosine") or down ("bits", of a hash).
    """

    unit: str
    threshold: float
    least: float
    most: float


OVERLAP_MEASURES = {
    "embedding": OverlapMeasure("cosine", 0.95, -1.0, 1.0),
    "hash": OverlapMeasure("bits", 6, 0, 64),
}


@dataclasses.dataclass(frozen=True)
class EvalModel:
    """A model to be evaluated.

    Attributes:
      name: its name in the records.
      fingerprint: hex, of weights, preprocessing, tokenizer and computation.
      embedder: its functions, over all devices of ``mesh``.
      tokenize: texts -> int32[n, L].
      preprocess: image -> uint8[S, S, 3].
      mesh: of the devices, where probes are fitted too.
      logit_scale: factor on cosines before the softmax, for the probabilities of examples.
    """

    name: str
    fingerprint: str
    embedder: Embedder
    tokenize: Tokenize
    preprocess: Preprocess
    mesh: Mesh
    logit_scale: float = 100.0


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """What decides the numbers of an evaluation besides the model and the data.

    Attributes:
      protocol: whose prompts and metrics: "paper", "clip_benchmark" or "datacomp".
      templates: "all" of the protocol's, "subset7" (of ImageNet's), "plain" or "names".
      class_file: a file with the names of the classes, for datasets with as many.
      template_file: a file with templates.
      root: the folder with datasets of the catalog; "": TFDS only.
      options: how datasets are read.
      shots: numbers of examples a class for few-shot probes.
      seeds: how often they are drawn for each number of shots.
      seed: of every random draw.
      overlap_with: training images to be looked for among the test images, such as folder:PATH.
      overlap_by: how images are compared, a name in ``OVERLAP_MEASURES``.
      overlap_threshold: images count as the same from this cosine up (default 0.95), or up to this
        number of differing bits of the hash (default 6).

    Raises:
      ConfigError: a value that is not legal.
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
        for name, legal in (("protocol", prompts.PROTOCOLS), ("templates", prompts.TEMPLATES)):
            if (given := getattr(self, name)) not in legal:
                raise ConfigError(f"{name}={given!r} is not one of {list(legal)}")
        for name in ("class_file", "template_file"):
            if (file := getattr(self, name)) and not Path(file).is_file():
                raise ConfigError(f"{name}={file!r}: no such file")
        for name, least in (("seeds", self.seeds), ("shots", min(self.shots, default=0))):
            if least < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        self._check_overlap()

    def _check_overlap(self) -> None:
        kind = self.overlap_with.partition(":")[0]
        if self.overlap_with and kind not in READERS:
            raise ConfigError(
                f"overlap_with={self.overlap_with!r}: {kind!r} is not one of {sorted(READERS)}; "
                "write what the training images are in front of their path, such as folder:PATH"
            )
        if self.overlap_by not in OVERLAP_MEASURES:
            raise ConfigError(
                f"overlap_by={self.overlap_by!r} is not one of {list(OVERLAP_MEASURES)}"
            )
        unit, _, least, most = OVERLAP_MEASURES[self.overlap_by]
        given = self.overlap_threshold
        whole = unit != "bits" or given is None or float(given).is_integer()
        if given is not None and not (least <= given <= most and whole):
            of = "a whole number of bits" if unit == "bits" else "a cosine"
            raise ConfigError(f"overlap_threshold={given} is not {of} from {least:g} to {most:g}")

    def prompts(self) -> dict[str, str]:
        """The choice of prompts, as records have it."""
        return {k: getattr(self, k) for k in ("templates", "class_file", "template_file")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a task measured on a dataset.

    Attributes:
      n: images scored (retrieval: captions; caption selection: instances).
      main_metric: key of the metric that stands for all.
      metrics: name -> value, shares from 0 to 1.
      intervals: name -> 95% interval, for every share of ``metrics``.
      class_names, templates: of a zero-shot classifier, as used; a class may have several names.
      details: more that a report shows, of JSON's types. Examples are among them: ``tasks.search``
        makes them of row numbers, so that a record that is read again has its images too.
    """

    n: int
    main_metric: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    class_names: Sequence[str | Sequence[str]] = ()
    templates: Sequence[str] = ()
    details: Mapping[str, object] = dataclasses.field(default_factory=dict)
