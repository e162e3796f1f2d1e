"""Examples, kept in records: predictions, searches, and cosines of a few images and texts.

They are spread over the whole test set, always the same ones. Images are indices in the test set.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clip_jax.evals.metrics import zero_shot
from clip_jax.evals.metrics.ranking import quantized_unit_rows

TEXTS, IMAGES = 6, 5
PREDICTIONS, GUESSES = 12, 5
SIMILARITY = 10  # pairs in the matrix of cosines
IMAGE_QUERIES = 4
_BLOCK = 4096


def of_classes(
    images: np.ndarray,
    weights: np.ndarray,
    labels: np.ndarray,
    prompts: tuple[Sequence[Any], Sequence[str]],
    per_class: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Classes from best to worst recall, each with the images retrieved for it.

    Args:
      images: float[n, E].
      weights: float[K, E], the classifier.
      labels: int[n].
      prompts: names of the K classes, and the templates that they went into.
      per_class: rows with "index", "n" and "recall".

    Returns:
      {"text", "recall", "found": indices of images, best first, "right": one bool each}, at most
      ``TEXTS``. The text is the class's first name; where there is one template, in it.
    """
    names, templates = prompts
    ranked = sorted((r for r in per_class if r["n"]), key=lambda r: (-r["recall"], r["index"]))
    count = min(len(ranked), TEXTS)
    rows = [ranked[(len(ranked) - 1) * i // max(count - 1, 1)] for i in range(count)]
    chosen = [row["index"] for row in rows]
    template = templates[0] if len(templates) == 1 else "{}"
    texts = [template.replace("{}", _first(names[k])) for k in chosen]
    found = _found(images, weights[chosen], texts, lambda q, i: labels[i] == chosen[q])
    return [entry | {"recall": row["recall"]} for entry, row in zip(found, rows, strict=True)]


def of_captions(
    images: np.ndarray, texts: np.ndarray, captions: Sequence[str], image_of_text: np.ndarray
) -> list[dict[str, Any]]:
    """Captions evenly spread over all, each with the images retrieved for it: as ``of_classes``.

    Args:
      images: float[n, E].
      texts: float[m, E], of the captions.
      captions: m texts.
      image_of_text: int[m].
    """
    count = min(len(captions), TEXTS)
    chosen = [(2 * i + 1) * len(captions) // (2 * count) for i in range(count)]
    return _found(
        images, texts[chosen], [captions[m] for m in chosen],
        lambda q, i: image_of_text[chosen[q]] == i,
    )  # fmt: skip


def predictions(
    images: np.ndarray,
    weights: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    logit_scale: float,
) -> list[dict[str, Any]]:
    """The most probable classes of ``PREDICTIONS`` images.

    Args:
      images: float[n, E].
      weights: float[K, E], the classifier.
      labels: int[n].
      names: of the K classes.
      logit_scale: factor on cosines before the softmax.

    Returns:
      {"image": index, "text": its class, "guesses": (class, probability), best first}.
    """
    rows = _spread(len(images), PREDICTIONS)
    best, probs = zero_shot.predict(images[rows], weights, k=GUESSES, logit_scale=logit_scale)
    return [
        {
            "image": row,
            "text": names[labels[row]],
            "guesses": [[names[c], float(p)] for c, p in zip(*guesses, strict=True)],
        }
        for row, *guesses in zip(rows, best, probs, strict=True)
    ]


def similarity(
    images: np.ndarray, texts: np.ndarray, captions: Sequence[str], image_of_text: np.ndarray
) -> dict[str, Any]:
    """Cosines between ``SIMILARITY`` captions and their images; arguments as ``of_captions``."""
    rows = _spread(len(captions), SIMILARITY)
    owners = np.asarray(image_of_text)[rows]
    return {
        "images": owners.tolist(),
        "texts": [captions[row] for row in rows],
        "cosines": (texts[rows] @ images[owners].T).tolist(),
    }


def of_images(
    images: np.ndarray, texts: np.ndarray, captions: Sequence[str], image_of_text: np.ndarray
) -> list[dict[str, Any]]:
    """The captions retrieved for a few images, best first; arguments as ``of_captions``."""
    found = []
    for row in _spread(len(images), IMAGE_QUERIES + 1)[1:]:
        best = np.argsort(-(texts @ images[row]), kind="stable")[:IMAGES]
        answers = [[captions[m], bool(image_of_text[m] == row)] for m in best]
        found.append({"image": row, "answers": answers})
    return found


def _spread(n: int, count: int) -> list[int]:
    """``count`` of ``n`` numbers, spread evenly."""
    return sorted({int(i) for i in np.linspace(0, n - 1, min(count, n)).round()})


def _found(
    images: np.ndarray, queries: np.ndarray, texts: Sequence[str],
    right: Callable[[int, int], Any],
) -> list[dict[str, Any]]:  # fmt: skip
    """Of equally similar images the first ones."""
    if not texts:
        return []
    columns = quantized_unit_rows(queries, "texts").T
    parts = range(0, len(images), _BLOCK)
    cosines = np.concatenate(
        [quantized_unit_rows(images[at : at + _BLOCK], "images", at) @ columns for at in parts]
    )
    best = np.argsort(-cosines, axis=0, kind="stable")[:IMAGES].T.tolist()
    return [
        {"text": text, "found": found, "right": [bool(right(q, i)) for i in found]}
        for q, (text, found) in enumerate(zip(texts, best, strict=True))
    ]


def _first(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else names[0]
