"""Measures this package: a train step, or the encoding of images or texts, when it is asked."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from clip_jax import config as config_lib
from clip_jax import tokenizers
from clip_jax.analysis import trace
from clip_jax.benchmarks import inputs, paired
from clip_jax.data.batch import Batch
from clip_jax.models import clip
from clip_jax.runtime import mesh as mesh_lib
from clip_jax.training import program, step, text_length


def _sizes(config: config_lib.ConfigDict) -> tokenizers.Tokenizer:
    return tokenizers.build("clip", config.tokenizer.context_length)


def _batch(
    task: paired.JsonDict, model: clip.ClipModel, mesh: jax.sharding.Mesh, length: int
) -> Batch:
    c, size = model.config, task["batch"]
    zeros = np.zeros(size, np.int32)
    host = Batch(
        inputs.images(size, c.vision.image_size),
        inputs.tokens(size, length, task["captions"]),
        np.arange(size, dtype=np.int32), zeros, zeros,
    )  # fmt: skip
    return mesh_lib.put_batch(mesh, host, size)


def _train(made: program.Program, batch: Batch, length: int) -> Callable[[], jax.Array]:
    state = made.create(0)

    def call() -> jax.Array:
        nonlocal state
        state, metrics = made.train_step(state, batch, length)
        return metrics["loss"]

    return call


def _encode(
    what: str, made: program.Program, mesh: jax.sharding.Mesh, batch: Batch, length: int
) -> Callable[[], jax.Array]:
    encode_images, encode_texts, _ = step.embed_steps(made.model, mesh)
    variables = made.create(0).eval_variables
    if what == "images":
        return lambda: encode_images(variables, batch.images)
    tokens = batch.tokens[:, :length]
    return lambda: encode_texts(variables, tokens)


def main(task: paired.JsonDict) -> None:
    """Serves one task: config, overrides, stage, what ("step", "images", "texts"), batch, captions,
    profile.
    """
    config = config_lib.stage_config(
        config_lib.load(task["config"], [*map(tuple, task["overrides"])]), task["stage"] - 1
    )
    mesh = mesh_lib.create_mesh(config.mesh)
    model = clip.build(config.model, _sizes(config))
    made = program.build(config, model, mesh)
    with jax.set_mesh(mesh):
        text, stepping = model.config.text, task["what"] == "step"
        most = text_length.longest(config, text) if stepping else text.context_length
        batch = _batch(task, model, mesh, most)
        length = min(most, text.static_length(int(text.longest(np.asarray(batch.tokens)))))
        if stepping:
            call = _train(made, batch, length)
        else:
            call = _encode(task["what"], made, mesh, batch, length)
        started = time.perf_counter()
        jax.block_until_ready(call())
        about = {
            "compile_seconds": time.perf_counter() - started,
            "execution": made.execution,
            "text_length": length,
            "devices": mesh.devices.size,
            "flops": program.step_flops(model, task["batch"], length) if stepping else 0,
            "peak": program.mesh_peak(mesh),
        }

        def calls(count: int) -> float:
            started = time.perf_counter()
            for _ in range(count):
                out = call()
            jax.block_until_ready(out)
            return time.perf_counter() - started

        def last() -> paired.JsonDict:
            return _memory() | (_kernels(calls) if task["profile"] else {})

        paired.serve(about, calls, last)


def _kernels(calls: Callable[[int], float], count: int = 2) -> paired.JsonDict:
    """Seconds a call by kind of kernel, summed over devices and threads."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            calls(count)
        seconds = trace.time_by_kind(Path(folder))
    return {"kernels": {kind: s / count for kind, s in seconds.items()}}


def _memory() -> paired.JsonDict:
    """Bytes at the peak: of the first device, or, on CPUs, of the process."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return {"peak_bytes": statistics["peak_bytes_in_use"]}
    import resource

    return {"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
