"""Fingerprints are stored in runs and records: their bytes must never change."""

import hashlib

import pytest

from clip_jax.runtime.digests import json_digest


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": [1, 2.5, None], "a": "ü"}, '{"a": "\\u00fc", "b": [1, 2.5, null]}'),
        (("clip", "x", 77), '["clip", "x", 77]'),
        ([bytes], "[\"<class 'bytes'>\"]"),
    ],
)
def test_the_hashed_bytes_are_sorted_json(value, text):
    assert json_digest(value) == hashlib.sha256(text.encode()).hexdigest()
