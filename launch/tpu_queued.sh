#!/usr/bin/env bash
# Trains on a Cloud TPU slice that is asked for in a queue, and starts again after a preemption and
# whenever the exit code says so: waits until the slice is there, runs launch/tpu_vm.sh, asks for
# another slice when this one is gone. The run itself continues from its --workdir.
#   TPU_NAME=NAME ZONE=ZONE ACCELERATOR_TYPE=TYPE RUNTIME_VERSION=VERSION \
#     launch/tpu_queued.sh [--dry-run] --config=FILE --workdir=DIR [flags of clip_jax.train ...]
#   TPU_NAME=NAME ZONE=ZONE launch/tpu_queued.sh [--dry-run] --delete
# Optional variables: those of launch/tpu_vm.sh; VALID_UNTIL (a duration: how long a request may
# wait, such as 6h), RESTARTS (50), STEADY and POLL (see launch/README.md).
# To stop, end this command, then launch/tpu_vm.sh --stop.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/launcher.sh
. "$here/launcher.sh"
options "--delete" "$@"
need TPU_NAME ZONE

at=(--zone="$ZONE" ${PROJECT_ID:+--project="$PROJECT_ID"})
read -ra create_flags <<< "${CREATE_FLAGS:-}"
queued() { run gcloud compute tpus queued-resources "$@" "${at[@]}"; }
remove() { queued delete "$TPU_NAME" --force --quiet; }
if [[ $action == delete ]]; then remove; exit; fi

need ACCELERATOR_TYPE RUNTIME_VERSION
need_shared_workdir "${flags[@]}"
case ${CAPACITY:-spot} in
  on-demand) ;;
  spot | reserved) create_flags=(--"${CAPACITY:-spot}" "${create_flags[@]}") ;;
  *) usage "CAPACITY=$CAPACITY is not on-demand, spot or reserved" ;;
esac
request() {
  queued create "$TPU_NAME" --node-id="$TPU_NAME" --accelerator-type="$ACCELERATOR_TYPE" \
    --runtime-version="$RUNTIME_VERSION" \
    ${VALID_UNTIL:+--valid-until-duration="$VALID_UNTIL"} "${create_flags[@]}"
}
# A request stays ACTIVE for a while after its slice was preempted: the slice itself is asked too.
list_request() {
  queued list --filter="name~/$TPU_NAME\$" --format="value(state.state)"
}
list_slice() {
  run gcloud compute tpus tpu-vm list --filter="name~/$TPU_NAME\$" --format="value(state)" \
    "${at[@]}"
}
state() {
  local state slice
  state=$(list_request) || state=UNKNOWN  # not the same as that there is none
  if [[ "$state" == ACTIVE ]]; then
    slice=$(list_slice) || slice=UNKNOWN
    case $slice in
      READY) ;;
      "" | PREEMPTED | TERMINATED) state=SUSPENDED ;;
      *) state=$slice ;;  # such as REPAIRING: it may come back
    esac
  fi
  echo "${state:-NONE}"
}

if $dry_run; then
  echo "# Every ${POLL:-60} seconds:"
  list_request
  list_slice
  echo "# If there is no request:"
  request
  echo "# If it is SUSPENDED or FAILED, or the slice was preempted:"
  remove
  request
  echo "# If it is ACTIVE; all again after exit codes ${again_codes[*]}, and when the slice is gone:"
  CREATE=no "$here/tpu_vm.sh" --dry-run "${flags[@]}"
  exit 0
fi

restarts=0
# Counts what is done again, so that a request or a run that can never succeed comes to an end. A
# start that lasted resets the count: long runs see many preemptions.
count() {
  if ((++restarts > ${RESTARTS:-50})); then
    echo "given up after $((restarts - 1)) restarts (RESTARTS)" >&2
    exit 70
  fi
  echo "restart $restarts: $1" >&2
}

last='' seen=false
while true; do
  now=$(state)
  [[ "$now" == "$last" ]] || echo "$(date +%T) $TPU_NAME: $now" >&2
  last=$now
  [[ "$now" == NONE || "$now" == UNKNOWN ]] || seen=true
  case $now in
    NONE)
      if $seen; then echo "$TPU_NAME: the request has been deleted" >&2; exit 1; fi
      request
      ;;
    SUSPENDED | FAILED)
      count "$now"
      if [[ $now == FAILED ]]; then
        queued describe "$TPU_NAME" --format="value(state.failedData.error.message)" >&2 || true
      fi
      remove
      request
      seen=false
      ;;
    ACTIVE)
      code=0 began=$SECONDS
      CREATE=no "$here/tpu_vm.sh" "${flags[@]}" || code=$?
      if ((code == 0)); then exit 0; fi
      ((SECONDS - began < ${STEADY:-1800})) || restarts=0
      now=$(state)
      last=
      case $now in
        ACTIVE | UNKNOWN) again "$code" || exit "$code"; count "exit code $code" ;;
        *) continue ;;  # the slice is gone: whatever the code
      esac
      ;;
  esac
  sleep "${POLL:-60}"
done
