"""Text cleaning that every tokenizer shares (CLIP's ``basic_clean`` and ``whitespace_clean``)."""

import html

import ftfy
import regex

#: Names the rules below inside tokenizer fingerprints: change it when they change.
CLEANING = "ftfy.fix_text, html.unescape twice, collapse whitespace, lower"

_WHITESPACE = regex.compile(r"\s+")


def clean(text: str) -> str:
    """Repairs encoding damage, resolves HTML entities, collapses whitespace and lowers case.

    The result is that of OpenAI's CLIP for every string. It holds single spaces and no other
    whitespace, none of them at an end.

    Args:
      text: any string, lone surrogates and control characters included.

    Returns:
      The cleaned text; empty when nothing is left.
    """
    # Printable ASCII has no encoding to repair, no control character and no character to
    # normalise, and without an ampersand no entity: both libraries return it as it came.
    if text.isascii() and text.isprintable() and "&" not in text:
        return " ".join(text.split()).lower()
    return _clean_any(text)


def _clean_any(text: str) -> str:
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    # ``strip`` before collapsing too: it takes the separators U+001C to U+001F, ``\s`` does not.
    return _WHITESPACE.sub(" ", text.strip()).strip().lower()
