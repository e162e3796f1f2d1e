#!/usr/bin/env bash
# Trains on a GKE cluster through xpk: submits the run unless it is there, waits for it, collects
# one log per worker, returns the exit code. GKE starts it again after exit codes 70, 71 and 75, and
# after those of processes that were killed.
#   CLUSTER=NAME WORKLOAD=NAME TPU_TYPE=TYPE \
#     launch/gke_xpk.sh [--dry-run] --config=FILE --workdir=DIR [flags of clip_jax.train ...]
#   CLUSTER=NAME TPU_TYPE=TYPE launch/gke_xpk.sh [--dry-run] --create-cluster
#   CLUSTER=NAME WORKLOAD=NAME launch/gke_xpk.sh [--dry-run] --delete
# Optional variables: PROJECT_ID, ZONE, SLICES (1), CAPACITY=on-demand|spot|flex|reservation=NAME,
# IMAGE (it has clip_jax and its dependencies) or BASE_IMAGE (python:3.11, to which this checkout is
# added), STORAGE (names of xpk storages), RESTARTS (50), SAVE_SECONDS (120), LOGS, CREATE_FLAGS.
# Ending this command does not end the run, and starting it again follows it again.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/launcher.sh
. "$here/launcher.sh"
options "--create-cluster --delete" "$@"
need CLUSTER

at=(--cluster="$CLUSTER" ${PROJECT_ID:+--project="$PROJECT_ID"} ${ZONE:+--zone="$ZONE"})
read -ra create_flags <<< "${CREATE_FLAGS:-}"
xpk_() { run xpk "$@" "${at[@]}"; }

case $action in
  create-cluster)  # which can be repeated: xpk creates what is missing
    need TPU_TYPE
    case ${CAPACITY:-on-demand} in
      on-demand | spot | flex | reservation=?*) ;;
      *) usage "CAPACITY=$CAPACITY is not on-demand, spot, flex or reservation=NAME" ;;
    esac
    xpk_ cluster create --tpu-type="$TPU_TYPE" --num-slices="${SLICES:-1}" \
      --"${CAPACITY:-on-demand}" "${create_flags[@]}"
    exit
    ;;
  delete)
    need WORKLOAD
    xpk_ workload delete --workload="$WORKLOAD" --force
    exit
    ;;
esac

need WORKLOAD TPU_TYPE
need_shared_workdir "${flags[@]}"
# exec, so that SIGTERM reaches the trainer and not a shell around it.
command="exec python -m clip_jax.train $(quoted "${flags[@]}")"
if [[ -n "${IMAGE:-}" ]]; then
  image=(--docker-image="$IMAGE")
else
  image=(--base-docker-image="${BASE_IMAGE:-python:3.11}" --script-dir="$here/..")
  command="pip install --quiet '.[tpu]' && $command"
fi
read -ra storage <<< "${STORAGE:-}"
logs=$(log_folder "$WORKLOAD")

xpk_ workload list --filter-by-job="$WORKLOAD"  # also points kubectl at the cluster
there=$(run kubectl get jobset "$WORKLOAD" --ignore-not-found --output=name)
if $dry_run; then echo "$there"; echo "# If that prints nothing:"; there=; fi
if [[ -z "$there" ]]; then
  xpk_ workload create --workload="$WORKLOAD" --tpu-type="$TPU_TYPE" --num-slices="${SLICES:-1}" \
    --max-restarts="${RESTARTS:-50}" --restart-on-exit-codes=70,71,75 \
    --termination-grace-period-seconds="${SAVE_SECONDS:-120}" "${storage[@]/#/--storage=}" \
    "${image[@]}" --command="$command" "${create_flags[@]}"
fi
status=0
xpk_ workload list --wait-for-job-completion="$WORKLOAD" || status=$?

run mkdir -p "$logs"
get_pods=(kubectl get pods --selector="xpk.google.com/workload=$WORKLOAD" --output=name)
if $dry_run; then
  run "${get_pods[@]}"
  echo "# For every POD of these:"
  echo "$(run kubectl logs POD) > $(show "$logs/POD.log")"
  exit 0
fi
pods=$("${get_pods[@]}") || echo "no logs: the pods cannot be listed" >&2
codes=()
for pod in $pods; do
  log=$logs/${pod#pod/}.log
  # A log that cannot be read says nothing about its process.
  if kubectl logs "$pod" > "$log"; then
    codes+=("$(code_of "$log")")
  else
    echo "no log of $pod" >&2
  fi
done
# xpk says that the run failed (125); its workers say why.
if ((status == 125 && ${#codes[@]})); then
  code=$(verdict "${codes[@]}")
  ((code == 0)) || status=$code
fi
((status == 0)) || echo "ended with exit code $status; see $logs/*.log" >&2
exit "$status"
