"""The ahead-of-time compiler's command: on emulated CPUs always, on TPUs where libtpu is."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import types

import jax
import pytest

from clip_jax import aot
from clip_jax import config as config_lib
from clip_jax.analysis import chips
from clip_jax.benchmarks import recipes
from clip_jax.compiled import search
from clip_jax.compiled.report import Report, as_dict, table
from clip_jax.compiled.step import Target
from clip_jax.models.execution import REMAT_POLICIES


def run(root, *flags, timeout=500, xla_flags=""):
    process = subprocess.run(
        [sys.executable, "-m", "clip_jax.aot", *flags], cwd=root, text=True, timeout=timeout,
        capture_output=True, env=os.environ | {"XLA_FLAGS": xla_flags},
    )  # fmt: skip
    return process.returncode, process.stdout, process.stderr


def test_emulated_devices(root, tmp_path):
    path = tmp_path / "report.json"
    code, out, err = run(
        root, "--config=configs/tiny.py", "--topology=cpu:8", f"--json={path}",
        "--config.mesh.fsdp=2", "--config.model.vision.num_layers=1",
        "--config.model.text.num_layers=1", xla_flags="--xla_backend_optimization_level=0",
    )  # fmt: skip
    assert code == 0, err
    assert "cpu:8: 8 devices (data 4, fsdp 2), batch 32" in out
    assert "softmax, all_gather (" in out and "all-gather" in out
    report = json.loads(path.read_text())
    assert report["fits"] and report["devices"] == 8 and report["received"] > 0
    memory = report["memory"]
    assert memory["total"] == (
        memory["arguments"] + memory["outputs"] - memory["aliased"] + memory["temporaries"]
    )


@pytest.mark.parametrize("stage", [None, 2])
def test_every_stage_is_compiled_or_the_one_that_is_asked_for(monkeypatch, capsys, root, stage):
    compiled = []

    def compile_step(config, target):
        compiled.append((config.train.batch_size, config.train.stages))
        return report(batch=config.train.batch_size)

    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(chips, "devices_of", _emulated(chips.devices_of))
    monkeypatch.setattr("clip_jax.compiled.step.compile_step", compile_step)
    stages = [{"examples": 64}, {"examples": 64, "batch_size": 64}]
    flags = [f"--config={root}/configs/tiny.py", "--topology=cpu:8",
             "--config.train.examples=0", f"--config.train.stages={stages}"]  # fmt: skip
    assert aot.main(flags + ([f"--stage={stage}"] if stage else [])) == 0
    assert compiled == [(32, ()), (64, ())][1 if stage else 0 :]
    out = capsys.readouterr().out
    assert "stage 2 of 2" in out and ("stage 1 of 2" in out) == (stage is None)
    assert aot.main([*flags, "--stage=3"]) == 64
    assert "there is no stage 3: the config has 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--topology=v5e",), "is not of the form v5e:16x16, h100:8 or cpu:8"),
        (("--topology=v9:2x2",), "'v9' is not of"),
        (("--topology=v5e:0x4",), "is not of the form"),
        (("--topology=v5e:2x4*0",), "is not of the form"),
        (("--topology=cpu:0",), "is not of the form"),
        (("--topology=cpu:2x4",), "of CPUs give a number"),
        (("--topology=cpu:8*2",), "of CPUs give a number"),
        (("--topology=cpu:8", "--json=/no/such/report.json"), "there is no folder of that name"),
        (("--topology=cpu:8", "--config.train.batch_size=33"), "train.batch_size=33"),
        (("--topology=cpu:8", "--config.mesh.slices=2"), "set mesh.slices=1"),
        (("--topology=cpu:8", "--config.mesh.fsdp=3"), "not a multiple of 3"),
        (
            ("--topology=cpu:8", "--config.train.num_microbatches=3"),
            "train.num_microbatches=3 does not divide",
        ),
        (("--topology=cpu:8", "--config.loss.name=sigmoid"), "needs model.logit_bias=True"),
        (("--topology=cpu:8", "--search-batch"), "--search-batch needs a topology of TPUs or GPUs"),
        (("--topology=cpu:8", "--search-plan"), "--search-plan needs a topology of TPUs or GPUs"),
        (("--topology=h100:2x4",), "of H100s give a number, h100:8"),
        (("--topology=cpu:8", "--batch=3"), "overrides are written --config.key=value"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, capsys, root, flags, message):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(chips, "devices_of", _emulated(chips.devices_of))
    assert aot.main([f"--config={root}/configs/tiny.py", *flags]) == 64
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def _emulated(original):
    def devices_of(topology):
        # The tests' own 8 devices: their number cannot be changed any more.
        return (jax.devices(), None) if topology == "cpu:8" else original(topology)

    return devices_of


def report(**changes):
    r = Report(
        "v5e:2x2", 4, {"data": 4, "fsdp": 1, "tensor": 1, "slices": 1}, 64, "layers unrolled",
        "softmax, ring (x)",
        dict(arguments=1, outputs=1, temporaries=2 * 2**30, aliased=1, total=2 * 2**30 + 1),
        16 * 2**30, True, "", 10**12, 0, 0.005, 0.010, 10**6, 0,
        [dict(kind="all-gather", shape="f32[8]", devices=4, count=2, received=10**6)],
        [dict(kind="copy", shape="f32[8]", count=3, size=2 * 10**6)], 3.0,
    )  # fmt: skip
    return dataclasses.replace(r, **changes)


def test_what_people_see():
    text = table(report())
    for part in ("v5e:2x2: 4 devices (data 4), batch 64", "fits: 2.00 GiB of 16.00 GiB",
                 "10.0 ms", "(arithmetic 5.0, links 10.0): MFU at most 50%",
                 "all-gather              2 x f32[8]", "copied a step      2.0 MB"):  # fmt: skip
        assert part in text, text
    text = table(report(recomputed_flops=25 * 10**10))
    assert "and 25% more that are recomputed" in text and "MFU at most 40%" in text
    text = table(report(fits=False, problem="Ran out of memory in hbm"))
    assert "does not fit: Ran out of memory in hbm" in text and "MFU" not in text


@pytest.mark.parametrize("limit", [1, 8, 24, 100, 1000, 1024, 5000, 40000])
@pytest.mark.parametrize(("begin", "chunk", "pieces"), [(1024, 0, 1), (32768, 256, 4)])
def test_the_search_finds_the_largest_to_an_eighth(monkeypatch, limit, begin, chunk, pieces):
    tried = []

    def compile_step(config, _):
        tried.append(config.train.batch_size)
        return report(batch=tried[-1], fits=tried[-1] <= limit)

    monkeypatch.setattr(search, "compile_step", compile_step)
    config = config_lib.defaults()
    config.train.batch_size, config.train.num_microbatches, config.loss.chunk_size = (
        begin,
        pieces,
        chunk,
    )
    found = search.largest_batch(config, Target("v5e:2x2", jax.devices(), None))
    unit = chunk or 8 * pieces
    assert all(batch % unit == 0 for batch in tried)
    assert len(tried) == len(set(tried)) < 20
    if limit < unit:
        assert found is None and min(tried) == unit
    else:
        assert limit - max(unit, limit / 7) < found.batch <= limit
    assert config.train.batch_size == begin


@pytest.mark.parametrize("search_batch", [False, True])
def test_the_search_tries_every_plan_and_takes_the_fastest(monkeypatch, capsys, search_batch):
    tried = []

    def compile_step(config, _):
        m, batch = config.model, config.train.batch_size
        tried.append((m.scan_layers, m.remat_policy, m.attention))
        fits = m.remat_policy != "none" and batch <= 2000
        moves = [dict(kind="copy", shape="f32[8]", count=1, size=10 * m.scan_layers)]
        seconds = {"elementwise": 0.01, "mlp": 0.02}.get(m.remat_policy, 0.03)
        return report(batch=batch, fits=fits, execution=str(tried[-1]), moves=moves,
                      compute_seconds=seconds * batch, link_seconds=0.0)  # fmt: skip

    monkeypatch.setattr(search, "compile_step", compile_step)
    config = config_lib.defaults()
    config.train.batch_size = 64
    gpu = types.SimpleNamespace(platform="gpu")
    monkeypatch.setattr(search.mesh, "create_mesh", lambda *_: None)
    monkeypatch.setattr(search.mesh, "batch_shards", lambda _: 1)
    best = search.fastest_plan(config, Target("h100:1", [gpu], None), search_batch)
    assert {t[2] for t in tried} == {"cudnn", "xla"}
    assert {t[1] for t in tried} == {"none", *REMAT_POLICIES}
    assert best.execution == str((False, "elementwise", "cudnn"))
    assert (best.batch > 1000) == search_batch
    said = capsys.readouterr().out
    assert "does not fit" in said and "unrolled   elementwise   cudnn" in said
    assert config.model.scan_layers == "auto"


def test_a_report_of_nothing_has_no_figures():
    found = as_dict(report(fits=False, problem="Ran out of memory in hbm"))
    assert found["best_mfu"] is None and found["received"] is None and not found["fits"]
    assert as_dict(report())["best_mfu"] == 0.5
    text = table(report(between_slices=3 * 10**6))
    assert "from other slices  3.0 MB at most" in text


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs pip install '.[tpu]'"
)


@needs_libtpu
@pytest.mark.aot
@pytest.mark.parametrize("topology", ["v5e:4x4", "v4:2x2x4", "v5p:2x2x4", "v6e:4x4", "tpu7x:2x2x1"])
def test_every_generation_compiles(root, topology):
    code, out, err = run(
        root, "--config=configs/tiny.py", f"--topology={topology}", "--config.train.batch_size=256"
    )
    assert code == 0, err
    assert "fits" in out and "MFU at most" in out


@needs_libtpu
@pytest.mark.aot
def test_two_slices(root):
    flags = ("--config=configs/tiny.py", "--topology=v5e:2x4*2", "--config.train.batch_size=256")
    code, out, err = run(root, *flags, "--config.mesh.slices=2")
    assert code == 0, err
    assert "16 devices (data 16, slices 2)" in out
    assert "from other slices" in out
    code, _, err = run(root, *flags)
    assert code == 64 and "mesh.slices=1, but the 16 devices are 2 slice(s)" in err


# Bytes a chip (bf16, E = 512, 256 chips of v5e): implementation, batch, temporaries, received.
BOUNDS = [
    ("all_gather", 32768, 1 * 2**20, 66 * 2**20),
    ("ring", 32768, 1 * 2**20, 130 * 2**20),
    ("all_gather", 131072, 260 * 2**20, 264 * 2**20),
    ("ring", 131072, 1 * 2**20, 520 * 2**20),
    ("ring", 1048576, 1 * 2**20, 4160 * 2**20),
]


@needs_libtpu
@pytest.mark.aot
@pytest.mark.parametrize(("implementation", "batch", "temporaries", "received"), BOUNDS)
def test_the_loss_stays_small_on_256_chips(root, implementation, batch, temporaries, received):
    code = f"""
