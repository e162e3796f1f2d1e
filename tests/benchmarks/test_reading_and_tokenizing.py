"""The benchmarks of reading and of tokenizing: what they print and write, not how fast it is."""

import json

import pytest

from clip_jax import benchmark


@pytest.mark.parametrize("cold", [False, True])
def test_records_are_read_in_random_order(tmp_path, capsys, cold):
    path = tmp_path / "read.json"
    flags = ["--records=300", "--bytes=100", "--rounds=2", f"--json={path}"]
    assert benchmark.main(["read", *flags, *["--cold"] * cold]) == 0
    printed = capsys.readouterr().out
    record = json.loads(path.read_text())
    assert record["command"].startswith("python -m clip_jax.benchmark read --records=300")
    ours = record["results"]["clip_jax, random order"]
    assert ours["records_per_second"] > 0 and len(ours["all"]["cpu"]) == 2
    assert "clip_jax, random order" in printed and "records/s" in printed


def test_captions_of_a_file_are_tokenized(tmp_path, capsys):
    path, texts = tmp_path / "tokenize.json", tmp_path / "texts.txt"
    texts.write_text("a photo of a dog\nun café\n" * 2000)
    flags = [f"--texts={texts}", "--captions=3000", "--rounds=2", f"--json={path}"]
    assert benchmark.main(["tokenize", *flags]) == 0
    results = json.loads(path.read_text())["results"]
    assert {"clip_jax, empty cache", "clip_jax, full cache"} <= set(results)
    assert all(r["captions_per_second"] > 0 for r in results.values())
    assert "captions/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["read", "--rounds=0"], "--bytes, --records and --rounds must be 1 or more"),
        (["read", "--json=/nowhere/x.json"], "--json=/nowhere/x.json: there is no folder"),
        (["read", "--path=/nowhere/*.tar"], "/nowhere/*.tar"),
        (["tokenize", "--captions=0"], "--captions and --rounds must be 1 or more"),
        (["tokenize", "--texts=/nowhere.txt"], "--texts=/nowhere.txt: no such file"),
    ],
)
def test_what_cannot_be_measured_is_one_line(flags, message, capsys):
    assert benchmark.main(flags) == 64
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
