"""How much of a score is memory: evaluation images that are in the training data.

The analysis of the CLIP paper's section 5 and appendix C: search for every evaluation image the
most similar training image (``nearest`` on the embeddings of any image tower, or ``nearest_hash``
without a model); look at the pairs and set a threshold for each dataset; then compare the
accuracies on Overlap (above it), Clean (the rest) and All. The paper's own detector is a ResNet-50
trained for the purpose; a CLIP tower also calls images similar that only mean the same.

The paper's caveats hold here too. Recall of the detector is unknown, and Overlap may differ from
Clean in other ways: in Kinetics-700 it is often black frames, hard even for those who saw them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from clip_jax.data.preprocess import ImageInput, Preprocess
from clip_jax.evals.metrics.intervals import bonferroni, clopper_pearson
from clip_jax.evals.metrics.ranking import quantized_unit_rows

_BLOCK = 4096
CONFIDENCE = 0.995  # of the interval on Overlap, as in the paper
# The whole image, so that other cropping does not hide it; grey levels are enough.
HASH_INPUT = Preprocess(32, resize="squash", interpolation="bilinear", transparency="white")


class OverlapRow(NamedTuple):
    """A dataset in the table of overlaps. What has no images to be computed from is NaN.

    Attributes:
      name: the dataset.
      n: its images, All.
      n_overlap: those in the training data, Overlap.
      contamination: their share.
      all, clean, overlap: accuracies on All, Clean (the images not in it) and Overlap.
      difference: All less Clean: what contamination adds to the reported accuracy.
      p_value: how probable Overlap's hits or more are at Clean's accuracy (one-sided binomial).
      low, high: 99.5% Clopper-Pearson interval of the accuracy on Overlap.
      p_corrected: p_value after Bonferroni's correction over the datasets of the table.
    """

    name: str
    n: int
    n_overlap: int
    contamination: float
    all: float
    clean: float
    overlap: float
    difference: float
    p_value: float
    low: float
    high: float
    p_corrected: float = float("nan")


def nearest(
    evaluation_emb: np.ndarray,
    training_emb: np.ndarray | Iterable[np.ndarray],
    *,
    block: int = _BLOCK,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns for every evaluation image the first training image of greatest cosine.

    At most ``block`` x ``block`` cosines are held at a time. They are exact (see
    ``ranking.quantized_unit_rows``): the result is the same, bit for bit, however the training
    images are cut up.

    Args:
      evaluation_emb: float[n, E], any scale.
      training_emb: float[m, E], any scale, such as a memory map; or parts of it.
      block: rows compared at once.

    Returns:
      Index of the training image int64[n], counted over all parts, and cosine float64[n].

    Raises:
      ValueError: no training image, an embedding that is not finite, or widths that differ.
    """
    rows = quantized_unit_rows(evaluation_emb, "evaluation embeddings")

    def blocks() -> Iterator[np.ndarray]:
        seen = 0
        for part in [training_emb] if hasattr(training_emb, "shape") else training_emb:
            for start in range(0, len(part), block):
                training = part[start : start + block]
                training = quantized_unit_rows(training, "training embeddings", seen)
                if training.shape[1] != rows.shape[1]:
                    raise ValueError(
                        f"training embeddings are {training.shape[1]} wide, evaluation embeddings "
                        f"{rows.shape[1]}: both must come from the same model"
                    )
                seen += len(training)
                yield training

    index, cosines = _most_similar(rows, blocks(), lambda a, b: a @ b.T, block)
    if cosines is None:
        raise ValueError("there is no training embedding to compare with")
    return index, cosines


