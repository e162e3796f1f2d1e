"""What all commands do with wrong flags, expected errors and defects."""

import importlib
import types

import pytest

from clip_jax import cli
from clip_jax.data.emoji.drawings import EmojiError
from clip_jax.data.errors import DataError
from clip_jax.data.image_file import BadImage
from clip_jax.data.tar_scan import ShardError
from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.torch.weight_file import WeightFileError
from clip_jax.runtime import distributed, mesh
from clip_jax.runtime.errors import ConfigError
from clip_jax.runtime.integrity import Mismatch
from clip_jax.training.checkpoint import CheckpointError
from clip_jax.training.trainer import Preempted, TrainingError
from clip_jax.training.workdir import WorkdirInUse

COMMANDS = ["train", "evaluation", "convert", "aot", "benchmark", "tokenizers.train"]


def raising(error):
    def command(arguments):
        raise error

    return command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_an_unknown_flag_in_one_line(command, capsys, monkeypatch):
    module = importlib.import_module(f"clip_jax.{command}")
    monkeypatch.setattr(module, "prepare_environment", lambda: None, raising=False)
    main = getattr(module, "main")  # noqa: B009
    assert main(["--no-such-flag"]) == distributed.USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (ConfigError, 64), (FileNotFoundError, 64), (OSError, 1), (TrainingError, 1),
        (WorkdirInUse, 73), (Mismatch, 78), (LayoutError, 78), (CheckpointError, 65),
        (DataError, 65), (ShardError, 65), (EmojiError, 65), (WeightFileError, 65), (BadImage, 65),
    ],
)  # fmt: skip
def test_an_expected_error_is_one_line_and_a_code(kind, code, capsys):
    assert cli.run_command(raising(kind("what to do")), []) == code
    assert capsys.readouterr().err == "error: what to do\n"


def test_a_stop_is_no_error(capsys):
    for stop in (Preempted(), KeyboardInterrupt()):
        assert cli.run_command(raising(stop), []) == distributed.PREEMPTED
        output = capsys.readouterr()
        assert "the same command continues" in output.out and "error" not in output.err


def test_a_lost_process_is_named(capsys):
    lost = ValueError("UNAVAILABLE: connection closed by peer")
    assert cli.run_command(raising(lost), []) == distributed.PEER_LOST
    assert "error: another process was lost" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(capsys):
    assert cli.run_command(raising(KeyError("x")), []) == 1
    assert "Traceback" in capsys.readouterr().err


def test_arguments_are_those_of_the_process_by_default(monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "sys", types.SimpleNamespace(argv=["prog", "--a"]))
    assert cli.run_command(lambda arguments: seen.append(arguments) or 3) == 3
    assert seen == [["--a"]]


def test_only_our_own_value_errors_are_the_users():
    with pytest.raises(ConfigError, match="data=0"), cli.user_values():
        mesh.create_mesh({"data": 0})
    with pytest.raises(ValueError, match="invalid literal") as error, cli.user_values():
        int("x")
    assert type(error.value) is ValueError
