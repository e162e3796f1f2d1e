"""Train steps compiled for GPUs that are not there: what they may need, copy and gather."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs pip install '.[gpu]'"
    ),
]
VIT_B32 = 151_277_313  # parameters


@pytest.fixture(scope="module")
def compiled(root, tmp_path_factory):
    """Compiles by the command line, and returns the report."""

    def run(config, topology, *overrides):
        path = tmp_path_factory.mktemp("aot") / "report.json"
        process = subprocess.run(
            [sys.executable, "-m", "clip_jax.aot", f"--config=configs/{config}.py",
             f"--topology={topology}", f"--json={path}", *(f"--config.{o}" for o in overrides)],
            cwd=root, text=True, timeout=900, capture_output=True,
            env=os.environ | {"XLA_FLAGS": ""},
        )  # fmt: skip
        assert process.returncode == 0, process.stderr[-2000:]
        return json.loads(path.read_text())

    return run


def stacked(report):
    """Bytes that are copied or put into larger arrays, but for what each step does once."""
    return sum(m["size"] for m in report["moves"] if m["size"] > 16 * 2**20)


def received(report, kind):
    return sum(c["received"] for c in report["collectives"] if c["kind"] == kind)


def test_vit_b32_recomputes_and_copies_nothing(compiled):
    """A loop over the layers would move 30 GB of stacks, and did need 67 GB."""
    r = compiled("vit_b32", "h100:1", "train.batch_size=1024")
    assert "layers unrolled, nothing recomputed, cudnn attention" in r["execution"]
    assert r["memory"]["temporaries"] <= 30e9
    assert stacked(r) == 0


def test_a_loop_over_the_layers_stacks_no_wider_copies(compiled):
    r = compiled("vit_b32", "h100:1", "train.batch_size=1024", "model.scan_layers=True")
    assert r["memory"]["temporaries"] <= 32e9
    updates = [m for m in r["moves"] if m["kind"] == "dynamic-update-slice"]
    assert updates and not [m for m in updates if m["shape"].startswith("f32") and m["size"] > 2e8]


def test_vit_l14_fits_at_the_plan_that_is_chosen(compiled):
    r = compiled("vit_l14", "h100:1", "train.batch_size=256")
    assert r["fits"] and r["memory"]["total"] <= 80e9 and stacked(r) == 0
    assert "nothing recomputed" in r["execution"]


@pytest.mark.parametrize("axis", ["data", "fsdp"])
def test_eight_gpus(compiled, axis):
    """Beside one GPU's memory that of sums of gradients under way."""
    sizes = ("mesh.data=1", "mesh.fsdp=8") if axis == "fsdp" else ()
    r = compiled("vit_b32", "h100:8", "train.batch_size=8192", *sizes)
    assert r["memory"]["temporaries"] <= 36e9
    assert sum(m["size"] for m in r["moves"]) <= 0.2e9  # of layouts of weights, with fsdp
    embeddings = 2 * 8192 * 512 * 2 * 7 / 8  # of both towers in bfloat16
    gathered, summed = received(r, "all-gather"), received(r, "all-reduce")
    if axis == "data":
        assert gathered <= 1.1 * embeddings and summed <= 2 * 4 * VIT_B32
    else:  # every weight twice in bfloat16
        assert gathered <= embeddings + 1.05 * 2 * 2 * VIT_B32 and summed <= 2e6
