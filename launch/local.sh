#!/usr/bin/env bash
# Trains with several processes on this machine, as a pod does with several hosts.
#   launch/local.sh [--dry-run] PROCESSES [flags of clip_jax.train ...]
# Output of process i goes to <workdir or .>/process-i.log; process 0 is shown too. When one fails,
# the others are ended, and the first failure's exit code is returned.
set -euo pipefail

dry_run=false
if [[ "${1:-}" == --dry-run ]]; then dry_run=true; shift; fi
if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh [--dry-run] PROCESSES --config=FILE [--workdir=DIR] [...]" >&2
  exit 64
fi
processes=$1; shift
logs=.
for flag in "$@"; do [[ "$flag" == --workdir=* ]] && logs=${flag#--workdir=}; done
port=${CLIP_JAX_PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}

if $dry_run; then
  for ((i = 0; i < processes; i++)); do
    echo "CLIP_JAX_COORDINATOR=127.0.0.1:$port CLIP_JAX_PROCESSES=$processes CLIP_JAX_PROCESS_ID=$i" \
      "python -m clip_jax.train $* > $logs/process-$i.log 2>&1 &"
  done
  exit 0
fi

mkdir -p "$logs"
pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < processes; i++)); do
  CLIP_JAX_COORDINATOR=127.0.0.1:$port CLIP_JAX_PROCESSES=$processes CLIP_JAX_PROCESS_ID=$i \
    python -m clip_jax.train "$@" > "$logs/process-$i.log" 2>&1 &
  pids+=($!)
done
tail -n +1 -f --pid="${pids[0]}" "$logs/process-0.log" &

code=0
for ((i = 0; i < processes; i++)); do
  status=0
  wait -n "${pids[@]}" || status=$?
  if ((status != 0 && code == 0)); then
    code=$status
    sleep 5 # the others notice by themselves, and say why in their logs
    ((code == 75)) || kill -KILL "${pids[@]}" 2>/dev/null || true
  fi
done
((code == 0)) || echo "failed with exit code $code; see $logs/process-*.log" >&2
exit "$code"
