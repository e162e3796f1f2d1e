import concurrent.futures
import gzip
import html
import importlib.resources
import json
import pickle
import re

import ftfy
import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.tokenizers import clip_bpe
from clip_jax.tokenizers.cleaning import clean
from clip_jax.tokenizers.clip_bpe import ClipTokenizer

TEXTS = st.text(st.characters(), max_size=60)
CAPTIONS = [
    template.format(name)
    for template in (
        "a photo of a {}.",
        "a bad photo of the {}.",
        "itap of my {}.",
        "a low resolution photo of a {}.",
        "a {} in a video game.",
    )
    for name in ("tench", "great white shark", "Labrador Retriever", "school bus", "bell pepper")
]


class PlainBpe:
    """The published algorithm, written as it is described: strings, ranks, one pass a merge."""

    def __init__(self):
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        self.symbol = {byte: chr(byte) for byte in printable}
        for byte in range(256):
            self.symbol.setdefault(byte, chr(256 + len(self.symbol) - len(printable)))
        order = [*printable, *(byte for byte in range(256) if byte not in printable)]
        path = importlib.resources.files("clip_jax.tokenizers") / clip_bpe.MERGES_FILE
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1:48_895]
        pairs = [tuple(line.split()) for line in lines]
        symbols = [self.symbol[byte] for byte in order]
        specials = ["<|startoftext|>", "<|endoftext|>"]
        names = symbols + [s + "</w>" for s in symbols] + ["".join(p) for p in pairs] + specials
        self.ids = {name: i for i, name in enumerate(names)}
        self.ranks = {pair: i for i, pair in enumerate(pairs)}
        self.cache = {name: [name] for name in specials}
        self.words = regex.compile(
            r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
            r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
            regex.IGNORECASE,
        )

    def encode(self, text):
        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        text = regex.sub(r"\s+", " ", text).strip().lower()
        ids = []
        for word in self.words.findall(text):
            if word not in self.cache:
                self.cache[word] = self.merge([self.symbol[b] for b in word.encode("utf-8")])
            ids += [self.ids[name] for name in self.cache[word]]
        return ids

    def merge(self, parts):
        parts = [*parts[:-1], parts[-1] + "</w>"]
        while len(parts) > 1:
            best = min(zip(parts, parts[1:], strict=False), key=lambda p: self.ranks.get(p, 1e9))
            if best not in self.ranks:
                break
            merged, i = [], 0
            while i < len(parts):
                found = tuple(parts[i : i + 2]) == best
                merged.append("".join(best) if found else parts[i])
                i += 2 if found else 1
            parts = merged
        return parts


@pytest.fixture(scope="module")
def tokenizer():
    return ClipTokenizer()


@pytest.fixture(scope="module")
def plain():
    return PlainBpe()


@pytest.fixture
def golden(goldens):
    folder = goldens / "B_tokenizer"
    with np.load(folder / "tokens.npz") as arrays:
        golden = dict(arrays)
    strings = json.loads((folder / "strings.json").read_text())
    golden["texts"] = [record["text"] for record in strings]
    golden["decoded"] = json.loads((folder / "decoded.json").read_text())
    golden["facts"] = json.loads((folder / "facts.json").read_text())
    offsets = golden["full_offsets"]
    golden["full"] = np.split(golden["full_flat"], offsets[1:-1])
    return golden


def test_golden_rows(tokenizer, golden):
    np.testing.assert_array_equal(tokenizer(golden["texts"]), golden["ids"])


def test_golden_rows_of_a_short_context(golden):
    np.testing.assert_array_equal(ClipTokenizer(16)(golden["texts"]), golden["ids_ctx16"])


def test_golden_full_ids(tokenizer, golden):
    full = [tokenizer.encode(text) for text in golden["texts"]]
    assert full == [ids.tolist() for ids in golden["full"]]
    assert [len(ids) + 2 for ids in full] == golden["full_length"].tolist()


def test_golden_decode(tokenizer, golden):
    assert [tokenizer.decode(ids) for ids in golden["full"]] == golden["decoded"]


def test_golden_facts(tokenizer, golden):
    facts = golden["facts"]
    assert (tokenizer.vocab_size, tokenizer.sot_id, tokenizer.eot_id) == (
        facts["vocab_size"],
        facts["sot"],
        facts["eot"],
    )
    assert {text: tokenizer.encode(text) for text in facts["examples"]} == facts["examples"]


@given(text=TEXTS)
def test_equals_the_plain_algorithm(tokenizer, plain, text):
    assert tokenizer.encode(text) == plain.encode(text)


@given(text=st.text("abenst", min_size=1, max_size=80))
def test_merge_order_equals_the_plain_algorithm(tokenizer, plain, text):
    assert tokenizer.encode(text) == plain.encode(text)


