import re
import subprocess
import sys

import numpy as np
import pytest

from clip_jax.tokenizers import (
    KINDS,
    ClipTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    build,
    train_sentencepiece,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    train_sentencepiece([f"a {word} photo" for word in ("red", "dark", "large")] * 5, 17, path)
    return path


@pytest.mark.parametrize("empty", [None, ""])
def test_build_clip(empty):
    tokenizer = build("clip", 32, empty)
    assert type(tokenizer) is ClipTokenizer
    assert tokenizer("a dog").shape == (1, 32)


def test_build_sentencepiece(model):
    tokenizer = build("sentencepiece", 16, model)
    assert type(tokenizer) is SentencePieceTokenizer
    assert (tokenizer.context_length, tokenizer.vocab_size) == (16, 17)


def test_kinds_go_by_their_own_names():
    assert {name: kind.name for name, kind in KINDS.items()} == {name: name for name in KINDS}


def test_kinds_have_different_fingerprints(model):
    assert build("clip", 16).fingerprint != build("sentencepiece", 16, model).fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("clpi", 77),
            "tokenizer.name='clpi' is not one of ['clip', 'sentencepiece', 'siglip'] (did you",
        ),
        ((None, 77), "tokenizer.name=None is not one of"),
        (("sentencepiece", 77), "tokenizer.name='sentencepiece' needs tokenizer.model"),
        (("sentencepiece", 77, "no.model"), "tokenizer.model='no.model': there is no such file"),
        (("clip", 77, "a.model"), "tokenizer.name='clip' has no use for tokenizer.model='a.model'"),
        (("clip", 1), "context_length=1"),
    ],
)
def test_a_wrong_config_is_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(*arguments)


def test_no_accelerator_library_is_imported():
    code = (
        "import sys, clip_jax.tokenizers as t; t.build('clip', 77)('a dog');"
        "print(sorted({'jax', 'jaxlib', 'flax', 'torch', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


class Letters(Tokenizer):
    """Ids are the code points of ASCII letters: a tokenizer from outside the package."""

    name, vocab_size, pad_id, sot_id, eot_id = "letters", 130, 0, 128, 129

    def __init__(self, context_length):
        super().__init__(context_length, "ascii")

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i < 128)


def test_a_tokenizer_of_ones_own_is_one_entry(monkeypatch):
    monkeypatch.setitem(KINDS, "letters", Letters)
    tokenizer = build("letters", 6)
    np.testing.assert_array_equal(tokenizer("ab"), [[128, 97, 98, 129, 0, 0]])
    np.testing.assert_array_equal(tokenizer.with_context_length(3)("ab"), [[128, 97, 129]])
    with pytest.raises(ValueError, match="has no use for tokenizer.model"):
        build("letters", 6, "a.model")
