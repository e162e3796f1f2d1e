"""One split of a prepared TFDS dataset, by record number and without TensorFlow."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clip_jax.data.errors import DataError
from clip_jax.runtime.digests import Json

if TYPE_CHECKING:  # it takes half a second
    from tensorflow_datasets.core import DatasetBuilder

Record = Mapping[str, "bytes | str | list | np.ndarray | Record"]  # features by name


def open_split(
    name: str, split: str, image_key: str, data_dir: str
) -> tuple["DatasetBuilder", Sequence[Record]]:
    """A TFDS builder, and a split of it as records by number, images left encoded.

    A home folder may be written as ``~``: a shell does not expand it behind an equals sign.

    Neither needs TensorFlow where the dataset is prepared in ArrayRecord (or another random-access
    format). ``name`` may also be the folder of a prepared version, which needs no builder code.

    Raises:
      DataError: the records have no such image.
      Exception: whatever TFDS raises.
    """
    import tensorflow_datasets as tfds  # half a second: only when used

    name, data_dir = os.path.expanduser(name), os.path.expanduser(data_dir)
    if os.path.isfile(os.path.join(name, "dataset_info.json")):
        builder = tfds.builder_from_directory(name)
    else:
        builder = tfds.builder(name, data_dir=data_dir or None, try_gcs=False)
    require_feature(builder, "image_key", image_key)
    return builder, builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})


def require_feature(builder: "DatasetBuilder", key: str, value: str) -> None:
    """Raises DataError, which names the ``key`` and the features, if there is none called so."""
    if value not in builder.info.features:
        raise DataError(
            f"{key}={value!r}: records of {builder.info.full_name} have "
            f"{sorted(builder.info.features)}"
        )


def preparation(name: str, data_dir: str = "") -> str:
    """The command that prepares a TFDS dataset so that it can be read here. The command ``tfds``
    imports TensorFlow; this does not, though some builders do.
    """
    where = f", data_dir={data_dir!r}" if data_dir else ""
    return (
        f'python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}{where}, '
        "file_format='array_record').download_and_prepare()\""
    )


def identity(builder: "DatasetBuilder", split: str, data: Sequence[Record]) -> list[Json]:
    """What identifies a split of a prepared TFDS dataset: its version and all files' sizes."""
    files = {k: [v.num_bytes, list(v.shard_lengths)] for k, v in builder.info.splits.items()}
    return [builder.info.full_name, split, len(data), files]
