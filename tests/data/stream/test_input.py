"""Who reads the rows, and what a checkpoint says of the decoder."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from clip_jax import config as config_lib
from clip_jax.config import ConfigError
from clip_jax.data.pairs.base import Example
from clip_jax.data.pairs.synthetic import SyntheticSource
from clip_jax.data.stream import input


@pytest.mark.parametrize("backend, have, changes, workers, reason", [
    ("gpu", 16, {}, 15, "16 cores"),
    ("tpu", 4, {}, 3, "4 cores"),
    ("gpu", 3, {}, 0, "3 core(s)"),
    ("gpu", 16, {"cache_decoded": True}, 0, "decoded images are kept in memory"),
    ("cpu", 16, {}, 0, "the cores themselves train"),
    ("cpu", 16, {"workers": 5}, 5, "as data.workers says"),
    ("gpu", 16, {"workers": 0}, 0, "as data.workers says"),
])  # fmt: skip
def test_workers_by_device_and_cores(monkeypatch, backend, have, changes, workers, reason):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(input, "cores", lambda: have)
    data = config_lib.defaults().data
    data.update({"threads": 3, "prefetch": 4, **changes})
    readers, words = input.choose_readers(data)
    assert (readers.threads, readers.workers, readers.prefetch) == (3, workers, 4)
    assert f"({reason}), decoder pillow" in words
    assert ("worker process" in words) == bool(workers)


@pytest.mark.parametrize("hosts, want", [(["me"] * 8, 2), (["me", "other"] * 2, 8), (["me"], 16)])
def test_processes_on_one_machine_share_its_cores(monkeypatch, hosts, want):
    monkeypatch.setattr(input.os, "sched_getaffinity", lambda pid: range(16), raising=False)
    monkeypatch.setattr(input.socket, "gethostname", lambda: "me")
    monkeypatch.setattr(jax, "process_count", lambda: len(hosts))
    names = np.stack([np.frombuffer(h.encode().ljust(64), np.uint8) for h in hosts])
    monkeypatch.setattr(input.multihost_utils, "process_allgather", lambda x: names)
    assert input.cores() == want


class Photos(SyntheticSource):
    """JPEGs, one of which is damaged."""

    def read(self, index, rng):
        if index == 0:
            return Example(b"no image", "a caption", 0)
        picture = np.random.default_rng(index).integers(0, 256, (9, 12, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(picture).resize((120, 90)).save(out, "JPEG")
        return Example(out.getvalue(), "a caption", index)


@pytest.mark.parametrize("decoder", ["pillow", "draft", "fast"])
def test_a_checkpoint_says_what_the_decoder_changed(decoder):
    config = config_lib.defaults()
    config.data.decoder = decoder
    made = [
        input.Input(config, Photos(20), lambda texts: [[0]], 16, np.arange(4)) for _ in range(2)
    ]
    assert made[0].metadata() == made[1].metadata()  # it is measured on the same images
    found = made[0].metadata().get("decoder")
    if decoder == "pillow":
        assert found is None
        assert "\n" not in made[0].describe()
        return
    assert (found["decoder"], found["images"]) == (decoder, 19)
    assert 0 < found["mean"] < 3
    assert set(found["versions"]) == {"pillow"} | (
        {"simplejpeg", "kornia-rs"} if decoder == "fast" else set()
    )
    assert f"\ndecoder {decoder} differs from pillow by " in made[0].describe()


def test_an_unknown_decoder_is_named():
    config = config_lib.defaults()
    config.data.decoder = "turbo"
    with pytest.raises(ConfigError, match=r"data.decoder='turbo' is not one of \['draft', 'fast'"):
        input.Input(config, SyntheticSource(20), lambda texts: [[0]], 16, np.arange(4))
