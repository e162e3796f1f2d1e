"""A run of the code before config keys were renamed: it resumes, and its model is read.

``run.tar.xz`` is its workdir after step 3 of 6: two micro-batches a step, bfloat16 Adam moments and
text parameters, moving average. It then went on undisturbed to ``END``.
"""

import json
import shutil

import numpy as np
import pytest

import clip_jax
from clip_jax import config as config_lib
from clip_jax.training import workdir

END = "539d43d1d52ac8e6bda91a501e4585e1"  # fingerprint of the state after step 6
# Code for a newer instruction set may fuse a multiplication and an addition that AVX2 does not.
FLAGS = (
    "--xla_backend_optimization_level=0 --xla_cpu_max_isa=AVX2 "
    "--xla_force_host_platform_device_count=1"
)


@pytest.fixture
def run(root, tmp_path):
    shutil.unpack_archive(root / "tests/goldens/old_run/run.tar.xz", tmp_path, filter="data")
    return tmp_path / "run"


def test_it_resumes_and_ends_at_the_same_state(run, trainer):
    before = (run / "config.json").read_bytes()
    assert {"pieces", "max_skipped"} <= json.loads(before)["train"].keys()
    code, output = trainer.run(
        run, config="tests/goldens/old_run/config.py", prefix=("env", f"XLA_FLAGS={FLAGS}")
    )
    assert code == 0, output
    assert f"resuming the run in {run} at step 3 of 6" in output
    assert (run / "config.json").read_bytes() == before
    result = json.loads((run / "result.json").read_bytes())
    assert (result["step"], result["state_fingerprint"]) == (6, END)


def test_its_config_in_todays_names(run, root):
    stored = json.loads((run / "config.json").read_bytes())
    path = str(root / "tests/goldens/old_run/config.py")
    today = config_lib.load(path)
    assert config_lib.with_defaults(stored) == json.loads(config_lib.to_json(today))
    workdir.check_config(run, today)
    with pytest.raises(workdir.Mismatch, match=r"optim.moment_dtype: 'bfloat16' \(this run\) ->"):
        workdir.check_config(run, config_lib.load(path, [("optim.moment_dtype", "float32")]))


def test_its_model_is_read(run):
    clip = clip_jax.load(run)
    assert clip.encode_text("red above blue").shape == (1, 16)
    assert clip.encode_image(np.zeros((16, 16, 3), np.uint8)).shape == (1, 16)
