"""Command that trains a SentencePiece tokenizer on a file of captions.

    python -m clip_jax.tokenizers.train --input=captions.txt --vocab-size=4096 \
        --output=tokenizer.model

Exit codes: 0 done, 64 usage, 65 captions that cannot be used.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from clip_jax import cli
from clip_jax.runtime.distributed import BAD_DATA, OK
from clip_jax.tokenizers.sentence_piece import MODEL_TYPES, train_sentencepiece


def _command(arguments: list[str]) -> int:
    parser = cli.Parser("tokenizers.train", __doc__)
    add = parser.add_argument
    add("--input", type=Path, required=True, help="UTF-8 text file, one caption a line")
    add("--output", type=Path, required=True, help="model file to write")
    add("--vocab-size", type=_count(5), required=True, help="number of ids, 4 of them special")
    add("--model-type", choices=MODEL_TYPES, default="unigram", help="how texts are cut")
    add("--max-captions", type=_count(1), default=1_000_000, help="learn from a sample this large")
    add("--seed", type=int, default=0, help="chooses the sample")
    options = parser.parse_args(arguments)
    if not options.input.is_file():
        parser.error(f"--input={options.input}: there is no such file")
    try:
        count = train_sentencepiece(
            _read_lines(options.input),
            options.vocab_size,
            options.output,
            model_type=options.model_type,
            max_captions=options.max_captions,
            seed=options.seed,
        )
    except ValueError as error:
        print(f"error: {options.input}: {error}", file=sys.stderr)
        return BAD_DATA
    except OSError as error:
        parser.error(str(error))  # names the file
    print(f"{options.output}: {options.vocab_size} ids, learned from {count} captions")
    return OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.run_command(_command, arguments)


def _count(minimum: int):
    def integer(text: str) -> int:
        if (value := int(text)) < minimum:
            raise argparse.ArgumentTypeError(f"{value} is below {minimum}")
        return value

    return integer


def _read_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"line {number} is not UTF-8 ({error.reason})") from None


if __name__ == "__main__":
    sys.exit(main())
