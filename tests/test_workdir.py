"""The folder of a run: its lock and what it refuses."""

import json
import subprocess
import sys

import pytest

from clip_jax import config as config_lib
from clip_jax import workdir


def test_the_lock_excludes_and_goes_with_its_process(tmp_path):
    code = (
        "import pathlib, sys, time; from clip_jax import workdir\n"
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
    workdir.check_facts(tmp_path, {"data fingerprint": "a", "step": 3}, {"data fingerprint": "a"})
    with pytest.raises(workdir.Mismatch, match="data fingerprint was a .* and is b now"):
        workdir.check_facts(tmp_path, {"data fingerprint": "a"}, {"data fingerprint": "b"})


def test_json_is_readable(tmp_path):
    workdir.write_json(tmp_path / "x.json", {"b": 1, "a": [2]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [2], "b": 1}


@pytest.fixture
def second_of_two(monkeypatch):
    """This process as the second of two; the first has done its part."""
    monkeypatch.setattr(workdir.jax, "process_count", lambda: 2)
    for name, value in {
        "is_lead": lambda: False, "from_lead": lambda n: 7, "barrier": lambda name: None,
        "agree": lambda ok: ok,
    }.items():  # fmt: skip
        monkeypatch.setattr(workdir.distributed, name, value)


def test_a_shared_folder_is_found_shared(tmp_path, second_of_two):
    (tmp_path / ".shared-7").touch()
    workdir.check_shared(tmp_path)


def test_a_folder_of_ones_own_is_refused(tmp_path, second_of_two):
    with pytest.raises(ValueError, match="not one folder for all 2 processes: this process does"):
        workdir.check_shared(tmp_path, patience=0.3)
