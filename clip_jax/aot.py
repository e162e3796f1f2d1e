"""Compiles the train step for machines that are not there: does it fit, and how fast can it be?

python -m clip_jax.aot --config=configs/vit_b32.py --topology=v5e:16x16

For TPUs (v4, v5e, v5p, v6e, tpu7x; two slices: v5e:16x16*2) and GPUs (a100:8, h100:8, h200:8,
b200:8) the real compiler runs on this machine's CPU, which needs the extra ``tpu`` or ``gpu``.
``--topology=cpu:8`` compiles for 8 emulated devices. Of a config with ``train.stages`` the step of
every stage is compiled, and all must fit.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from clip_jax import cli
from clip_jax import config as config_lib
from clip_jax.runtime.distributed import MISMATCH, OK


def parse(arguments: list[str]) -> tuple[config_lib.ConfigDict, argparse.Namespace]:
    """The config and the flags of a command line.

    Raises:
      ConfigError: a flag, key or value that is not legal.
    """
    parser = cli.Parser("aot", __doc__)
    parser.add_argument("--config", required=True, help="Python file with get_config()")
    parser.add_argument(
        "--topology", required=True, help="v5e:16x16, v5e:16x16*2, h100:8, cpu:8, ..."
    )
    parser.add_argument(
        "--search-batch", action="store_true", help="find the largest that fits, to an eighth"
    )
    parser.add_argument(
        "--search-plan", action="store_true",
        help="try every way to compute the step; with --search-batch each at its largest batch",
    )  # fmt: skip
    parser.add_argument(
        "--stage", type=int, help="of a config with train.stages: one of them, from 1; else all"
    )
    parser.add_argument("--json", help="file to write the report to")
    flags, rest = parser.parse_known_args(arguments)
    if flags.json and not Path(flags.json).parent.is_dir():
        raise config_lib.ConfigError(f"--json={flags.json}: there is no folder of that name")
    config = config_lib.load(flags.config, config_lib.overrides(rest))
    if flags.stage is not None:
        config_lib.stage_config(config, flags.stage - 1)  # complains where there is none
    return config, flags


def prepare_environment() -> None:
    """Tells libtpu, before its first use, that there is no TPU and no cloud around it: it would
    ask the metadata server, and lock out a second process.
    """
    os.environ.update(
        JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1",
        TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE="v5litepod-8",
        TF_CPP_MIN_LOG_LEVEL="3", TPU_MIN_LOG_LEVEL="3",
    )  # fmt: skip


def _command(arguments: list[str]) -> int:
    # They import jax, which reads the environment.
    from clip_jax.analysis import chips
    from clip_jax.compiled import report, search, step

    with cli.user_values():
        config, flags = parse(arguments)
        devices, chip = chips.devices_of(flags.topology)
        target = step.Target(flags.topology, devices, chip)
        if chip is None and (flags.search_batch or flags.search_plan):
            name = "--search-batch" if flags.search_batch else "--search-plan"
            raise config_lib.ConfigError(
                f"{name} needs a topology of TPUs or GPUs: a CPU's memory has no bound here"
            )
        count = len(config.train.stages) or 1
        chosen = range(1, count + 1) if flags.stage is None else [flags.stage]
        found = []
        for number in chosen:
            if count > 1:
                print(f"stage {number} of {count}")
            own = config_lib.stage_config(config, number - 1)
            if flags.search_plan:
                best = search.fastest_plan(own, target, flags.search_batch)
            elif flags.search_batch:
                best = search.largest_batch(own, target)
            else:
                best = step.compile_step(own, target)
            if best is None:
                print("nothing that was tried fits", file=sys.stderr)
                found.append({"topology": flags.topology, "stage": number, "fits": False})
            else:
                print(report.table(best), flush=True)
                found.append({**report.as_dict(best), "stage": number})
    fits = all(fields["fits"] for fields in found)
    if flags.json:
        fields = found[0] if len(found) == 1 else {"fits": fits, "stages": found}
        Path(flags.json).write_text(json.dumps(fields, indent=2) + "\n")
    return OK if fits else MISMATCH


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; the exit code is 78 where the step does not fit."""
    prepare_environment()
    return cli.run_command(_command, arguments)


if __name__ == "__main__":
    sys.exit(main())
