"""The kinds of test sets by name. A new one is a function and a line here, or a line elsewhere:
``READERS["mine"] = open_mine``.
"""

from collections.abc import Callable

from clip_jax.data.errors import DataError
from clip_jax.data.test_sets.folder import open_folder
from clip_jax.data.test_sets.packages import open_digits, open_emoji
from clip_jax.data.test_sets.selection import open_selection
from clip_jax.data.test_sets.table import open_table
from clip_jax.data.test_sets.tfds import open_tfds
from clip_jax.data.test_sets.types import ImageDataset, Options
from clip_jax.data.test_sets.webdataset import open_webdataset

# (name or path, split, options) -> a kind of dataset
Reader = Callable[[str, str, Options], ImageDataset]

READERS: dict[str, Reader] = {
    "tfds": open_tfds,
    "wds": open_webdataset,
    "folder": open_folder,
    "csv": open_table,
    "selection": open_selection,
    "emoji": open_emoji,
    "digits": open_digits,
}


def open_dataset(spec: str, split: str = "test", options: Options | None = None) -> ImageDataset:
    """Opens one split of a dataset. No image is read yet.

    Args:
      spec: KIND:NAME or KIND:PATH; the kinds are the keys of ``READERS``.
      split: "train", "val" or "test", or as the data calls it.
      options: see ``Options``.

    Raises:
      MissingData: the dataset, or this split of it, is not here.
      DataError: no such kind of dataset, or the data is not in order.
    """
    kind, _, rest = spec.partition(":")
    if kind not in READERS:
        raise DataError(
            f"dataset {spec!r}: {kind!r} is not one of {sorted(READERS)}; write what it is in "
            "front of its name or path, such as folder:PATH"
        )
    return READERS[kind](rest, split, options or Options())
