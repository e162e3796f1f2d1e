"""What the pages of the report are made from: plain tuples that hold images, texts and numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# What a record holds besides its metrics, and a line of ``metrics.jsonl``, as JSON has it.
Details = Mapping[str, Any]


class Result(NamedTuple):
    """One number: value, interval half-width ``ci`` and ``baseline`` are fractions from 0 to 1."""

    task: str
    metric: str
    value: float
    n: int
    ci: float | None = None
    baseline: float | None = None


class Similarity(NamedTuple):
    """Images uint8[k, H, W, 3], their captions, and cosines float[caption, image]."""

    images: Sequence[np.ndarray]
    captions: Sequence[str]
    matrix: np.ndarray


class Prediction(NamedTuple):
    """An image uint8[H, W, 3], its true caption, (caption, probability) guesses, best first."""

    image: np.ndarray
    caption: str
    guesses: Sequence[tuple[str, float]]


class TextQuery(NamedTuple):
    """A text and (image uint8[H, W, 3], is it right) answers, best first."""

    text: str
    answers: Sequence[tuple[np.ndarray, bool]]


class ImageQuery(NamedTuple):
    """An image uint8[H, W, 3] and (caption, is it right) answers, best first."""

    image: np.ndarray
    answers: Sequence[tuple[str, bool]]


@dataclasses.dataclass(frozen=True)
class ReportData:
    """What the report of a run shows. Parts left empty are left out of the page.

    Attributes:
      title: headline of the page.
      config_summary: (name, value) pairs, shown as they print.
      curves: the objects of ``metrics.jsonl``, training and evaluation records mixed.
      results: final numbers; the first four become the tiles at the top.
      similarity, predictions, text_to_image, image_to_text: examples.
    """

    title: str
    config_summary: Sequence[tuple[str, object]] = ()
    curves: Sequence[Details] = ()
    results: Sequence[Result] = ()
    similarity: Similarity | None = None
    predictions: Sequence[Prediction] = ()
    text_to_image: Sequence[TextQuery] = ()
    image_to_text: Sequence[ImageQuery] = ()


# A text and the images uint8[H, W, 3] retrieved for it, best first: each alone, or with whether it
# is right (None: unknown). A third entry says where they are from.
Answers = Sequence[np.ndarray | tuple[np.ndarray, bool | None]]
Query = tuple[str, Answers] | tuple[str, Answers, str]

# Details of a pair and its test and training image, uint8[H, W, 3]; by a record's file name.
Pair = tuple[Details, np.ndarray, np.ndarray]
Pairs = Mapping[str, Sequence[Pair]]
