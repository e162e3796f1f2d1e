"""Stand-ins for the programs that the launchers call: they record their calls, and do what the
test has put into files."""

import os
import shutil
import subprocess
import sys

import pytest

# One script for all; the name it is called by says which program it is. `gcloud ... ssh` really
# runs the command, in a folder per worker in place of its home; one with a file `unreachable` in it
# has no connection.
PROGRAMS = f"""#!{sys.executable} -SE
import os, pathlib, shlex, signal, subprocess, sys, time
fake = pathlib.Path(os.environ["FAKE"])
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with open(fake / "calls", "a") as calls:
    calls.write(shlex.join([name, *words]) + "\\n")
flags = dict(w.split("=", 1) for w in words if w.startswith("--") and "=" in w)

def content(file, default=""):
    return (fake / file).read_text() if (fake / file).is_file() else default

def next_line(file, default=""):
    "The file's first line, which goes unless it is the last."
    lines = content(file, default).splitlines()
    if len(lines) > 1:
        (fake / file).write_text("\\n".join(lines[1:]) + "\\n")
    return lines[0] if lines else ""

def workers():
    count = int(content("workers", "2"))
    return range(count) if flags["--worker"] == "all" else [int(flags["--worker"])]

if name == "gcloud":
    group, verb = words[2:4]
    if content("broken") == f"{{group}} {{verb}}":
        sys.exit(1)
    if group == "queued-resources":
        if verb == "list":
            state = next_line("queue")
            if state == "no answer":
                sys.exit(1)
            print(state)
    elif verb == "list":
        print(next_line("slice"))
    elif verb == "create":
        (fake / "slice").write_text("READY")
    elif verb == "describe":
        print(next_line("node", "READY,HEALTHY,2,v4-16"))
    elif verb in ("scp", "ssh"):
        homes = [fake / f"worker-{{i}}" for i in workers()]

        def reachable():
            return all(h.is_dir() and not (h / "unreachable").exists() for h in homes)

        if not reachable():
            sys.exit(255)
        if verb == "scp":
            for home in homes:
                (home / "clip_jax.tar.gz").write_bytes(pathlib.Path(words[4]).read_bytes())
        else:
            running = [
                subprocess.Popen(["bash", "-c", flags["--command"]], cwd=h,
                                 env=os.environ | {{"HOME": str(h)}}, start_new_session=True)
                for h in homes
            ]

            def lose(*_):
                "What the connection's other end prints from now on is read by nobody."
                for r in running:
                    if r.poll() is None:
                        os.killpg(r.pid, signal.SIGKILL)
                os._exit(255)

            signal.signal(signal.SIGTERM, lose)
            while any(r.poll() is None for r in running):
                if not reachable():
                    lose()
                time.sleep(0.01)
            sys.exit(next((r.returncode for r in running if r.returncode), 0))
elif name == "xpk" and "--wait-for-job-completion" in flags:
    sys.exit(int(content("wait", "0")))
elif name == "kubectl":
    answer = content(words[1].removeprefix("pod/"))
    if answer == "no answer":
        sys.exit(1)
    print(answer)
"""

# python3 on a worker: makes a virtual environment of stand-ins.
PYTHON3 = r"""#!/usr/bin/env bash
case $* in
  *version_info*) ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$(dirname "$0")"/{python,pip} "$3/bin" ;;
  *) exit 1 ;;
esac
"""
PIP = r"""#!/usr/bin/env bash
echo "$*" >> "$HOME/installed"
[[ ! -f "$HOME/no-packages" ]]
"""

# The trainer. Its first line in the file `codes` of its folder says what it does.
TRAINER = r"""#!/usr/bin/env bash
codes=${SLURM_PROCID:+$FAKE/process-$SLURM_PROCID/}codes
[[ -f "$codes" ]] || codes=$HOME/codes
printf '%s\n' "$@" > "$(dirname "$codes")/arguments"
code=$(head -n 1 "$codes")
sed -i 1d "$codes"
echo started
saving() { echo saved; exit 75; }
case $code in
  runs) trap saving TERM ;;
  hangs) trap '' TERM ;;
  *) exit "$code" ;;
esac
while true; do sleep 0.02; done
"""

SRUN = r"""#!/usr/bin/env bash
echo "srun $*" >> "$FAKE/calls"
if [[ -f "$FAKE/srun" ]]; then
  echo "srun: error: Invalid generic resource (gres) specification"
  exit "$(cat "$FAKE/srun")"
fi
while [[ $1 == --* ]]; do
  [[ $1 == --output=* ]] && output=${1#--output=}
  shift
done
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i "$@" > "${output//%t/$i}" 2>&1 &
  echo $! >> "$FAKE/pids"
done
wait
"""


class Machines:
    """The stand-ins, and what they do: files in ``folder``.

    Attributes:
      root: a checkout with what the launchers need: a whole one would be packed by every test.
    """

    def __init__(self, root, tmp_path):
        self.root, self.folder, self.tmp_path = root, tmp_path / "fake", tmp_path
        self.bin, self.cwd, self.started = tmp_path / "bin", tmp_path, []
        for folder in (self.folder, self.bin):
            folder.mkdir()
        programs = dict.fromkeys(("gcloud", "xpk", "kubectl", "sbatch", "scontrol"), PROGRAMS)
        programs |= {"python3": PYTHON3, "pip": PIP, "python": TRAINER, "srun": SRUN}
        for name, text in programs.items():
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    def write(self, **files):
        """What the stand-ins answer: one line for each call; the last one stays."""
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def trainers(self, *codes, kind="worker"):
        """Workers or processes, and the exit codes of their trainers, start by start."""
        for i, text in enumerate(codes):
            (self.folder / f"{kind}-{i}").mkdir()
            (self.folder / f"{kind}-{i}" / "codes").write_text("\n".join(text.split()) + "\n")

    def start(self, script, *flags, **environment):
        process = subprocess.Popen(
            ["bash", str(self.root / "launch" / script), *flags],
            env={"PATH": f"{self.bin}:{os.environ['PATH']}", "FAKE": str(self.folder),
                 "HOME": str(self.tmp_path), "POLL": "0.1", "GRACE": "1", "CHECK_INTERVAL": "0.02"}
            | environment,
            cwd=self.cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, script, *flags, **environment):
        """The exit code and the output."""
        process = self.start(script, *flags, **environment)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def calls(self, *words):
        """The recorded calls that have all these words."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [line for line in lines if all(w in line for w in words)]

    def logs(self, pattern):
        return {p.name: p.read_text() for p in sorted(self.tmp_path.glob(pattern))}


@pytest.fixture(scope="session")
def small_checkout(root, tmp_path_factory):
    checkout = tmp_path_factory.mktemp("small") / "checkout"
    for name in ("launch", "configs"):
        shutil.copytree(root / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / ".gitignore", checkout)
    (checkout / ".git").mkdir()
    return checkout


@pytest.fixture
def machines(small_checkout, tmp_path):
    machines = Machines(small_checkout, tmp_path)
    yield machines
    # What was started and not ended by the test.
    for process in machines.started:
        process.kill()
    for path in machines.folder.glob("worker-*/clip_jax.state/pid"):
        subprocess.run(["kill", "-KILL", path.read_text().strip()], capture_output=True)
