"""The benchmark of the input: what it prints and writes, not how fast it is."""

import io
import json
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from clip_jax import benchmark
from clip_jax import config as config_lib
from clip_jax.benchmarks import photos, rates
from clip_jax.data.pairs import registry


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards") / "0.tar"
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for i in range(20):
            out = io.BytesIO()
            picture = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
            picture.resize((130, 100)).save(out, "JPEG")
            image = b"no image" if i == 3 else out.getvalue()
            for ending, data in (("jpg", image), ("txt", b"a photo")):
                info = tarfile.TarInfo(f"{i:03}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def flags(root, shard):
    return ["input", f"--config={root / 'configs' / 'vit_b32.py'}", "--config.data.source=tar",
            f"--config.data.path={shard}", "--config.data.image_key=jpg",
            "--config.data.caption_key=txt", "--config.data.threads=2",
            "--config.model.vision.image_size=32"]  # fmt: skip


def test_it_says_where_the_time_goes_and_what_a_chip_needs(root, shard, tmp_path, capsys):
    code = benchmark.main([*flags(root, shard), "--rows=8", "--rounds=2", "--workers=1",
                           "--chip=a100", f"--json={tmp_path / 'input.json'}"])  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0, printed
    record = json.loads((tmp_path / "input.json").read_text())
    results = record["results"]
    assert sum(results["parts"].values()) == pytest.approx(1)
    assert set(results["parts"]) == {"order", "read", "decode", "augment", "tokenize"}
    bare = ("bare decoding", *(f"bare decoding, {x}" for x in ("draft", "fast", "2 threads")))
    for name in (*bare, "1 thread(s)", "2 thread(s)", "1 worker(s)"):
        assert results[name]["images_per_second"] > 0
        assert len(results[name]["all"]["cpu"]) == 2
        assert name in printed
    assert results["bare decoding"]["of_bare_by_cpu"] == [1, 1, 1]
    assert "draft differs from pillow by" in printed
    needed = results["needed"]
    assert needed["chip"] == "a100"
    rate = results["1 worker(s)"]["images_per_cpu_second"]
    assert needed["cores"] == pytest.approx(needed["images_per_second"] / rate)
    assert "a100 at 50% of its peak takes" in printed


def test_made_up_photographs_can_be_read(tmp_path):
    pattern = photos.write(tmp_path, 40, 30)
    data = config_lib.defaults().data
    data.update(source="tar", path=pattern, image_key="jpg", caption_key="txt")
    source = registry.build(data)
    assert len(source) == photos.COUNT
    example = source.read(7, None)
    assert Image.open(io.BytesIO(example.image)).size == (40, 30)
    assert len(example.caption.split()) == 12
    assert source.fingerprint == registry.build(data).fingerprint


@pytest.mark.parametrize("flag, message", [
    ("--photos=0x300", "--photos"),
    ("--photos=wide", "--photos"),
    ("--rows=0", "--rows, --rounds and --workers must be 1 or more"),
    ("--json=/nowhere/x.json", "there is no folder of that name"),
    ("--config.data.decoder=turbo", "data.decoder='turbo': must be one of"),
])  # fmt: skip
def test_what_cannot_be_measured_is_one_line(root, shard, flag, message, capsys):
    assert benchmark.main([*flags(root, shard), flag]) == 64
    assert message in capsys.readouterr().err


def test_cpu_seconds_count_descendants():
    before = rates.cpu_seconds()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert rates.cpu_seconds() - before > 0.15
