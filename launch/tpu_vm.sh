#!/usr/bin/env bash
# Trains on a Cloud TPU slice: creates it unless it is there, copies this checkout to every worker,
# starts the same command on all, collects one log per worker, returns the exit code.
#   TPU_NAME=NAME ZONE=ZONE ACCELERATOR_TYPE=TYPE RUNTIME_VERSION=VERSION \
#     launch/tpu_vm.sh [--dry-run] --config=FILE --workdir=DIR [flags of clip_jax.train ...]
#   TPU_NAME=NAME ZONE=ZONE launch/tpu_vm.sh [--dry-run] --stop | --delete
# Optional variables: PROJECT_ID, CAPACITY=on-demand|spot|reserved, MOUNT, REPOSITORY and REF, LOGS,
# CREATE_FLAGS and SSH_FLAGS for gcloud, POLL, PATIENCE, GRACE (see launch/README.md).
# Ending this command does not end training, and starting it again follows it again: --stop does.
# What fails before training has been started ends with 70: start again.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/launcher.sh
. "$here/launcher.sh"
options "--stop --delete" "$@"
need TPU_NAME ZONE

at=(--zone="$ZONE" ${PROJECT_ID:+--project="$PROJECT_ID"})
read -ra create_flags <<< "${CREATE_FLAGS:-}"
read -ra ssh_flags <<< "${SSH_FLAGS:-}"
tpu_vm() { run gcloud compute tpus tpu-vm "$@" "${at[@]}"; }

# on_worker NUMBER|all COMMAND. gcloud tries again ten times, so that attempts must be short, and a
# connection that died must be noticed.
on_worker() {
  tpu_vm ssh "$TPU_NAME" --worker="$1" --command="$2" --quiet \
    --ssh-flag="-oConnectTimeout=15 -oServerAliveInterval=30" "${ssh_flags[@]}"
}

list_slice() { tpu_vm list --filter="name~/$TPU_NAME\$" --format="value(state)"; }
give_up() { echo "$TPU_NAME: $*" >&2; exit 70; }

case $action in
  stop) on_worker all "clip_jax/launch/tpu_worker.sh stop"; exit ;;
  delete) tpu_vm delete "$TPU_NAME" --quiet; exit ;;
esac

need ACCELERATOR_TYPE RUNTIME_VERSION
need_shared_workdir "${flags[@]}"
case ${CAPACITY:-on-demand} in
  on-demand) ;;
  spot | reserved) create_flags=(--"$CAPACITY" "${create_flags[@]}") ;;
  *) usage "CAPACITY=$CAPACITY is not on-demand, spot or reserved" ;;
esac
logs=$(log_folder "$TPU_NAME")
run mkdir -p "$logs"
pids=() temporary=''
# shellcheck disable=SC2329 # called by the trap
finish() {
  local pid
  for pid in "${pids[@]}"; do kill -- -"$pid" 2>/dev/null || true; done
  [[ -z "$temporary" ]] || rm -rf "$temporary"
}
trap finish EXIT

# A list, because describing what is not there is an error like any other.
there=$(list_slice) || give_up "the slices cannot be listed"
if $dry_run; then
  echo "$there"
  [[ "${CREATE:-yes}" == no ]] || echo "# If that prints nothing:"
  there=
fi
if [[ "${CREATE:-yes}" == no ]]; then  # launch/tpu_queued.sh asks for slices in its own way
  if ! $dry_run && [[ -z "$there" ]]; then give_up "the slice is gone"; fi
elif [[ -z "$there" ]]; then
  tpu_vm create "$TPU_NAME" --accelerator-type="$ACCELERATOR_TYPE" --version="$RUNTIME_VERSION" \
    "${create_flags[@]}" || give_up "the slice cannot be created"
fi
node=$(tpu_vm describe "$TPU_NAME" \
  --format="csv[no-heading](state,health,networkEndpoints.len(),acceleratorType.basename())") ||
  give_up "the slice cannot be described"
if $dry_run; then echo "$node"; else
  IFS=, read -r state health workers type <<< "$node"
  [[ "$type" == "$ACCELERATOR_TYPE" ]] ||
    usage "$TPU_NAME is there as $type, not as ACCELERATOR_TYPE=$ACCELERATOR_TYPE"
  if [[ "$state" != READY || "$health" == TIMEOUT || "$health" == UNHEALTHY* ]]; then
    give_up "the slice cannot be used: state $state, health $health"
  fi