def _most_similar(
    rows: np.ndarray,
    training: Iterable[np.ndarray],
    similarity: Callable[[np.ndarray, np.ndarray], np.ndarray],
    block: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The first most similar training row of every row, and its similarity; None without any."""
    index, best, seen = np.full(len(rows), -1), np.full(len(rows), -np.inf), 0
    for part in training:
        for start in range(0, len(rows), block):
            here = slice(start, start + block)
            values = similarity(rows[here], part)
            candidates = values.argmax(axis=1)
            value = np.take_along_axis(values, candidates[:, None], axis=1)[:, 0]
            better = value > best[here]
            index[here] = np.where(better, seen + candidates, index[here])
            best[here] = np.where(better, value, best[here])
        seen += len(part)
    return index, best if seen else None


def image_hash(image: ImageInput) -> int:
    """Returns 64 bits that stay nearly the same under scaling, recompression and small changes.

    The signs of the 8 x 8 lowest frequencies (discrete cosine transform, the constant ones left
    out) of the image in 32 x 32 grey levels, against their median. Near-duplicates differ in few
    bits, unrelated images in about half. Images of one colour all have the hash 0.
    """
    grey = HASH_INPUT(image) @ np.array([299, 587, 114])  # whole numbers: ITU-R BT.601
    # Rounded, so that rounding errors of an image without contrast do not become bits.
    coefficients = np.round(scipy.fft.dctn(grey)[1:9, 1:9] / 4).ravel()
    bits = coefficients > np.median(coefficients)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def nearest_hash(
    evaluation: Sequence[int], training: Sequence[int], *, block: int = _BLOCK
) -> tuple[np.ndarray, np.ndarray]:
    """Returns for every hash the first training hash that differs in fewest bits.

    Args:
      evaluation: n hashes, of ``image_hash``.
      training: m hashes.
      block: rows compared at once; ``block`` x ``block`` distances are held at a time.

    Returns:
      Index int64[n], and the bits that differ int64[n], from 0 to 64. A threshold of 6 or so finds
      copies; look at the pairs.

    Raises:
      ValueError: no training hash.
    """
    rows, training = np.asarray(evaluation, np.uint64), np.asarray(training, np.uint64)
    parts = (training[at : at + block] for at in range(0, len(training), block))
    index, equal_bits = _most_similar(
        rows, parts, lambda a, b: 64 - np.bitwise_count(a[:, None] ^ b), block
    )
    if equal_bits is None:
        raise ValueError("there is no training hash to compare with")
    return index, (64 - equal_bits).astype(np.int64)


def compare(name: str, correct: np.ndarray, overlap: np.ndarray) -> OverlapRow:
    """Compares the accuracy on images of the training data with that on the others.

    Args:
      name: of the dataset.
      correct: bool[n], whether each image was classified rightly.
      overlap: bool[n], whether it is in the training data, such as ``similarity > threshold``.

    Returns:
      A row, not yet corrected for other rows.

    Raises:
      ValueError: arrays that are empty or not bool[n].
    """
    correct, overlap = np.asarray(correct), np.asarray(overlap)
    for what, values in (("correct", correct), ("overlap", overlap)):
        if values.dtype != bool or values.shape != (correct.size,) or not values.size:
            raise ValueError(
                f"{name}: {what} must be bool[n], one an image, got "
                f"{values.dtype}{list(values.shape)}"
            )
    n, n_overlap = len(correct), int(overlap.sum())
    hits, clean_hits = int(correct[overlap].sum()), int(correct[~overlap].sum())
    whole = (hits + clean_hits) / n
    clean = clean_hits / (n - n_overlap) if n_overlap < n else np.nan
    p_value, low, high = np.nan, np.nan, np.nan
    if n_overlap:
        low, high = clopper_pearson(hits, n_overlap, CONFIDENCE)
        if n_overlap < n:
            p_value = float(scipy.stats.binomtest(hits, n_overlap, clean, "greater").pvalue)
    return OverlapRow(
        name, n, n_overlap, n_overlap / n, whole, clean, hits / n_overlap if n_overlap else np.nan,
        whole - clean, p_value, low, high,
    )  # fmt: skip


def table(rows: Iterable[OverlapRow]) -> list[OverlapRow]:
    """Corrects the p-values for the number of datasets tested, most overlap first.

    Datasets without a test, as there is no overlap or nothing else, are not counted.
    """
    rows = list(rows)
    corrected = bonferroni([row.p_value for row in rows])
    done = [row._replace(p_corrected=float(p)) for row, p in zip(rows, corrected, strict=True)]
    return sorted(done, key=lambda row: -row.contamination)
