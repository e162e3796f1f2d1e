import os
import pickle
import re

import numpy as np
import pytest
import sentencepiece
from hypothesis import assume, given
from hypothesis import strategies as st

from clip_jax.tokenizers.cleaning import clean
from clip_jax.tokenizers.sentence_piece import SentencePieceTokenizer, train_sentencepiece

CAPTIONS = [
    f"{start} {size} {animal} {place}"
    for start in ("A photo of a", "a drawing of the", "Itap of my")
    for size in ("small", "large", "red &amp; blue")
    for animal in ("dog", "cat", "great white shark", "Labrador Retriever")
    for place in ("in the garden.", "on a beach, 1999!", "at home")
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "captions.model"
    assert train_sentencepiece(CAPTIONS, 48, path) == len(CAPTIONS)
    return path


@pytest.fixture(scope="module")
def tokenizer(model):
    return SentencePieceTokenizer(model, 24)


def test_facts(tokenizer):
    assert tokenizer.name == "sentencepiece"
    assert tokenizer.vocab_size == 48
    assert tokenizer.context_length == 24
    assert (tokenizer.pad_id, tokenizer.sot_id, tokenizer.eot_id) == (0, 1, 2)


def test_rows_are_framed_ids(tokenizer):
    texts = ["", "a dog", " ".join(CAPTIONS)]
    rows = tokenizer(texts)
    assert rows.dtype == np.int32
    for row, text in zip(rows, texts, strict=True):
        ids = tokenizer.encode(text)[:22]
        assert row.tolist() == [1, *ids, 2] + [0] * (22 - len(ids))
    assert rows[2, -1] == 2


def test_too_long_a_text_is_refused_on_request(tokenizer):
    with pytest.raises(ValueError, match=r"texts\[1\] has \d+ ids"):
        tokenizer(["a dog", " ".join(CAPTIONS)], truncate=False)


def test_text_is_cleaned_like_clip_does(tokenizer):
    assert tokenizer.encode(" RED &amp;amp;\tblue ") == tokenizer.encode("red & blue")


KNOWN = set("".join(map(clean, CAPTIONS)))


@given(st.text(sorted(KNOWN | {" ", "D"})))
def test_decode_gives_known_characters_back(tokenizer, text):
    assume(set(clean(text)) <= KNOWN)  # "&lt" becomes "<"
    decoded = tokenizer.decode(tokenizer.encode(text))
    # But for the spaces that encoding puts around punctuation.
    assert decoded.replace(" ", "") == clean(text).replace(" ", "")
    assert decoded == tokenizer.decode(tokenizer.encode(decoded))


@given(st.text(st.characters()))
def test_any_text_gives_ids_of_the_vocabulary(tokenizer, text):
    assert all(3 <= i < tokenizer.vocab_size for i in tokenizer.encode(text))


def test_decode_leaves_out_start_end_and_padding(tokenizer):
    assert tokenizer.decode(tokenizer("a small dog")[0]) == "a small dog"


def test_unseen_characters_are_unknown(tokenizer):
    assert tokenizer.unk_id in tokenizer.encode("漢")


def test_an_id_outside_the_vocabulary_is_refused(tokenizer):
    with pytest.raises(ValueError, match="id 48 is outside"):
        tokenizer.decode([48])


def test_pickle_needs_no_file(model, tmp_path):
    moved = tmp_path / "moved.model"
    moved.write_bytes(model.read_bytes())
    tokenizer = SentencePieceTokenizer(moved, 12)
    data = pickle.dumps(tokenizer)
    moved.unlink()
    copy = pickle.loads(data)
    assert copy.fingerprint == tokenizer.fingerprint
    np.testing.assert_array_equal(copy(CAPTIONS), tokenizer(CAPTIONS))


def test_fingerprint_covers_model_and_context_length(model, tmp_path):
    train_sentencepiece(CAPTIONS, 46, tmp_path / "other.model")
    same = SentencePieceTokenizer(model.read_bytes(), 24).fingerprint
    assert same == SentencePieceTokenizer(str(model), 24).fingerprint
    others = {
        SentencePieceTokenizer(model, 25).fingerprint,
        SentencePieceTokenizer(tmp_path / "other.model", 24).fingerprint,
    }
    assert len(others | {same}) == 3


@pytest.mark.parametrize("data", [b"", b"not a model"])
def test_a_file_that_is_no_model_is_named(tmp_path, data):
    path = tmp_path / "broken.model"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="broken.model is not a SentencePiece model"):
        SentencePieceTokenizer(path, 24)


