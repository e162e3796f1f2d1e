"""The ahead-of-time compiler's command: on emulated CPUs always, on TPUs where libtpu is."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from clip_jax import aot


def run(root, *flags, timeout=500):
    process = subprocess.run(
        [sys.executable, "-m", "clip_jax.aot", *flags], cwd=root, text=True, timeout=timeout,
        capture_output=True, env=os.environ | {"XLA_FLAGS": ""},
    )  # fmt: skip
    return process.returncode, process.stdout, process.stderr


def test_emulated_devices(root, tmp_path):
    path = tmp_path / "report.json"
    code, out, err = run(root, "--config=configs/tiny.py", "--topology=cpu:8", f"--json={path}",
                         "--config.mesh.fsdp=2")  # fmt: skip
    assert code == 0, err
    assert "cpu:8: 8 devices (data 4, fsdp 2), batch 32" in out
    assert "softmax, all_gather (" in out and "all-gather" in out
    report = json.loads(path.read_text())
    assert report["fits"] and report["devices"] == 8 and report["received"] > 0
    memory = report["memory"]
    assert memory["total"] == (
        memory["arguments"] + memory["outputs"] - memory["aliased"] + memory["temporaries"]
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--topology=v5e",), "is not of the form v5e:16x16 or cpu:8"),
        (("--topology=v9:2x2",), "'v9' is not of"),
        (("--topology=cpu:8", "--config.train.batch_size=33"), "train.batch_size=33"),
        (("--topology=cpu:8", "--config.mesh.slices=2"), "set mesh.slices=1"),
        (("--topology=cpu:8", "--config.mesh.fsdp=3"), "not a multiple of 3"),
        (("--topology=cpu:8", "--config.train.pieces=3"), "train.pieces=3 does not divide"),
        (("--topology=cpu:8", "--config.loss.name=sigmoid"), "needs model.logit_bias=True"),
        (("--topology=cpu:8", "--search-batch"), "--search-batch needs a TPU topology"),
        (("--topology=cpu:8", "--batch=3"), "overrides are written --config.key=value"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, capsys, root, flags, message):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(aot, "devices_of", _emulated(aot.devices_of))
    assert aot.main([f"--config={root}/configs/tiny.py", *flags]) == 64
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def _emulated(original):
    def devices_of(topology):
        import jax

        # The tests' own 8 devices: their number cannot be changed any more.
        return (jax.devices(), None) if topology == "cpu:8" else original(topology)

    return devices_of


def report(**changes):
    r = aot.Report(
        "v5e:2x2", 4, {"data": 4, "fsdp": 1, "tensor": 1, "slices": 1}, 64, "softmax, ring (x)",
        dict(arguments=1, outputs=1, temporaries=2 * 2**30, aliased=1, total=2 * 2**30 + 1),
        16 * 2**30, True, "", 10**12, 0.005, 0.010, 10**6,
        [dict(kind="all-gather", shape="f32[8]", devices=4, count=2, received=10**6)], 3.0,
    )  # fmt: skip
    return dataclasses.replace(r, **changes)


def test_what_people_see():
    text = aot.table(report())
    for part in ("v5e:2x2: 4 devices (data 4), batch 64", "fits: 2.00 GiB of 16.00 GiB",
                 "10.0 ms", "(arithmetic 5.0, links 10.0): MFU at most 50%",
                 "all-gather              2 x f32[8]"):  # fmt: skip
        assert part in text, text
    text = aot.table(report(fits=False, problem="Ran out of memory in hbm"))
    assert "does not fit: Ran out of memory in hbm" in text and "MFU" not in text


def test_the_search_doubles_until_it_does_not_fit(monkeypatch, capsys):
    from clip_jax import config as config_lib

    def compile_step(config, *_):
        batch = config.train.batch_size
        return report(batch=batch, fits=batch <= 100)

    monkeypatch.setattr(aot, "compile_step", compile_step)
    import jax

    config = config_lib.defaults()
    found = aot.largest_batch(config, "v5e:2x2", jax.devices(), None)
    assert found.batch == 64
    assert "batch 128: does not fit" in capsys.readouterr().out
    monkeypatch.setattr(aot, "compile_step", lambda c, *_: report(fits=False))
    assert aot.largest_batch(config, "v5e:2x2", jax.devices(), None) is None


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
import jax, jax.numpy as jnp
from clip_jax import aot, compiled, losses
from clip_jax.mesh import batch_sharding, create_mesh
aot.prepare_environment()
devices, _ = aot.devices_of("v5e:16x16")
mesh = create_mesh({{"data": -1}}, devices)
loss = losses.build("softmax", "{implementation}", mesh, dtype="bfloat16")
rows = batch_sharding(mesh)
x = jax.ShapeDtypeStruct(({batch}, 512), jnp.bfloat16, sharding=rows)
s = jax.ShapeDtypeStruct((), jnp.float32)
gradients = jax.value_and_grad(lambda *a: loss(*a)[0], argnums=(0, 1, 2))
result = jax.jit(gradients).lower(x, x, s, s).compile()
found = compiled.collectives(result.as_text())
print(compiled.memory(result).temporaries, sum(c.received for c in found))
"""
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=root, text=True, capture_output=True, timeout=300,
        env=os.environ | {"XLA_FLAGS": ""},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    needed, moved = map(int, process.stdout.split())
    assert needed <= temporaries
    assert moved <= received
