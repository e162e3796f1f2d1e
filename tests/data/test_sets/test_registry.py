"""Datasets by the name of their kind."""

import pytest

from clip_jax.data.errors import DataError
from clip_jax.data.test_sets.registry import open_dataset


def test_an_unknown_kind_names_those_there_are():
    with pytest.raises(DataError, match=r"'imagenet:x': 'imagenet' is not one of .*'folder'"):
        open_dataset("imagenet:x")