def test_other_special_ids_are_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS),
        model_prefix=str(tmp_path / "other"),
        vocab_size=45,
        minloglevel=2,
    )
    with pytest.raises(
        ValueError, match="other.model has the special ids .*'pad_id': -1.*--pad_id=0"
    ):
        SentencePieceTokenizer(tmp_path / "other.model", 24)


def test_training_is_repeatable_and_silent(model, tmp_path, capfd):
    train_sentencepiece(iter(CAPTIONS), 48, tmp_path / "new" / "again.model")
    assert (tmp_path / "new" / "again.model").read_bytes() == model.read_bytes()
    assert capfd.readouterr() == ("", "")


def test_the_seed_chooses_the_sample(tmp_path):
    def train(seed):
        path = tmp_path / "sample.model"
        assert train_sentencepiece(CAPTIONS, 36, path, max_captions=20, seed=seed) == 20
        return path.read_bytes()

    assert train(0) == train(0) != train(1)


def test_a_long_caption_is_learned_from(tmp_path):
    long = "zebra " * 2_000
    train_sentencepiece([*CAPTIONS, long], 45, tmp_path / "long.model")
    assert 3 not in SentencePieceTokenizer(tmp_path / "long.model", 24).encode("zebra")


def test_a_rare_character_is_learned_as_it_is(tmp_path):
    train_sentencepiece([*CAPTIONS, "a ① sign"], 45, tmp_path / "rare.model")
    tokenizer = SentencePieceTokenizer(tmp_path / "rare.model", 24)
    assert tokenizer.decode(tokenizer.encode("①")) == "①"


def test_the_largest_possible_vocabulary_is_named(tmp_path):
    with pytest.raises(ValueError, match="vocab_size=9999 is too large for 108 captions") as error:
        train_sentencepiece(CAPTIONS, 9_999, tmp_path / "a.model")
    largest = int(re.search(r"at most (\d+)", str(error.value))[1])
    train_sentencepiece(CAPTIONS, largest, tmp_path / "a.model")
    assert SentencePieceTokenizer(tmp_path / "a.model", 24).vocab_size == largest


def test_the_smallest_possible_vocabulary_is_named(tmp_path):
    with pytest.raises(ValueError, match="vocab_size=10 is too small") as error:
        train_sentencepiece(CAPTIONS, 10, tmp_path / "a.model")
    smallest = int(re.search(r"at least (\d+)", str(error.value))[1])
    train_sentencepiece(CAPTIONS, smallest, tmp_path / "a.model")
    assert SentencePieceTokenizer(tmp_path / "a.model", 24).vocab_size == smallest


@pytest.mark.parametrize("captions", [[], ["", " \x00 "]])
def test_no_caption_is_refused(tmp_path, captions):
    with pytest.raises(ValueError, match="there is no caption"):
        train_sentencepiece(captions, 60, tmp_path / "a.model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("vocab_size", "max_captions"), [(4, 10), (100, 0)])
def test_impossible_sizes_are_refused(tmp_path, vocab_size, max_captions):
    with pytest.raises(ValueError, match=f"vocab_size={vocab_size} .*max_captions={max_captions}"):
        train_sentencepiece(CAPTIONS, vocab_size, tmp_path / "a", max_captions=max_captions)


def test_a_failed_write_leaves_the_old_model(tmp_path, monkeypatch):
    path = tmp_path / "a.model"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        train_sentencepiece(CAPTIONS, 48, path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.model", b"old")]


def test_words_are_kept_whole_and_strangers_are_one_unknown(tmp_path):
    path = tmp_path / "words.model"
    train_sentencepiece(
        ["red fire engine", "fire, smoke", "red car"] * 9, 100, path, model_type="word"
    )
    tokenizer = SentencePieceTokenizer(path, 8)
    assert tokenizer.vocab_size == 4 + 6  # special ids; red fire engine , smoke car: fewer than 100
    fire, engine = tokenizer.encode("fire engine")
    assert fire != engine
    assert tokenizer.encode("Fire! engines") == [fire, tokenizer.unk_id]  # strangers run together
    assert tokenizer.encode("fires engine") == [tokenizer.unk_id, engine]
    assert tokenizer.encode("fire,engine") == [fire, tokenizer.encode(",")[0], engine]
    assert tokenizer.decode([fire, engine]) == "fire engine"


def test_an_unknown_model_type_is_named(tmp_path):
    with pytest.raises(ValueError, match="tokenizer.model_type='char' is not one of"):
        train_sentencepiece(CAPTIONS, 50, tmp_path / "a.model", model_type="char")
