"""Measurements to be repeated: python -m clip_jax.benchmark NAME

step, encode: how fast a train step or the encoding is here, alone or beside open_clip; with flags
    of their own (--help) and --config.
loss: how fast each implementation of a loss is on the devices here.
start: how long a launch takes until its first step, with --config.
input: how fast images are read and decoded, where the time goes, and how many cores a chip needs;
    with --config, the data being one's own.
read: how fast records of tar shards are read in random order, beside webdataset's stream.
tokenize: how fast captions are tokenized, beside open_clip.

baselines: cheap methods on the quickstart's zero-shot tasks; needs the extra benchmark.
probe: the linear probe's sweep against scikit-learn's; likewise, and minutes.
fits: what the paper's recipes need on TPU pods; needs the extra tpu, and an hour.
fits-gpus: what they need on eight GPUs; needs the extra gpu, and ten minutes.
scaling: what a chip does as chips are added; likewise, a quarter of an hour.
attention: what attention moves on a TPU, by XLA and by a Pallas kernel; likewise, a minute.
"""

import functools
import sys

from clip_jax import cli
from clip_jax.config.checks import registry
from clip_jax.runtime.distributed import OK

# Name -> "module:function" of the arguments. Imported when it is asked for: some prepare the
# environment that jax reads when it is imported.
BENCHMARKS: dict[str, str] = {
    name: f"clip_jax.benchmarks.{function}"
    for name, function in {
        "step": "speed:step",
        "encode": "speed:encode",
        "loss": "loss:command",
        "start": "start:command",
        "input": "input_rate:command",
        "read": "reading:command",
        "tokenize": "tokenizing:command",
        "baselines": "baselines:command",
        "probe": "linear_probe:command",
        "fits": "recipes:fits_command",
        "fits-gpus": "recipes:fits_gpus_command",
        "scaling": "recipes:scaling_command",
        "attention": "recipes:attention_command",
    }.items()
}


def _command(arguments: list[str]) -> int:
    parser = cli.Parser("benchmark", __doc__)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    registry(BENCHMARKS[parser.parse_args(arguments[:1]).name])(arguments[1:])
    return OK


main = functools.partial(cli.run_command, _command)


if __name__ == "__main__":
    sys.exit(main())
