"""The benchmarks of a step and of encoding, as users run them."""

import json

import pytest

from clip_jax import benchmark
from clip_jax.analysis import trace

TINY = (
    "--config=configs/vit_b32.py", "--config.model.variant=ViT-Test/8",
    "--config.model.dtype=float32", "--config.train.batch_size=8", "--rounds=2",
)  # fmt: skip


@pytest.mark.slow
def test_alone(monkeypatch, root, tmp_path, capsys):
    monkeypatch.chdir(root)
    path = tmp_path / "step.json"
    for more in ([], [f"--compare={path}", "--profile"]):
        assert benchmark.main(["step", *TINY, f"--json={path}", *more]) == 0
    said = capsys.readouterr().out
    assert "pairs/s" in said and "layers unrolled, nothing recomputed" in said
    assert "times as fast as in python -m clip_jax.benchmark step --config=" in said
    (result,) = json.loads(path.read_text())["results"]
    assert result["clip_jax"]["seconds"] > 0 and len(result["clip_jax"]["all"]) == 2
    assert result["clip_jax"]["peak_bytes"] > 2**20
    kernels = result["clip_jax"]["kernels"]
    assert kernels["products"] > 0 and trace.REST in kernels
    assert f"kernels: {next(iter(kernels))} " in said


@pytest.mark.reference
@pytest.mark.parametrize("name", ["step", "encode"])
def test_in_turn_with_open_clip(monkeypatch, root, tmp_path, capsys, name):
    pytest.importorskip("open_clip")
    monkeypatch.chdir(root)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    path = tmp_path / "both.json"
    assert benchmark.main([name, *TINY, "--against=open_clip", f"--json={path}"]) == 0
    assert "clip_jax is " in capsys.readouterr().out
    for result in json.loads(path.read_text())["results"]:
        low, middle, high = result["ratio"]
        assert 0 < low <= middle <= high


@pytest.mark.reference
def test_several_devices_are_not_compared_with_one(monkeypatch, root, capsys):
    pytest.importorskip("open_clip")
    monkeypatch.chdir(root)  # the tests' own eight devices
    assert benchmark.main(["step", *TINY, "--against=open_clip"]) == 64
    assert "--against=open_clip measures one device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["step"], "the following arguments are required: --config"),
        (["step", "--config=configs/tiny.py"], "needs tokenizer.name=clip"),
        (["step", *TINY, "--captions=long"], "invalid choice: 'long'"),
        (["step", *TINY, "--round=3"], "overrides are written --config.key=value"),
        (["step", *TINY, "--rounds=0"], "--rounds and --calls must be 1 or more"),
        (["step", *TINY, "--json=/no/such/x.json"], "--json=/no/such/x.json: there is no folder"),
        (["encode", *TINY, "--compare=/no/x.json"], "--compare=/no/x.json: no such file"),
        (
            ["step", *TINY, "--against=open_clip", "--config.model.patch_dropout=0.5"],
            "model.patch_dropout=0.5 is not measured there; set 0",
        ),
        (["speed"], "invalid choice: 'speed'"),
        (["probe", "--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, root, capsys, flags, message):
    monkeypatch.chdir(root)
    assert benchmark.main(flags) == 64
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
