"""What all sources of pairs share: the captions."""

import pytest

from clip_jax.data.errors import DataError
from clip_jax.data.pairs.base import clean_caption


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (b"a cat", "a cat"),
        ("a\x00b\nc", "a b c"),
        (b"caf\xe9", "caf\ufffd"),
        ("  x  ", "x"),
        ("y" * 10_000, "y" * 4096),
    ],
)
def test_captions_are_cleaned(text, want):
    assert clean_caption(text) == want


@pytest.mark.parametrize("text", [b"", "  \n", b"\x00\x01"])
def test_empty_captions_are_refused(text):
    with pytest.raises(DataError, match="empty caption"):
        clean_caption(text)
