import html
import itertools
import string

import ftfy
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from clip_jax.tokenizers.cleaning import clean

ANY_CHARACTER = st.characters()  # lone surrogates too
FRAGMENTS = st.sampled_from(
    ["&amp;", "&amp;lt;", "&#65;", "&lt", "&", ";", "<b>", "\x1b[31m", "\x00", "\x1c", "\x7f"]
    + ["\r\n", "\x0b", "\x0c", "\x85", "\u2028", "â€™", "Ã©", "’", "ﬁ", "Ａ", "\ud83d", "\ude00"]
)


def reference_clean(text: str) -> str:
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_equals_the_reference(text):
    assert clean(text) == reference_clean(text)


@given(st.lists(st.one_of(st.text(ANY_CHARACTER, max_size=8), FRAGMENTS)).map("".join))
def test_any_text_equals_the_reference(text):
    assert clean(text) == reference_clean(text)


def test_every_ascii_pair_equals_the_reference():
    ascii_characters = [chr(code) for code in range(128)]
    printable = string.printable.strip()
    pairs = [*itertools.product(printable, repeat=2), *((c, "") for c in ascii_characters)]
    wrong = [p for p in pairs if clean(text := f"A {p[0]}{p[1]}b") != reference_clean(text)]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  A\tphoto \n of ", "a photo of"),
        ("cats &amp;amp; dogs", "cats & dogs"),
        ("schÃ¶n", "schön"),
        ("it’s", "it's"),
        ("the\x1ca", "thea"),
        ("x\ud83dy", "x\ufffdy"),
        (" \x00 ", ""),
        ("", ""),
    ],
)
def test_examples(text, cleaned):
    assert clean(text) == cleaned
