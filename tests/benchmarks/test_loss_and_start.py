"""The benchmarks of the loss and of a launch: what they print and write, not how fast it is."""

import json

import pytest

from clip_jax import benchmark
from clip_jax.benchmarks import start


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_every_implementation_of_a_loss_is_measured(loss, tmp_path, capsys):
    path = tmp_path / "loss.json"
    code = benchmark.main(["loss", f"--loss={loss}", "--batch=64", "--embed-dim=16", "--rounds=3",
                           "--dtype=bfloat16", f"--json={path}"])  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0, printed
    results = json.loads(path.read_text())["results"]
    assert set(results) == {"dense", "all_gather", "ring", "auto"}
    for name in ("dense", "all_gather", "ring"):
        assert len(results[name]["all"]) == 3 and min(results[name]["all"]) > 0
        assert f"{loss}, {name}" in printed
    assert "loss.implementation=auto would be all_gather" in printed


def test_a_matrix_that_would_not_fit_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr("clip_jax.benchmarks.loss._DENSE_BYTES", 4 * 64**2 - 1)
    assert benchmark.main(["loss", "--batch=64", "--embed-dim=16", "--rounds=1"]) == 0
    printed = capsys.readouterr().out
    assert "dense: its 0 GiB of logits are left out" in printed
    assert "softmax, dense" not in printed


@pytest.mark.parametrize("flags, message", [
    (["loss", "--batch=12"], "--batch=12 is not a multiple of the 8 devices here"),
    (["loss", "--rounds=0"], "--batch, --embed-dim and --rounds must be 1 or more"),
    (["start", "--config=configs/tiny.py", "--rounds=0"], "--rounds=0 must be 1 or more"),
    (["start", "--config=configs/tiny.py", "--json=/nowhere/x"], "no folder of that name"),
    (["start", "--config=configs/tiny.py", "--config.modle.dtype=x"], "modle"),
])  # fmt: skip
def test_what_cannot_be_measured_is_one_line(flags, message, capsys, monkeypatch, root):
    monkeypatch.chdir(root)
    assert benchmark.main(flags) == 64
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_launch_is_measured_up_to_its_first_step(tmp_path, capsys, monkeypatch, root):
    monkeypatch.chdir(root)
    path = tmp_path / "start.json"
    code = benchmark.main(["start", "--config=configs/tiny.py", "--rounds=1", f"--json={path}"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    results = json.loads(path.read_text())["results"]
    for name in ("empty", "full"):
        parts = {k: v[1] for k, v in results[name].items()}
        total = parts.pop("all")
        assert list(parts) == ["imports and devices", "data, model and state", "first step"]
        assert sum(parts.values()) == pytest.approx(total)
        assert min(parts.values()) > 0
        assert f"{name} cache: first step after {total:.1f} s" in printed


def test_a_launch_that_fails_says_why(tmp_path, monkeypatch, root):
    monkeypatch.chdir(root)
    with pytest.raises(RuntimeError, match=r"ended before its first step:(.|\n)*no such file"):
        start.launch("configs/vit_b32.py", ["--config.data.path=/nowhere/*.tar"], tmp_path)