fi

if [[ -n "${REPOSITORY:-}" ]]; then
  unpack="git clone --quiet $(quoted "$REPOSITORY") clip_jax && git -C clip_jax checkout --quiet $(quoted "${REF:-HEAD}")"
else
  # Not into the checkout, or the archive would contain itself.
  if $dry_run; then archive=TMP; else archive=$(mktemp -d) temporary=$archive; fi
  archive+=/clip_jax.tar.gz
  run tar -C "$here/.." --exclude-vcs --exclude-vcs-ignores -czf "$archive" . ||
    give_up "the checkout cannot be packed"
  tpu_vm scp "$archive" "$TPU_NAME:" --worker=all --quiet \
    --scp-flag=-oConnectTimeout=15 "${ssh_flags[@]}" || give_up "the checkout cannot be copied"
  unpack="mkdir clip_jax && tar -xzf clip_jax.tar.gz -C clip_jax"
fi
worker=clip_jax/launch/tpu_worker.sh
on_worker all "{ $worker busy 2>/dev/null || { rm -rf clip_jax && $unpack; }; } && $worker install$(
  [[ -z "${MOUNT:-}" ]] || echo " $(quoted "$MOUNT")")" || give_up "a worker cannot be set up"
on_worker all "$worker start $(quoted "${flags[@]}")" || {
  code=$?
  ((code != 73)) || exit 73  # other training is running, for longer than restarts help
  give_up "training cannot be started"
}
# Whether a worker answers: that training is running (0), or that it is not (1).
answers="$worker busy || [ \$? = 1 ]"
if $dry_run; then
  show_log="< /dev/null >> $(show "$logs/worker-I.log") 2>&1"
  echo "# For every worker I:"
  echo "$(on_worker I "$worker follow") $show_log &"
  echo "# After a lost connection, until it answers; then follows again:"
  echo "$(on_worker I "$answers") $show_log"
  list_slice
  exit 0
fi

# follow NUMBER: prints the log of a worker until training ends there. A lost connection says
# nothing about training: only when the worker does not answer for long, or the slice is gone, this
# ends without an exit code.
follow() {
  local deadline slice
  while true; do
    on_worker "$1" "$worker follow" || true
    if [[ -n "$(reported_code "$logs/worker-$1.log")" ]]; then return; fi
    deadline=$((SECONDS + ${PATIENCE:-600}))
    until on_worker "$1" "$answers"; do
      slice=$(list_slice) || slice=READY  # no answer does not mean that it is gone
      if [[ "$slice" != READY ]] || ((SECONDS >= deadline)); then return; fi
      sleep "${POLL:-60}"
    done
    printf '\n# The connection was lost. The log again, from its start:\n'
  done
}

set -m  # every follower is a process group, and ends as a whole
codes=() failed_at=
for ((i = 0; i < workers; i++)); do
  : > "$logs/worker-$i.log"  # or the tail below may be faster than the redirection
  follow "$i" < /dev/null >> "$logs/worker-$i.log" 2>&1 &
  pids+=($!)
done
tail -n +1 -f --pid="${pids[0]}" --sleep-interval="$check_interval" "$logs/worker-0.log" &
tail=$!
while ((${#pids[@]})); do
  sleep "$check_interval"
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    unset 'pids[i]'
    codes[i]=$(reported_code "$logs/worker-$i.log")
    if [[ -z "${codes[i]}" ]]; then
      [[ -n "$failed_at" ]] ||
        give_up "worker $i does not answer, see $logs/worker-$i.log; training may be running"
      codes[i]=70
    fi
    if ((codes[i] != 0 && codes[i] != 75)) && [[ -z "$failed_at" ]]; then
      failed_at=$SECONDS
      echo "worker $i ended with exit code ${codes[i]}; see $logs/worker-$i.log" >&2
    fi
  done
  # The others notice within 20 seconds, and say why in their logs; what is left then hangs.
  if [[ -n "$failed_at" ]] && ((${#pids[@]} && SECONDS - failed_at >= ${GRACE:-60})); then
    for i in "${!pids[@]}"; do codes[i]=70; done
    finish
    pids=()
    on_worker all "$worker kill" || true
  fi
done
wait "$tail" || true
code=$(verdict "${codes[@]}")
((code == 0)) || echo "ended with exit code $code; see $logs/worker-*.log" >&2
exit "$code"
