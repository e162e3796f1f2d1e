"""The length at which a step computes its captions."""

import types

import numpy as np
import pytest

from clip_jax import config as config_lib
from clip_jax.models.text import TextConfig
from clip_jax.runtime import mesh as mesh_lib
from clip_jax.training import text_length

TEXT = TextConfig(8, 2, 2, context_length=40, vocab_size=100, eot_id=99)


def batches(mesh, *longest):
    """Global batches of 8 captions, of which one has so many tokens; the others have 3."""
    for i, length in enumerate(longest):
        if length is None:
            raise ValueError("cannot be read")
        tokens = np.zeros((8, 40), np.int32)
        tokens[:, 2] = tokens[i % 8, length - 1] = 99
        tokens[i % 8, : length - 1] = 5
        yield types.SimpleNamespace(
            number=i, tokens=mesh_lib.put_batch(mesh, {"t": tokens}, 8)["t"]
        )


def config(context_length=0):
    c = config_lib.defaults()
    c.train.context_length = context_length
    return c


def test_captions_can_be_shorter_in_training():
    assert [text_length.longest(config(n), TEXT) for n in (0, 2, 39, 40)] == [40, 2, 39, 40]
    for length in (1, 41):
        with pytest.raises(ValueError, match=f"train.context_length={length} must be 2 to 40"):
            text_length.longest(config(length), TEXT)
    siglip = TextConfig(8, 2, 2, 40, 100, 99, causal=False, pool="last")
    assert text_length.longest(config(40), siglip) == 40
    with pytest.raises(ValueError, match="pools at the last position, and has to be trained at"):
        text_length.longest(config(16), siglip)


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.create_mesh({"data": 4, "fsdp": 2})


def test_every_batch_comes_once_with_the_length_of_its_longest_caption(mesh):
    given = (3, 16, 17, 32, 33, 40, 4)
    found = [(b.number, n) for b, n in text_length.with_lengths(batches(mesh, *given), TEXT, mesh)]
    assert found == list(enumerate((16, 16, 32, 32, 40, 40, 16)))
    assert list(text_length.with_lengths(batches(mesh), TEXT, mesh)) == []


def test_an_error_comes_after_the_batches_before_it(mesh):
    stream, seen = text_length.with_lengths(batches(mesh, 3, 20, None), TEXT, mesh), []
    with pytest.raises(ValueError, match="cannot be read"):
        for batch, length in stream:
            seen.append((batch.number, length))
    assert seen == [(0, 16), (1, 32)]


def test_of_several_processes_one_that_fails_ends_at_once(mesh, monkeypatch):
    monkeypatch.setattr(text_length.jax, "process_count", lambda: 2)
    stream, seen = text_length.with_lengths(batches(mesh, 3, 20, None), TEXT, mesh), []
    with pytest.raises(ValueError, match="cannot be read"):
        for batch, length in stream:
            seen.append((batch.number, length))
    assert seen == [(0, 16)]


def test_a_tower_that_sees_padding_computes_all_of_it(mesh):
    siglip = TextConfig(8, 2, 2, 40, 100, 99, causal=False, pool="last")
    untouched = iter([types.SimpleNamespace(tokens=None)] * 2)  # nothing is asked of the devices
    assert [n for _, n in text_length.with_lengths(untouched, siglip, mesh)] == [40, 40]
    assert "pools at the last position" in text_length.describe(config(), siglip)
    open_eyed = TextConfig(8, 2, 2, 40, 100, 99, causal=False)
    assert open_eyed.static_lengths == (40,)
    assert "is not causal" in text_length.describe(config(), open_eyed)


def test_what_people_read():
    whole, cut = (text_length.describe(config(length), TEXT) for length in (0, 20))
    assert whole == "cut to the longest of their batch: at 16, 32, 40 tokens"
    assert cut == "cut to the longest of their batch: at 16, 20 tokens"
    assert TextConfig(8, 2, 2).static_lengths == (16, 32, 48, 77)
    assert TextConfig(8, 2, 2, context_length=12).static_lengths == (12,)
