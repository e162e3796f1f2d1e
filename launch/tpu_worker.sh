#!/usr/bin/env bash
# What launch/tpu_vm.sh asks of each worker of a TPU slice; runs there.
#   install [COMMAND]   runs COMMAND, then makes the virtual environment
#   start [flags]       starts training in the background; nothing if the same is running
#   follow              prints the log until training ends, and last its exit code: 70 if it was
#                       lost before it could say
#   stop | kill         sends SIGTERM | SIGKILL to training, if it is running
#   busy                whether training is running
# Training does not depend on the connection: it goes on when that is lost, and can be followed
# again. What is running holds a lock, which no crash or reboot leaves behind.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
venv=$checkout.venv state=$checkout.state
mkdir -p "$state"
busy() { ! flock --nonblock "$state/lock" true; }

what=${1:-}
[[ $# == 0 ]] || shift
case $what in
  busy) busy ;;
  install)
    if busy; then exit 0; fi
    [[ -z "${1:-}" ]] || bash -euo pipefail -c "$1"
    if [[ ! -x "$venv/bin/pip" ]]; then
      if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python3 -m venv "$venv"
      else  # Ubuntu 22.04 has 3.10
        python3 -m pip install --quiet --user uv
        python3 -m uv venv --quiet --seed --clear --python=3.11 "$venv"
      fi
    fi
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${checkout}[tpu]"
    ;;
  start)
    printf -v flags ' %q' "$@"
    exec 9> "$state/lock"
    if ! flock --nonblock 9; then
      if [[ "$(cat "$state/flags")" == "$flags" ]]; then echo "already running"; exit 0; fi
      echo "other training is running here: $(cat "$state/flags")" >&2
      exit 73
    fi
    echo "$flags" > "$state/flags"
    : > "$state/log"  # that of the training before must not be followed
    setsid "$0" train "$@" < /dev/null > "$state/log" 2>&1 &  # holds the lock, by descriptor 9
    ;;
  train)
    cd "$checkout"
    "$venv/bin/python" -m clip_jax.train "$@" 9>&- &
    echo $! > "$state/pid"
    code=0
    wait $! || code=$?
    printf '\nexit code %s\n' "$code"
    ;;
  follow)
    flock --shared "$state/lock" true &
    tail -n +1 -f --pid=$! --sleep-interval="${CHECK_INTERVAL:-0.2}" "$state/log"
    # Said here, so that no answer can only mean that the connection was lost.
    grep -q '^exit code [0-9]' "$state/log" || printf '\nexit code 70\n'
    ;;
  stop | kill)
    if ! busy; then echo "nothing is running"; exit 0; fi
    [[ $what == kill ]] && signal=KILL || signal=TERM
    kill -"$signal" "$(cat "$state/pid")"
    ;;
  *) sed -n '3,9s/^# *//p' "$0" >&2; exit 64 ;;
esac
