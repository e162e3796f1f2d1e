"""Sources by name, the pairs they keep for validation, and their captions."""

import json

import numpy as np
import pytest
from data_configs import data_config

from clip_jax.config import ConfigError
from clip_jax.data.errors import DataError
from clip_jax.data.pairs import registry, table

RNG = np.random.default_rng(0)


def test_missing_files_name_the_key():
    with pytest.raises(DataError, match=r"data.path='/nowhere/\*.tar': no such file"):
        registry.build(data_config(source="tar", path="/nowhere/*.tar"))


def pairs_table(tmp_path, count, **changes):
    rows = [{"image": f"{i}.png", "caption": f"caption {i}"} | changes for i in range(count)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return table.TableSource(str(tmp_path / "pairs.jsonl"), "image", "caption")


def test_captions_are_read_without_the_images(tmp_path):
    assert registry.captions(pairs_table(tmp_path, 3)) == ["caption 0", "caption 1", "caption 2"]
    several = pairs_table(tmp_path, 20, caption=["one", "two", "three"], image="pairs.jsonl")
    for i in range(20):
        drawn = several.caption(i, np.random.default_rng(i))
        assert drawn == several.read(i, np.random.default_rng(i)).caption


def test_a_sample_of_the_captions_is_spread_over_the_source(tmp_path):
    source = pairs_table(tmp_path, 1000)
    sample = registry.captions(source, 50)
    assert len(set(sample)) == 50
    numbers = [int(c.split()[1]) for c in sample]
    assert numbers == sorted(numbers)
    assert numbers[0] < 200
    assert numbers[-1] > 800
    assert registry.captions(source, 50) == sample != registry.captions(source, 50, seed=1)
    assert registry.captions(source, 2000) == registry.captions(source)


def test_unreadable_captions_are_left_out_within_the_budget(tmp_path, caplog):
    source = pairs_table(tmp_path, 100)
    for i in (3, 50):
        source.rows[i] = (f"{i}.png", "\x00")
    found = registry.captions(source, max_bad_fraction=0.01)
    assert len(found) == 98
    assert "caption 3" not in found
    assert "3.png: empty caption" in caplog.text
    with pytest.raises(DataError, match=r"2 of 100 captions .*max_bad_fraction=0.001.*50"):
        registry.captions(source, max_bad_fraction=0.001)
    with pytest.raises(DataError, match="3 of 3 captions could not be read"):
        registry.captions(pairs_table(tmp_path, 3, caption="\x00"), max_bad_fraction=0.5)


def test_validation_pairs_are_others(tmp_path):
    train = registry.build(data_config(source="synthetic"))
    other = registry.build_validation(data_config(source="synthetic"))
    assert train.fingerprint != other.fingerprint
    assert not (train.read(0, RNG).image == other.read(0, RNG).image).all()
    with pytest.raises(DataError, match=r"data.validation_path\).*/nowhere/a.csv"):
        registry.build_validation(data_config(source="table", validation_path="/nowhere/a.csv"))


def test_unknown_source_is_named():
    with pytest.raises(ConfigError, match="data.source='webdataset' is not one of"):
        registry.build(data_config(source="webdataset"))
