"""Image-text retrieval: recall@k in both directions (CLIP paper, Table 13).

Recall@k is what the literature reports: the share of queries with at least one right answer among
the k best, not the share of right answers among them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from clip_jax.evals.metrics.ranking import expected_hit, quantized_unit_rows
from clip_jax.evals.metrics.validation import indices

CLIP_BENCHMARK = {
    "image_to_text_r": "text_retrieval_recall",
    "text_to_image_r": "image_retrieval_recall",
}


def expected_hits(
    image_emb: np.ndarray,
    text_emb: np.ndarray,
    image_of_text: np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
    *,
    chunk: int = 512,
) -> dict[str, np.ndarray]:
    """Returns what each query adds to recall@k: 1, 0, or a share of a tie.

    Ties share the credit (see ``ranking.expected_hit``), so that a model with constant embeddings
    scores what guessing does. At most about ``chunk`` x max(n, m) scores are held at a time: 5,000
    images and 25,000 captions, COCO's, take less than half a GiB.

    Args:
      image_emb, text_emb: float[n, E] and float[m, E], any scale.
      image_of_text: int[m], the image of each caption. Images may have any number of captions; one
        without is no query, but stays among the candidates.
      ks: how many of the best candidates to look at.
      chunk: queries scored at once; the result is the same, bit for bit, for every value.

    Returns:
      ``image_to_text_r@k``: float64 of the images that have captions, in their order;
      ``text_to_image_r@k``: float64[m].

    Raises:
      ValueError: no caption, an embedding that is not finite, or ``image_of_text`` does not fit.
    """
    owner = _checked(image_of_text, len(image_emb), len(text_emb))
    images, texts = (
        quantized_unit_rows(image_emb, "image embeddings"),
        quantized_unit_rows(text_emb, "captions"),
    )
    asking = np.unique(owner)
    directions = {
        "image_to_text": _shares(images[asking], texts, asking, owner, ks, chunk),
        "text_to_image": _shares(texts, images, owner, np.arange(len(images)), ks, chunk),
    }
    return {
        f"{name}_r@{k}": values
        for name, shares in directions.items()
        for k, values in shares.items()
    }


def clip_benchmark_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Renames metrics to CLIP_benchmark's; leaves out all others.

    There "text retrieval" finds texts, so the image asks: ``image_to_text_r@5`` is
    ``text_retrieval_recall@5``, ``text_to_image_r@5`` is ``image_retrieval_recall@5``.
    """
    renamed = {}
    for key, value in metrics.items():
        name, at, k = key.rpartition("@")
        if at and name in CLIP_BENCHMARK:
            renamed[f"{CLIP_BENCHMARK[name]}@{k}"] = value
    return renamed


def _shares(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_ids: np.ndarray,
    candidate_ids: np.ndarray,
    ks: Sequence[int],
    chunk: int,
) -> dict[int, np.ndarray]:
    """Returns every query's hit share at each k; a candidate is right where the ids are equal."""
    shares = {k: np.empty(len(queries)) for k in ks}
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        scores = queries[rows] @ candidates.T
        right = query_ids[rows, None] == candidate_ids
        best = scores.max(axis=1, keepdims=True, where=right, initial=-np.inf)
        better, tied = (scores > best).sum(axis=1), scores == best
        hits, misses = (tied & right).sum(axis=1), (tied & ~right).sum(axis=1)
        for k in ks:
            shares[k][rows] = expected_hit(better, hits, misses, k)
    return shares


def _checked(image_of_text: np.ndarray, n: int, m: int) -> np.ndarray:
    if m == 0 or n == 0:
        raise ValueError(f"retrieval needs images and captions, got {n} and {m}")
    return indices(image_of_text, m, n, "image_of_text", "images")
