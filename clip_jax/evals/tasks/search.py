"""Examples for reports: predictions, searches, and cosines of a few images and texts.

They are spread evenly over the test set, always the same ones, and ride in ``Result.details``:
images as row numbers, so that the report of a record that was read shows them too. Any task may
have them, under the names "predictions", "similarity", "search" and "image_search".

Arguments: ``images`` float[n, E]; ``weights`` float[K, E], a classifier; ``labels`` int[n];
``texts`` float[m, E], of m captions; ``image_of_text`` int[m].
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from clip_jax.evals.metrics import zero_shot
from clip_jax.evals.metrics.ranking import quantized_unit_rows

TEXTS, IMAGES = 6, 5
PREDICTIONS, GUESSES = 12, 5
SIMILARITY = 10  # pairs in the matrix of cosines
IMAGE_QUERIES = 4
_BLOCK = 4096

Example = dict[str, object]


def of_classes(
    images: np.ndarray,
    weights: np.ndarray,
    labels: np.ndarray,
    prompts: tuple[Sequence[str | Sequence[str]], Sequence[str]],
    per_class: Sequence[Mapping[str, float]],
) -> list[Example]:
    """Classes from best to worst recall, each with the images retrieved for it.

    Args:
      images, weights, labels: see the module.
      prompts: names of the K classes, and the templates that they went into.
      per_class: rows with "index", "n" and "recall".

    Returns:
      {"text", "recall", "found": rows of images, best first, "right": one bool each}, at most
      ``TEXTS``. The text is the class's first name; where there is one template, in it.
    """
    names, templates = prompts
    ranked = sorted((r for r in per_class if r["n"]), key=lambda r: (-r["recall"], r["index"]))
    count = min(len(ranked), TEXTS)
    rows = [ranked[(len(ranked) - 1) * i // max(count - 1, 1)] for i in range(count)]
    chosen = [row["index"] for row in rows]
    template = templates[0] if len(templates) == 1 else "{}"
    first = [names[k] if isinstance(names[k], str) else names[k][0] for k in chosen]
    texts = [template.replace("{}", name) for name in first]
    answers = _search(images, weights[chosen], texts, lambda q, i: labels[i] == chosen[q])
    return [entry | {"recall": row["recall"]} for entry, row in zip(answers, rows, strict=True)]


def of_captions(
    images: np.ndarray, texts: np.ndarray, captions: Sequence[str], image_of_text: np.ndarray
) -> list[Example]:
    """A few captions, each with the images retrieved for it, as ``of_classes`` has them."""
    count = min(len(captions), TEXTS)
    chosen = [(2 * i + 1) * len(captions) // (2 * count) for i in range(count)]
    owners = image_of_text[chosen]
    texts_of = [captions[m] for m in chosen]
    return _search(images, texts[chosen], texts_of, lambda q, i: owners[q] == i)


def predictions(
    images: np.ndarray,
    weights: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    logit_scale: float,
) -> list[Example]:
    """The most probable classes of ``PREDICTIONS`` images, best first.

    Returns:
      {"image": its row, "text": its class, "guesses": [class, probability]}.
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
) -> Example:
    """Cosines between ``SIMILARITY`` captions and their images."""
    rows = _spread(len(captions), SIMILARITY)
    owners = np.asarray(image_of_text)[rows]
    return {
        "images": owners.tolist(),
        "texts": [captions[row] for row in rows],
        "cosines": (texts[rows] @ images[owners].T).tolist(),
    }


def of_images(
    images: np.ndarray, texts: np.ndarray, captions: Sequence[str], image_of_text: np.ndarray
) -> list[Example]:
    """The captions retrieved for a few images, best first."""
    answers = []
    for row in _spread(len(images), IMAGE_QUERIES + 1)[1:]:
        best = np.argsort(-(texts @ images[row]), kind="stable")[:IMAGES]
        captions_of = [[captions[m], bool(image_of_text[m] == row)] for m in best]
        answers.append({"image": row, "answers": captions_of})
    return answers


def _spread(n: int, count: int) -> list[int]:
    """``count`` of ``n`` numbers, spread evenly."""
    return sorted({int(i) for i in np.linspace(0, n - 1, min(count, n)).round()})


def _search(
    images: np.ndarray,
    queries: np.ndarray,
    texts: Sequence[str],
    right: Callable[[int, int], bool],
) -> list[Example]:
    """The images of greatest cosine with each query, of equal ones the first."""
    if not texts:
        return []
    columns = quantized_unit_rows(queries, "texts").T
    parts = range(0, len(images), _BLOCK)
    cosines = np.concatenate(
        [quantized_unit_rows(images[at : at + _BLOCK], "images", at) @ columns for at in parts]
    )
    best = np.argsort(-cosines, axis=0, kind="stable")[:IMAGES].T.tolist()
    return [
        {"text": text, "found": rows, "right": [bool(right(q, i)) for i in rows]}
        for q, (text, rows) in enumerate(zip(texts, best, strict=True))
    ]
