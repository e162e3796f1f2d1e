"""The folder of a run: its lock and what it refuses."""

import json
import subprocess
import sys
import types

import pytest

from clip_jax import config as config_lib
from clip_jax.data import transforms
from clip_jax.data.pairs.synthetic import SyntheticSource
from clip_jax.training import workdir


def test_the_lock_excludes_and_goes_with_its_process(tmp_path):
    code = (
        "import pathlib, sys, time; from clip_jax.training import workdir\n"
        "with workdir.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(workdir.WorkdirInUse, match="is being used"), workdir.locked(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with workdir.locked(tmp_path):
        pass


def test_a_changed_config_is_listed(tmp_path):
    config = config_lib.defaults()
    workdir.check_config(tmp_path, config)
    workdir.write_json(tmp_path / "config.json", config.to_dict())
    workdir.check_config(tmp_path, config)
    config.seed = 5
    with pytest.raises(workdir.Mismatch, match=r"seed: 0 \(this run\) -> 5 \(given\)"):
        workdir.check_config(tmp_path, config)


def test_changed_data_is_refused(tmp_path):
    workdir.check_metadata(
        tmp_path, {"data fingerprint": "a", "step": 3}, {"data fingerprint": "a"}
    )
    with pytest.raises(workdir.Mismatch, match="data fingerprint was a .* and is b now"):
        workdir.check_metadata(tmp_path, {"data fingerprint": "a"}, {"data fingerprint": "b"})


@pytest.fixture
def tokenizer_of(tmp_path):
    """Vocabulary and tokenizer.model of a launch in the test's folder."""

    def build(size=400, **changes):
        config = config_lib.load("configs/tiny.py")
        with config.unlocked():
            config.update_from_flattened_dict(changes)
        tokenizer = workdir.build_tokenizer(config, tmp_path, SyntheticSource(size))
        return tokenizer.vocab_size, (tmp_path / "tokenizer.model").stat().st_mtime_ns

    return build


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"tokenizer.vocab_size": 30}, 30),
        ({"size": 300}, 32),
        ({"seed": 5}, 32),
    ],
)
def test_a_tokenizer_of_a_launch_that_failed_is_not_used_for_another(
    root, monkeypatch, tokenizer_of, changes, size
):
    monkeypatch.chdir(root)
    first = tokenizer_of()
    assert first[0] == 32
    assert tokenizer_of() == first
    found = tokenizer_of(**changes)
    assert found[0] == size
    assert found[1] > first[1]
    assert tokenizer_of(**changes) == found


def test_a_run_that_has_begun_keeps_its_tokenizer(root, monkeypatch, tokenizer_of, tmp_path):
    monkeypatch.chdir(root)
    first = tokenizer_of()
    workdir.write_json(tmp_path / "config.json", {})
    assert tokenizer_of() == first
    with pytest.raises(workdir.Mismatch, match="data fingerprint was"):
        tokenizer_of(300)
    (tmp_path / "tokenizer.model").write_bytes(b"other")
    with pytest.raises(workdir.Mismatch, match="sha256 of tokenizer.model was"):
        tokenizer_of()


def test_changed_preprocessing_is_refused(tmp_path):
    tokenizer = types.SimpleNamespace(fingerprint="same")

    def metadata(**changes):
        usual = {"image_size": 16, "resize": "shortest", "mean": (0.5,) * 3, "std": (0.5,) * 3}
        return workdir.model_metadata(transforms.evaluation(**usual | changes), tokenizer)

    stored = metadata()
    workdir.check_metadata(tmp_path, stored, metadata())
    for changes in ({"image_size": 24}, {"mean": (0.4, 0.5, 0.5)}, {"resize": "squash"}):
        with pytest.raises(workdir.Mismatch, match='preprocessing was .*"image_size": 16'):
            workdir.check_metadata(tmp_path, stored, metadata(**changes))


def test_json_is_readable(tmp_path):
    workdir.write_json(tmp_path / "x.json", {"b": 1, "a": [2]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [2], "b": 1}


@pytest.fixture
def second_of_two(monkeypatch):
    """This process as the second of two; the first has done its part."""
    monkeypatch.setattr(workdir.jax, "process_count", lambda: 2)
    for name, value in {
        "is_lead": lambda: False, "broadcast_from_lead": lambda n: 7, "barrier": lambda name: None,
        "all_hosts": lambda ok: ok,
    }.items():  # fmt: skip
        monkeypatch.setattr(workdir.distributed, name, value)


def test_a_shared_folder_is_found_shared(tmp_path, second_of_two):
    (tmp_path / ".shared-7").touch()
    workdir.check_shared(tmp_path)


def test_a_folder_of_ones_own_is_refused(tmp_path, second_of_two):
    with pytest.raises(ValueError, match="not one folder for all 2 processes: this process does"):
        workdir.check_shared(tmp_path, patience=0.3)
