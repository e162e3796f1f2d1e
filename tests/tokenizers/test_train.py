import subprocess
import sys

import pytest

from clip_jax.tokenizers import SentencePieceTokenizer
from clip_jax.tokenizers.train import main

CAPTIONS = [f"a photo of a {c} {n}" for c in ("red", "blue") for n in ("dog", "cat", "ship")] * 5


@pytest.fixture
def files(tmp_path):
    captions, model = tmp_path / "captions.txt", tmp_path / "tokenizer.model"
    captions.write_text("\n".join(["", *CAPTIONS, ""]), encoding="utf-8")
    return captions, model


def run(files, vocab_size="22", *more):
    captions, model = files
    flags = [f"--input={captions}", f"--output={model}", f"--vocab-size={vocab_size}", *more]
    return main(flags)


def test_the_command_writes_a_model(files):
    captions, model = files
    command = [sys.executable, "-m", "clip_jax.tokenizers.train", f"--input={captions}"]
    done = subprocess.run(
        [*command, "--vocab-size=22", f"--output={model}"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{model}: 22 ids, learned from 30 captions\n"
    assert SentencePieceTokenizer(model, 16).vocab_size == 22


def test_a_byte_order_mark_and_windows_line_ends_are_no_text(files):
    captions, model = files
    assert run(files) == 0
    plain = model.read_bytes()
    captions.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(CAPTIONS).encode())
    assert run(files) == 0
    assert model.read_bytes() == plain


def test_the_sample_size_reaches_the_training(files, capsys):
    assert run(files, "21", "--max-captions=20", "--seed=3") == 0
    assert "learned from 20 captions" in capsys.readouterr().out


def test_too_few_captions_are_bad_data(files, capsys):
    assert run(files, "4096") == 65
    assert "vocab_size=4096 is too large for 30 captions" in capsys.readouterr().err


def test_a_line_that_is_not_utf8_is_named(files, capsys):
    files[0].write_bytes(b"a dog\nna\xefve\n")
    assert run(files) == 65
    assert "captions.txt: line 2 is not UTF-8" in capsys.readouterr().err
    assert not files[1].exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "required: --input, --output, --vocab-size"),
        (["--input=no.txt", "--output=m", "--vocab-size=9"], "--input=no.txt: there is no such"),
        (["--input=no.txt", "--output=m", "--vocab-size=4"], "--vocab-size: 4 is below 5"),
        (["--input=no.txt", "--output=m", "--vocab=9"], "required: --vocab-size"),
        (["--input=no.txt", "--output=m", "--vocab-size=many"], "invalid integer value: 'many'"),
    ],
)
def test_wrong_flags_are_a_usage_error(flags, message, capsys):
    assert main(flags) == 64
    assert message in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_a_usage_error(files, capsys):
    captions, _ = files
    assert run((captions, captions / "tokenizer.model")) == 64
    assert str(captions) in capsys.readouterr().err