from clip_jax import aot
from clip_jax.analysis import hlo, chips
from clip_jax.benchmarks import recipes
aot.prepare_environment()
devices, _ = chips.devices_of("v5e:16x16")
result = recipes.bare_loss("{implementation}", devices, {batch})
collectives = hlo.collectives(result.as_text())
print(hlo.memory(result).temporaries, sum(c.received for c in collectives))
"""
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=root, text=True, capture_output=True, timeout=300,
        env=os.environ | {"XLA_FLAGS": ""},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    needed, moved = map(int, process.stdout.split())
    assert needed <= temporaries
    assert moved <= received
    assert moved >= 0.98 * recipes.loss_bytes(implementation, 256, batch // 256, 512, 2)


@needs_libtpu
@pytest.mark.aot
@pytest.mark.parametrize(("axis", "most"), [("data", 2.3), ("fsdp", 3.6)])
def test_what_travels_on_tpus_is_parameters_and_gradients(root, tmp_path, axis, most):
    """In bytes of float32 parameters (XLA may send some in half precision): an all-reduce of the
    gradients, or two gathers and a reduce-scatter. A tensor of activations is as much again."""
    path = tmp_path / "report.json"
    code, _, err = run(
        root, "--config=configs/tiny.py", "--topology=v5e:2x4", f"--json={path}",
        "--config.train.batch_size=2048", "--config.mesh.data=1", f"--config.mesh.{axis}=8",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(path.read_text())["collectives"]
    towers = sum(c["received"] for c in found if "[2048" not in c["shape"])
    parameters = 4 * 59_777 * 7 / 8
    assert 0.9 * parameters < towers < most * parameters, found
