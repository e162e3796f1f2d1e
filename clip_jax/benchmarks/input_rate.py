"""How fast one's own data is read: images/s, where the time goes, the cores that a chip needs."""

import argparse
import dataclasses
import functools
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path

import numpy as np

from clip_jax import cli, tokenizers
from clip_jax import config as config_lib
from clip_jax.analysis.chips import CHIPS
from clip_jax.benchmarks import paired, photos
from clip_jax.benchmarks.rates import Method, compare
from clip_jax.data import decoders
from clip_jax.data.batch import Batch
from clip_jax.data.pairs import registry
from clip_jax.data.stream.batches import Readers, host_batches
from clip_jax.data.stream.input import usable_cores
from clip_jax.data.stream.order import generator
from clip_jax.data.stream.rows import RowReader
from clip_jax.models import clip, flops
from clip_jax.training import text_length

USEFUL = 0.5  # of a chip's peak: what a good train step reaches, to say what it takes in
BARE = "bare decoding"


def command(arguments: Sequence[str]) -> None:
    """The command ``benchmark input``."""
    parser = cli.Parser("benchmark input", __doc__)
    parser.add_argument("--config", required=True, help="Python file with get_config()")
    parser.add_argument("--stage", type=int, default=1, help="of a config with train.stages (1)")
    parser.add_argument("--rows", type=int, default=256, help="images of a batch (256)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=max(1, len(usable_cores()) - 1))
    parser.add_argument("--chip", choices=sorted(CHIPS), default="h100")
    parser.add_argument("--photos", type=_size, metavar="WIDTHxHEIGHT",
                        help="measure made-up photographs of this size")  # fmt: skip
    parser.add_argument("--json", help="file to write the results to")
    flags, rest = parser.parse_known_args(arguments)
    if min(flags.rows, flags.rounds, flags.workers) < 1:
        raise config_lib.ConfigError("--rows, --rounds and --workers must be 1 or more")
    paired.require_folder(flags.json)
    config = config_lib.load(flags.config, config_lib.overrides(rest))
    config = config_lib.stage_config(config, flags.stage - 1)
    with tempfile.TemporaryDirectory() as folder:
        if flags.photos:
            path = photos.write(Path(folder), *flags.photos)
            config.data.update(source="tar", path=path, image_key="jpg", caption_key="txt")
        results = measure(config, flags)
    paired.write_record(flags.json, "input", arguments, results)


def _size(text: str) -> tuple[int, int]:
    width, height = map(int, text.split("x"))
    if min(width, height) < 8:
        raise ValueError
    return width, height


def measure(config: config_lib.ConfigDict, flags: argparse.Namespace) -> paired.JsonDict:
    """Measures a config's input and prints what was found."""
    config.data.cache_decoded = False  # it is decoding that is measured
    tokenizer, image_size, needed = _model(config, flags.chip)
    source = registry.build(config.data)
    reader = RowReader(source, tokenizer, config.data, image_size, config.seed)
    have = len(usable_cores())
    print(f"{len(source):,} pairs, {image_size} px, batches of {flags.rows}, {have} cores")
    parts = time_by_part(reader, flags.rows)
    whole = sum(parts.values())
    print("one row: " + ", ".join(f"{k} {v / whole:.0%}" for k, v in parts.items()))
    images = _images(reader, flags.rows)
    methods = _methods(reader, config, images, flags)
    results = compare(methods, flags.rounds, "images", "of_bare_by_cpu")
    results |= {"parts": {k: v / whole for k, v in parts.items()}, "differences": {}}
    for name in decoders.DECODERS:
        if f"{BARE}, {name}" in results:
            found = decoders.difference(name, images[:32], image_size, config.data.resize)
            print(found)
            results["differences"][name] = dataclasses.asdict(found)
    if needed:
        rate = results[methods[-1].name]["images_per_cpu_second"]
        print(
            f"{flags.chip} at {USEFUL:.0%} of its peak takes {needed:,.0f} images/s of this model: "
            f"{needed / rate:,.1f} cores with data.workers and data.decoder={config.data.decoder}"
        )
        results["needed"] = {"chip": flags.chip, "images_per_second": needed,
                             "cores": needed / rate}  # fmt: skip
    return results


def _methods(
    reader: RowReader,
    config: config_lib.ConfigDict,
    images: Sequence[bytes | np.ndarray],
    flags: argparse.Namespace,
) -> list[Method]:
    """Everything that is measured; the last one is the workers' stream."""
    methods = [_bare(BARE, reader, images, 1)]
    for name, other in _other_decoders(reader, config).items():
        methods.append(_bare(f"{BARE}, {name}", other, images, 1))
    streams = dict.fromkeys((Readers(1), Readers(config.data.threads), Readers(1, flags.workers)))
    names = {}
    for readers in streams:
        count = readers.workers or readers.threads
        names[count] = BARE if count == 1 else f"{BARE}, {count} threads"
    methods += [_bare(name, reader, images, count) for count, name in names.items() if count > 1]
    return methods + [
        _loader(reader, readers, flags.rows, names[readers.workers or readers.threads])
        for readers in streams
    ]


def _model(config: config_lib.ConfigDict, chip: str) -> tuple[tokenizers.Tokenizer, int, float]:
    """The tokenizer, the image size, and the images/s that a chip takes; 0 where not known."""
    c = config.tokenizer
    name, model = c.name, c.model or None
    if name == "sentencepiece" and model is None:
        print("tokenizing with CLIP's: a run would train its own first")
        name = "clip"
    tokenizer = tokenizers.build(name, c.context_length, model)
    sizes = clip.resolve(config.model, tokenizer)
    length = text_length.longest(config, sizes.text)
    text = dataclasses.replace(sizes.text, context_length=length)
    cut = dataclasses.replace(sizes, text=text)
    needed = flops.training(cut, 1, config.model.patch_dropout)
    tokenizer = tokenizer.with_context_length(length)
    return tokenizer, sizes.vision.image_size, USEFUL * CHIPS[chip].flops / needed if needed else 0


def _images(reader: RowReader, count: int) -> list[bytes | np.ndarray]:
    """Images of the data, in memory."""
    found = []
    for position in range(2 * count):
        try:
            example = reader.source.read(reader.order(position), generator(0, 0, position))
            reader.decoder.decode(example.image, reader.image_size)
        except Exception:  # an unreadable record is not what is measured
            continue
        found.append(example.image)
        if len(found) == count:
            break
    return found


def _other_decoders(reader: RowReader, config: config_lib.ConfigDict) -> dict[str, RowReader]:
    """A reader for each other decoder that is installed."""
    others = {}
    for name in decoders.DECODERS:
        if name != config.data.decoder:
            data = config_lib.ConfigDict(config.data.to_dict() | {"decoder": name})
            try:
                others[name] = RowReader(
                    reader.source, reader.tokenizer, data, reader.image_size, reader.seed
                )
            except config_lib.ConfigError as error:
                print(error)
    return others


def _bare(
    name: str, reader: RowReader, images: Sequence[bytes | np.ndarray], threads: int
) -> Method:
    """Decodes and augments images in memory: the least that any loader has to do."""
    pool = futures.ThreadPoolExecutor(threads) if threads > 1 else None

    def one(data: bytes | np.ndarray) -> None:
        rng = np.random.default_rng(0)
        reader.augment(reader.decoder.decode(data, reader.image_size), reader.image_size, rng)

    def run() -> int:
        for _ in pool.map(one, images) if pool else map(one, images):
            pass
        return len(images)

    return Method(name, run, BARE if threads == 1 else name)


def time_by_part(reader: RowReader, rows: int) -> dict[str, float]:
    """CPU seconds of the parts of some rows, read in one thread."""
    parts = dict.fromkeys(("order", "read", "decode", "augment", "tokenize"), 0.0)
    for position in range(rows):
        try:
            times = [time.thread_time()]
            index = reader.order(position)
            rng = generator(reader.seed, 0, position)
            times.append(time.thread_time())
            example = reader.source.read(index, rng)
            times.append(time.thread_time())
            image = reader.decoder.decode(example.image, reader.image_size)
            times.append(time.thread_time())
            reader.augment(image, reader.image_size, rng)
            times.append(time.thread_time())
            reader.tokenizer([example.caption])
            times.append(time.thread_time())
        except Exception:  # an unreadable record is not what is measured
            continue
        for name, spent in zip(parts, np.diff(times), strict=True):
            parts[name] += float(spent)
    return parts


def _loader(reader: RowReader, readers: Readers, rows: int, reference: str) -> Method:
    """Takes batches from a stream, once those are gone that were made ahead."""
    stream: Iterator[Batch] = host_batches(
        reader, batch=rows, rows=np.arange(rows), first_step=0, steps=1 << 30, readers=readers
    )

    def take(batches: int) -> int:
        return sum(len(next(stream).groups) for _ in range(batches))

    name = f"{readers.workers} worker(s)" if readers.workers else f"{readers.threads} thread(s)"
    ahead = readers.prefetch + 2
    return Method(name, functools.partial(take, 4), reference, functools.partial(take, ahead))
