"""Zero-shot classification: images against sentences (CLIP paper, sections 3.1.2 to 3.1.4).

A class is described by prompts only. Its weight is the mean of their unit embeddings, brought
back to unit length; an image's logits are ``logit_scale`` times its cosines with the weights.

Arguments of all functions: ``image_emb`` float[n, E] and ``class_emb`` float[K, E], both of any
scale; ``logits`` float[n, K], of any scale; ``labels`` int[n], from 0 to K - 1; ``ks``, how many of
the best classes to look at; ``chunk``, images scored at once, which changes no bit of a result.
They raise ValueError where there is no image, a number is not finite, or labels do not fit.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from clip_jax.evals.metrics.ranking import expected_hit, quantized_unit_rows
from clip_jax.evals.metrics.validation import indices

_CHUNK = 4096
_PER_CALL = 8192


def classifier(
    embed_texts: Callable[[np.ndarray], np.ndarray],
    tokenize: Callable[[Sequence[str]], np.ndarray],
    class_names: Sequence[str | Sequence[str]],
    templates: Sequence[str],
    *,
    prompts_per_call: int = _PER_CALL,
) -> np.ndarray:
    """Builds one weight vector a class from prompts (prompt ensembling, section 3.1.4).

    Prompts are averaged over templates and, where a class has several, over names.

    Args:
      embed_texts: int32[n, L] -> float32[n, E].
      tokenize: texts -> int32[n, L].
      class_names: K classes, each one name or several.
      templates: prompts in which every ``{}`` stands for the name.
      prompts_per_call: prompts embedded at once; does not change the result.

    Returns:
      float32[K, E], rows of unit length.

    Raises:
      ValueError: there is no class or template, a class has no name, or a template no ``{}``.
    """
    prompts = _prompts(class_names, templates)
    sums = None
    while batch := list(itertools.islice(prompts, prompts_per_call)):
        owners, texts = zip(*batch, strict=True)
        rows = _unit(embed_texts(tokenize(list(texts))))
        if sums is None:
            sums = np.zeros((len(class_names), rows.shape[1]))
        # Adds one prompt after the other, so the sums are the same however prompts are batched.
        np.add.at(sums, np.array(owners), rows)
    return _unit(sums).astype(np.float32)


def scores(image_emb: np.ndarray, class_emb: np.ndarray) -> np.ndarray:
    """Returns the cosines float64[n, K], exactly (see ``ranking.quantized_unit_rows``)."""
    return (
        quantized_unit_rows(image_emb, "image embeddings")
        @ quantized_unit_rows(class_emb, "class weights").T
    )


def accuracy(
    logits: np.ndarray, labels: np.ndarray, ks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Returns the share of images whose class is among the k best, as "top1" for k = 1.

    Tied classes share the credit: an image counts with the chance that a random order of the
    tied ones puts its class among the k best. A model whose logits are all equal scores k / K,
    and the order in which classes are listed never matters. With k >= K the share is 1.
    """
    return {
        f"top{k}": float(shares.mean()) for k, shares in hits_of_scores(logits, labels, ks).items()
    }


def mean_per_class_recall(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean over classes of the top-1 accuracy, as of ``accuracy``.

    Classes without an image are left out, as in scikit-learn's balanced accuracy.
    """
    return mean_over_classes(hits_of_scores(logits, labels, (1,))[1], np.asarray(labels))


def expected_hits(
    image_emb: np.ndarray,
    class_emb: np.ndarray,
    labels: np.ndarray,
    ks: Sequence[int] = (1, 5),
    *,
    chunk: int = _CHUNK,
) -> dict[int, np.ndarray]:
    """Returns what every image adds to ``accuracy``, float64[n] a k: 1, 0, or a share of a tie."""
    labels = _checked(labels, len(image_emb), len(class_emb))
    weights = quantized_unit_rows(class_emb, "class weights").T
    parts = [
        hits_of_scores(_part(image_emb, rows) @ weights, labels[rows], ks)
        for rows in _slices(len(labels), chunk)
    ]
    return {k: np.concatenate([part[k] for part in parts]) for k in ks}


def hits_of_scores(
    logits: np.ndarray, labels: np.ndarray, ks: Sequence[int]
) -> dict[int, np.ndarray]:
    """Returns what ``expected_hits`` does, of logits."""
    logits = np.asarray(logits)
    labels = _checked(labels, *logits.shape)
    if not np.isfinite(logits).all():
        raise ValueError("logits hold NaN or infinity; the model has diverged")
    own = logits[np.arange(len(labels)), labels][:, None]
    better, tied = (logits > own).sum(axis=1), (logits == own).sum(axis=1) - 1
    return {k: expected_hit(better, 1, tied, k) for k in ks}


def predict(
    image_emb: np.ndarray,
    class_emb: np.ndarray,
    *,
    k: int = 5,
    logit_scale: float = 100.0,
    chunk: int = _CHUNK,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k most probable classes of every image, best first, tied ones in index order.

    Args:
      image_emb, class_emb, chunk: see the module.
      k: classes to return, at most K.
      logit_scale: factor on the cosines before the softmax over all K classes.

    Returns:
      Class indices int32[n, min(k, K)] and their probabilities float32[n, min(k, K)].
    """
    weights = quantized_unit_rows(class_emb, "class weights").T
    k = min(k, weights.shape[1])
    best, probs = np.empty((len(image_emb), k), np.int32), np.empty((len(image_emb), k), np.float32)
    for rows in _slices(len(image_emb), chunk):
        logits = logit_scale * (_part(image_emb, rows) @ weights)
        exps = np.exp(logits - logits.max(axis=1, keepdims=True))
        best[rows] = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        top = np.take_along_axis(exps, best[rows], axis=1)
        probs[rows] = top / exps.sum(axis=1, keepdims=True)
    return best, probs


def mean_over_classes(shares: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean over classes (int[n]) of the means of the images' shares (float[n])."""
    counts = np.bincount(labels)
    seen = counts > 0
    return float(np.mean(np.bincount(labels, weights=shares)[seen] / counts[seen]))


def _prompts(
    class_names: Sequence[str | Sequence[str]], templates: Sequence[str]
) -> Iterator[tuple[int, str]]:
    if not len(class_names) or not len(templates):
        raise ValueError("zero-shot needs at least one class name and one template")
    for index, template in enumerate(templates):
        if "{}" not in template:
            raise ValueError(f"templates[{index}] = {template!r} has no '{{}}' for the class name")
    names = [[entry] if isinstance(entry, str) else list(entry) for entry in class_names]
    if [] in names:
        index = names.index([])
        raise ValueError(f"class_names[{index}] is empty: give the class at least one name")
    # replace, not format: names and templates may hold braces of their own.
    return (
        (index, template.replace("{}", name))
        for index, entry in enumerate(names)
        for name in entry
        for template in templates
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def _part(image_emb: np.ndarray, rows: slice) -> np.ndarray:
    return quantized_unit_rows(image_emb[rows], "image embeddings", rows.start)


def _slices(n: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n, size))


def _checked(labels: np.ndarray, n: int, classes: int) -> np.ndarray:
    if n == 0:
        raise ValueError("zero-shot needs at least one image, got none")
    return indices(labels, n, classes)