@given(text=TEXTS.filter(lambda text: "</w>" not in clean(text)))
def test_decode_gives_the_cleaned_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)).replace(" ", "") == clean(text).replace(" ", "")


@given(words=st.lists(st.text("abcdefghijklmnopqrstuvwxyzéß漢", min_size=1)))
def test_decode_keeps_the_words_apart(tokenizer, words):
    text = clean(" ".join(words))
    assert tokenizer.decode(tokenizer.encode(text)).rstrip() == text


@settings(max_examples=50)
@given(texts=st.lists(TEXTS, max_size=4), length=st.integers(2, 20))
def test_rows_are_framed_ids(texts, length):
    tokenizer = ClipTokenizer(length)
    rows = tokenizer(texts)
    assert rows.shape == (len(texts), length)
    assert rows.dtype == np.int32
    for row, text in zip(rows, texts, strict=True):
        ids = tokenizer.encode(text)[: length - 2]
        assert row.tolist() == [49_406, *ids, 49_407] + [0] * (length - 2 - len(ids))


def test_one_string_is_a_batch_of_one(tokenizer):
    np.testing.assert_array_equal(tokenizer("a dog"), tokenizer(["a dog"]))


def test_too_long_a_text_is_refused_on_request():
    tokenizer = ClipTokenizer(5)
    assert tokenizer("a b c", truncate=False).shape == (1, 5)
    message = re.escape("texts[1] has 6 ids with its start and end, the context length is 5")
    with pytest.raises(ValueError, match=message):
        tokenizer(["a", "a b c d"], truncate=False)


def test_a_text_that_is_not_a_string_is_named(tokenizer):
    with pytest.raises(TypeError, match=r"texts\[1\] is bytes"):
        tokenizer(["a", b"b"])


@pytest.mark.parametrize("length", [1, 0, -3, 7.0, None])
def test_a_context_without_room_is_refused(length):
    with pytest.raises(ValueError, match=f"context_length={length}"):
        ClipTokenizer(length)


@pytest.mark.parametrize("bad", [-1, 49_408])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer, bad):
    with pytest.raises(ValueError, match=f"id {bad} is outside"):
        tokenizer.decode([320, bad])


def test_every_id_decodes_to_what_encodes_to_it(tokenizer):
    # Pieces that are whole words come back as one id; 49,408 ids, so a shifted table shows.
    ids = [i for i in range(512, 49_406) if b"</w>" in tokenizer._vocabulary.pieces[i]]
    same = sum(tokenizer.encode(tokenizer.decode([i])) == [i] for i in ids[::20])
    assert same > 0.95 * len(ids[::20])


def test_pickle_carries_no_vocabulary(tokenizer):
    data = pickle.dumps(ClipTokenizer(32))
    copy = pickle.loads(data)
    assert len(data) < 500
    assert copy.fingerprint == ClipTokenizer(32).fingerprint
    np.testing.assert_array_equal(copy(CAPTIONS), ClipTokenizer(32)(CAPTIONS))


def test_fingerprint_tells_context_lengths_apart():
    prints = [ClipTokenizer(length).fingerprint for length in (77, 77, 32)]
    assert prints[0] == prints[1] != prints[2]
    assert re.fullmatch("[0-9a-f]{64}", prints[0])


def test_fingerprint_covers_the_cleaning(monkeypatch):
    before = ClipTokenizer().fingerprint
    monkeypatch.setattr(ClipTokenizer, "cleaning", "none")
    assert ClipTokenizer().fingerprint != before


def test_a_small_cache_shared_by_threads_changes_nothing(tokenizer, monkeypatch):
    monkeypatch.setattr(clip_bpe, "_CACHE_ENTRIES", 8)
    shared = ClipTokenizer()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        rows = list(threads.map(lambda _: shared(CAPTIONS), range(8)))
    assert all((r == tokenizer(CAPTIONS)).all() for r in rows)
    assert len(shared._cache) <= 8 + 4  # each thread may add one after the check


def test_long_words_are_not_cached():
    tokenizer = ClipTokenizer()
    tokenizer("x" * 33)
    assert not tokenizer._cache


def test_one_word_of_many_bytes(tokenizer):
    """Merging pass by pass would take hours over this, and the test run would not end."""
    word = "漢字" * 10_000 + "ab" * 20_000
    ids = tokenizer.encode(word)
    assert len(ids) > 20_000
    assert tokenizer.decode(ids).strip() == word


def test_damaged_merges_are_refused(monkeypatch):
    monkeypatch.setattr(clip_bpe, "MERGES_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=f"{clip_bpe.MERGES_FILE} is damaged"):
        clip_bpe._load_vocabulary.__wrapped__()
