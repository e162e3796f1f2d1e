#!/usr/bin/env bash
# Trains with several processes on this machine, as a pod does with several hosts.
#   launch/local.sh [--dry-run] PROCESSES [flags of clip_jax.train ...]
# Output of process i goes to <workdir or .>/process-i.log; process 0 is shown too. When one fails,
# the others are ended, and its exit code is returned, not that of one which only noticed. SIGTERM
# and SIGINT are passed on, and the processes take the time they need to save; a second one kills
# them.
set -euo pipefail
# shellcheck source=launch/launcher.sh
. "$(dirname "${BASH_SOURCE[0]}")/launcher.sh"
options "" "$@"
set -- "${flags[@]}"
[[ "${1:-}" =~ ^[1-9][0-9]*$ ]] || usage "the number of processes comes first"
processes=$1
shift
logs=$(workdir_of "$@")
logs=${logs:-.}
port=${CLIP_JAX_PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}

if $dry_run; then
  for ((i = 0; i < processes; i++)); do
    echo "CLIP_JAX_COORDINATOR=127.0.0.1:$port CLIP_JAX_PROCESSES=$processes CLIP_JAX_PROCESS_ID=$i" \
      "python -m clip_jax.train$(printf ' %q' "$@") > $(printf '%q' "$logs/process-$i.log") 2>&1 &"
  done
  exit 0
fi

mkdir -p "$logs"
pids=()
stopping=false
# shellcheck disable=SC2329 # called by the trap
stop() {
  if $stopping; then kill -KILL "${pids[@]}"; else kill -TERM "${pids[@]}"; fi 2>/dev/null || true
  stopping=true
}
trap stop INT TERM
for ((i = 0; i < processes; i++)); do
  : > "$logs/process-$i.log"  # or the tail below may be faster than the redirection
  CLIP_JAX_COORDINATOR=127.0.0.1:$port CLIP_JAX_PROCESSES=$processes CLIP_JAX_PROCESS_ID=$i \
    python -m clip_jax.train "$@" > "$logs/process-$i.log" 2>&1 &
  pids+=($!)
done
tail -n +1 -f --pid="${pids[0]}" "$logs/process-0.log" &
tail=$!

# Polls instead of waiting: a signal ends bash's `wait` with a status like that of a killed child.
codes=() failed_at='' killed=false
while ((${#pids[@]})); do
  sleep "$check_interval"
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    status=0
    wait "${pids[i]}" || status=$?
    unset 'pids[i]'
    if $killed && ((status == 137)); then continue; fi  # our doing, and not what failed
    codes+=("$status")
    if ((status != 0 && status != 75)); then failed_at=${failed_at:-$SECONDS}; fi
  done
  # The others notice by themselves, and say why in their logs; what has not ended by then hangs.
  if [[ -n "$failed_at" ]] && ((SECONDS - failed_at >= ${GRACE:-5})) && ! $stopping; then
    killed=true
    kill -KILL "${pids[@]}" 2>/dev/null || true
  fi
done
wait "$tail" || true
code=$(verdict "${codes[@]}")
((code == 0 || code == 75)) || echo "failed with exit code $code; see $logs/process-*.log" >&2
exit "$code"
