"""What holds for every launcher."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "launch").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.name)
def test_shellcheck_finds_nothing(root, script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [str(shellcheck), "--external-sources", str(script.relative_to(root))],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_launcher_stops_at_errors_and_is_documented(root):
    readme = (root / "launch" / "README.md").read_text()
    for script in SCRIPTS:
        if script.name != "launcher.sh":
            assert "\nset -euo pipefail\n" in script.read_text(), script.name
            assert f"launch/{script.name}" in readme, script.name
