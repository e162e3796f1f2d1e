"""Pairs in TFDS datasets."""

import numpy as np
import pytest
from data_configs import data_config

from clip_jax.data.emoji import builder
from clip_jax.data.errors import DataError
from clip_jax.data.pairs import registry

RNG = np.random.default_rng(0)


def test_tfds_datasets_are_read(emoji_cache, tmp_path):
    source = registry.build(
        data_config(
            source="tfds",
            path="emoji/all",
            caption_key="name",
            split="held_out",
            tfds_data_dir=str(builder.folder(emoji_cache, "all")),
        )
    )
    assert len(source) == 1064
    kept = registry.build_validation(
        data_config(
            source="tfds",
            path="emoji/all",
            caption_key="name",
            validation_split="unseen_vendor",
            tfds_data_dir=str(builder.folder(emoji_cache, "all")),
        )
    )
    assert len(kept) == 1421
    example = source.read(0, RNG)
    assert example.image.startswith(b"\x89PNG")
    assert example.caption
    for key in ("image_key", "caption_key"):
        changes = {"image_key": "image", "caption_key": "name", key: "nothing"}
        with pytest.raises(DataError, match=rf"data.{key}='nothing'.*have .*'name'"):
            registry.build(
                data_config(
                    source="tfds", path="emoji/all", split="train", **changes,
                    tfds_data_dir=str(builder.folder(emoji_cache, "all")),
                )
            )  # fmt: skip
    with pytest.raises(DataError, match=r"data.path='no_such_set'.*TFDS cannot open it.*prepared"):
        registry.build(data_config(source="tfds", path="no_such_set", tfds_data_dir=str(tmp_path)))
