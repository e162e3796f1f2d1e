"""CLIP's byte-level BPE tokenizer: 49,408 ids, those of OpenAI's release (Radford et al. 2021)."""

import functools
import gzip
import hashlib
import heapq
import importlib.resources
import json
from collections.abc import Sequence
from typing import NamedTuple

import regex

from clip_jax.tokenizers.base import Tokenizer
from clip_jax.tokenizers.cleaning import clean

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES_SHA256 = "dad5d1868812268569bd4595d2c21caf47a62830998a09762145e117041a202a"

# A cached entry takes about 250 bytes, so these bound a full cache to about 16 MB.
_CACHE_ENTRIES = 65_536
_CACHED_LENGTH = 32

_WORD_END = "</w>"
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>"
    r"|'s|'t|'re|'ve|'m|'ll|'d"  # contractions
    r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",  # letters, one digit, anything else
    regex.IGNORECASE,
)


class _Vocabulary(NamedTuple):
    byte_ids: tuple[int, ...]  # byte -> id; the id of the same byte at a word's end is 256 higher
    merges: dict[tuple[int, int], int]  # pair of ids -> merged id; a lower id merges earlier
    pieces: list[bytes]  # id -> the bytes it decodes to, ``</w>`` spelled out
    names: tuple[str, ...]  # id -> its name in the merges file
    lines: list[str]  # the merges as the file has them


class ClipTokenizer(Tokenizer):
    """OpenAI's tokenizer, id for id.

    A text that spells out ``<|startoftext|>`` or ``<|endoftext|>`` gets that special id, as in the
    reference. ``decode`` writes a space after each word, as in the reference.
    """

    name = "clip"
    vocab_size = 49_408
    pad_id = 0
    sot_id = 49_406
    eot_id = 49_407

    def __init__(self, context_length: int = 77):
        """Loads the merges; every published CLIP has a context length of 77.

        Raises:
          ValueError: ``context_length`` is below 2, or the merges file is damaged.
        """
        super().__init__(context_length, MERGES_SHA256)
        self._vocabulary = _load_vocabulary()
        self._cache: dict[str, tuple[int, ...]] = {}

    def __reduce__(self):
        """Pickles the arguments only: a worker process loads the merges itself."""
        return type(self), (self.context_length,)

    def encode(self, text: str) -> list[int]:
        """All ids of the cleaned ``text``, without start, end and padding."""
        ids: list[int] = []
        # No word holds a space, so the pieces between spaces can be encoded, and cached, alone.
        for piece in clean(text).split(" "):
            ids += self._cache.get(piece) or self._encode_piece(piece)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, a space after each word; broken UTF-8 becomes U+FFFD.

        Raises:
          ValueError: an id is outside the vocabulary.
        """
        pieces = self._vocabulary.pieces
        data = b"".join(pieces[i] for i in self._checked(ids))
        return data.decode("utf-8", errors="replace").replace(_WORD_END, " ")

    def _encode_piece(self, piece: str) -> tuple[int, ...]:
        ids: list[int] = []
        for word in _WORDS.findall(piece):
            ids += self._cache.get(word) or self._remember(word, self._encode_word(word))
        return self._remember(piece, tuple(ids))

    def _encode_word(self, word: str) -> tuple[int, ...]:
        if word in _SPECIAL:
            return (self.sot_id + _SPECIAL.index(word),)
        ids = [self._vocabulary.byte_ids[byte] for byte in word.encode("utf-8")]
        ids[-1] += 256
        return tuple(_merge(ids, self._vocabulary.merges))

    def _remember(self, text: str, ids: tuple[int, ...]) -> tuple[int, ...]:
        # Single dict operations only, so threads need no lock: at worst one repeats some work.
        if len(text) <= _CACHED_LENGTH:
            if len(self._cache) >= _CACHE_ENTRIES:
                self._cache.clear()
            self._cache[text] = ids
        return ids


def _merge(ids: list[int], merges: dict[tuple[int, int], int]) -> list[int]:
    """Applies ``merges``, earliest first and from left to right, until none applies.

    A heap and a linked list keep this at n log n: captions in scripts without spaces are one word
    of thousands of bytes.
    """
    end = len(ids)
    ids = [*ids, -1]  # -1 is in no pair: it marks the end and every id merged away
    left = list(range(-1, end))
    right = list(range(1, end + 2))
    heap = [(merges[pair], i) for i in range(end - 1) if (pair := (ids[i], ids[i + 1])) in merges]
    heapq.heapify(heap)
    while heap:
        merged, i = heapq.heappop(heap)
        j = right[i]
        if merges.get((ids[i], ids[j])) != merged:
            continue  # one of the two has been merged with another neighbour since
        ids[i], ids[j] = merged, -1
        right[i] = k = right[j]
        left[k] = i
        for start, pair in ((left[i], (ids[left[i]], merged)), (i, (merged, ids[k]))):
            if pair in merges:
                heapq.heappush(heap, (merges[pair], start))
    return [i for i in ids if i >= 0]


@functools.cache
def _load_vocabulary() -> _Vocabulary:
    """Builds the ids: 256 bytes, the same at a word's end, one per merge, two specials."""
    path = importlib.resources.files(__package__) / MERGES_FILE
    packed = path.read_bytes()
    if hashlib.sha256(packed).hexdigest() != MERGES_SHA256:
        raise ValueError(f"{path} is damaged (its sha256 differs): install clip_jax again")
    symbols = _byte_symbols()
    names = list(symbols) + [symbol + _WORD_END for symbol in symbols]
    ids = {name: i for i, name in enumerate(names)}
    merges, lines = {}, gzip.decompress(packed).decode("utf-8").strip().split("\n")[1:]
    for line in lines:
        first, second = line.split(" ")
        merges[ids[first], ids[second]] = ids[first + second] = len(ids)
    pieces = [_to_bytes(name, symbols) for name in (*ids, *_SPECIAL)]
    byte_ids = [0] * 256
    for i, byte in enumerate(symbols.values()):
        byte_ids[byte] = i
    return _Vocabulary(tuple(byte_ids), merges, pieces, (*ids, *_SPECIAL), lines)


def hugging_face_files(context_length: int) -> dict[str, str]:
    """The files of transformers' ``CLIPTokenizer``: name -> text.

    Its rows are filled with the end of text where ours, as OpenAI's, are filled with 0: no model
    looks behind the first end.
    """
    vocabulary = _load_vocabulary()
    start, end = _SPECIAL
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context_length,
        "bos_token": start,
        "eos_token": end,
        "pad_token": end,
        "unk_token": end,
        "do_lower_case": True,
        "errors": "replace",
        "add_prefix_space": False,
    }
    ids = {name: i for i, name in enumerate(vocabulary.names)}
    return {
        "vocab.json": json.dumps(ids, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *vocabulary.lines]) + "\n",
        "tokenizer_config.json": json.dumps(settings, indent=2) + "\n",
    }


def _byte_symbols() -> dict[str, int]:
    """Printable stand-in -> byte, in the order of ids: printable Latin-1 first, then the rest."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    stand_ins = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]
    return dict(zip(stand_ins, printable + rest, strict=True))


def _to_bytes(name: str, symbols: dict[str, int]) -> bytes:
    return bytes(symbols[symbol] for symbol in name)
