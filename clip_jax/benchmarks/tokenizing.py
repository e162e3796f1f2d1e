"""How fast captions are tokenized, with an empty cache and a full one, beside open_clip."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip_jax import cli
from clip_jax.benchmarks import paired
from clip_jax.benchmarks.rates import Method, compare
from clip_jax.config import ConfigError
from clip_jax.data import paths
from clip_jax.data.pairs.emoji import EmojiSource
from clip_jax.tokenizers import ClipTokenizer, Tokenizer

COLD, WARM, THEIRS = "clip_jax, empty cache", "clip_jax, full cache", "open_clip, empty cache"


def command(arguments: Sequence[str]) -> None:
    """The command ``benchmark tokenize``."""
    parser = cli.Parser("benchmark tokenize", __doc__)
    parser.add_argument("--texts", help="file with a caption a line; default: the emoji dataset's")
    parser.add_argument("--captions", type=int, default=10_000, help="of a round (10000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write the results to")
    flags = parser.parse_args(arguments)
    if min(flags.captions, flags.rounds) < 1:
        raise ConfigError("--captions and --rounds must be 1 or more")
    paired.require_folder(flags.json)
    texts = _texts(flags.texts)[: flags.captions]
    results = compare(_methods(texts), flags.rounds, "captions", "ratio_by_cpu")
    paired.write_record(flags.json, "tokenize", arguments, results)


def _texts(path: str | None) -> list[str]:
    if path is None:
        source = EmojiSource(paths.cache_dir(), "all", "train", "rich")
        rng = np.random.default_rng(0)
        return [source.caption(i, rng) for i in rng.permutation(len(source)).tolist()]
    if not Path(path).is_file():
        raise ConfigError(f"--texts={path}: no such file")
    return Path(path).read_text(encoding="utf-8").splitlines()


def _methods(texts: Sequence[str]) -> list[Method]:
    made: dict[str, Tokenizer] = {}
    warm = ClipTokenizer()
    warm(texts)

    def fresh() -> None:
        made["ours"] = ClipTokenizer()

    def ours() -> int:
        return len(made["ours"](texts))

    def ours_again() -> int:
        return len(warm(texts))

    def theirs() -> int:
        return len(made["theirs"](texts))

    def fresh_theirs() -> None:
        made["theirs"] = open_clip.SimpleTokenizer()

    try:
        import open_clip
    except ImportError:
        print("without open_clip (pip install '.[benchmark]') it is measured alone")
        return [Method(COLD, ours, COLD, fresh), Method(WARM, ours_again, COLD)]
    fresh_theirs()
    same = (np.asarray(warm(texts)) == np.asarray(made["theirs"](texts))).all(1)
    print(f"{len(texts):,} captions, {int((~same).sum())} of which come out differently")
    return [
        Method(COLD, ours, THEIRS, fresh),
        Method(WARM, ours_again, THEIRS),
        Method(THEIRS, theirs, THEIRS, fresh_theirs),
    ]
