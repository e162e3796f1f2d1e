"""Who reads the rows, and what a checkpoint says of the decoder."""

import io
import math

import jax
import numpy as np
import pytest
from PIL import Image

from clip_jax import config as config_lib
from clip_jax.config import ConfigError
from clip_jax.data.pairs.base import Example
from clip_jax.data.pairs.synthetic import SyntheticSource
from clip_jax.data.stream import input
from clip_jax.data.stream.batches import Readers


@pytest.mark.parametrize("backend, have, changes, workers, reason", [
    ("gpu", 16, {}, 15, "16 cores"),
    ("tpu", 4, {}, 3, "4 cores"),
    ("tpu", 208, {}, 32, "208 cores"),
    ("tpu", 208, {"workers": 100}, 100, "as data.workers says"),
    ("gpu", 3, {}, 0, "3 core(s)"),
    ("gpu", 16, {"cache_decoded": True}, 0, "decoded images are kept in memory"),
    ("cpu", 16, {}, 0, "the cores themselves train"),
    ("cpu", 16, {"workers": 5}, 5, "as data.workers says"),
    ("gpu", 16, {"workers": 0}, 0, "as data.workers says"),
])  # fmt: skip
def test_workers_by_device_and_cores(monkeypatch, backend, have, changes, workers, reason):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(input, "cores", lambda: (have, 2))
    data = config_lib.defaults().data
    data.update({"threads": 3, "prefetch": 4, **changes})
    readers, words = input.choose_readers(data)
    assert readers == Readers(threads=3, workers=workers, prefetch=4, processes=2)
    assert f"({reason}), decoder pillow" in words
    assert ("worker(s)" in words) == bool(workers)


# Of every process: its machine and its cores. (The first is this one.)
ALONE = [("me", 0, 16)]
SHARED = [("me", 0, 16)] * 4
DEALT = [("me", 4 * i, 4) for i in range(4)]
TWO_MACHINES = [("me", 0, 16), ("me", 0, 16), ("other", 0, 16), ("other", 0, 16)]


@pytest.mark.parametrize("processes, quota, want", [
    (ALONE, math.inf, (16, 1)), (SHARED, math.inf, (4, 4)), (DEALT, math.inf, (4, 4)),
    (TWO_MACHINES, math.inf, (8, 2)), (ALONE, 2.5, (2, 1)), (SHARED, 8, (2, 4)),
    (ALONE, 0.5, (1, 1)),
])  # fmt: skip
def test_processes_on_one_machine_share_its_cores(monkeypatch, processes, quota, want):
    monkeypatch.setattr(input, "_quota", lambda: quota)
    gathered = []

    def cores_of(machine, first, count):
        monkeypatch.setattr(input, "_machine", lambda: machine)
        monkeypatch.setattr(input, "usable_cores", lambda: set(range(first, first + count)))
        return input.cores()

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        input.multihost_utils, "process_allgather", lambda x: gathered.append(x) or x[None]
    )
    for each in processes:
        cores_of(*each)
    monkeypatch.setattr(input.multihost_utils, "process_allgather", lambda x: np.stack(gathered))
    assert cores_of(*processes[0]) == want


@pytest.mark.parametrize("text, want", [("max 100000\n", math.inf), ("250000 100000\n", 2.5)])
def test_a_containers_quota(monkeypatch, text, want):
    monkeypatch.setattr(input.Path, "read_text", lambda self: text)
    assert input._quota() == want


class Photos(SyntheticSource):
    """JPEGs, of which one is damaged, and one is as long as no crop can be."""

    def read(self, index, rng):
        if index == 0:
            return Example(b"no image", "a caption", 0)
        if index == 1:
            out = io.BytesIO()
            Image.new("RGB", (1, 65_000)).save(out, "JPEG")
            return Example(out.getvalue(), "a caption", 0)
        picture = np.random.default_rng(index).integers(0, 256, (9, 12, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(picture).resize((240, 180)).save(out, "JPEG")
        return Example(out.getvalue(), "a caption", index)


@pytest.mark.parametrize("decoder", ["pillow", "draft", "fast"])
def test_a_checkpoint_says_what_the_decoder_changed(decoder):
    config = config_lib.defaults()
    config.data.decoder = decoder
    made = [
        input.Input(config, Photos(20), lambda texts: [[0]], 32, np.arange(4)) for _ in range(2)
    ]
    assert made[0].metadata() == made[1].metadata()  # it is measured on the same images
    found = made[0].metadata().get("decoder")
    if decoder == "pillow":
        assert found is None
        assert "\n" not in made[0].describe()
        return
    assert (found["decoder"], found["images"]) == (decoder, 18)
    assert 0 < found["mean"] < 3
    assert set(found["versions"]) == {"pillow"} | (
        {"simplejpeg", "kornia-rs"} if decoder == "fast" else set()
    )
    assert f"\ndecoder {decoder} differs from pillow by " in made[0].describe()


def test_an_unknown_decoder_is_named():
    config = config_lib.defaults()
    config.data.decoder = "turbo"
    with pytest.raises(ConfigError, match=r"data.decoder='turbo' is not one of \['draft', 'fast'"):
        input.Input(config, SyntheticSource(20), lambda texts: [[0]], 32, np.arange(4))
