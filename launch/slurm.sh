#!/usr/bin/env bash
# Trains on a SLURM cluster with GPUs: one process per GPU. Submits itself as a job, which saves
# before its time is up, and queues itself again after exit codes 70, 71, 75, 134 and 137.
#   NODES=N GPUS_PER_NODE=N launch/slurm.sh [--dry-run] --config=FILE --workdir=DIR [flags ...]
# Optional variables: JOB_NAME (clip_jax-<name of the workdir>), CPUS_PER_TASK, SAVE_SECONDS (300),
# RESTARTS (50), LOGS, and sbatch's own: SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT, ...
# The environment is passed on, so that an activated virtual environment is the one used.
set -euo pipefail
# SLURM runs a copy of this file: so the job and its processes are given its folder.
if [[ "${1:-}" == --job || "${1:-}" == --process ]]; then
  part=${1#--} here=$2
  shift 2
else
  part=submission here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
fi
# shellcheck source=launch/launcher.sh
. "$here/launcher.sh"
options "" "$@"

submission() {
  need NODES GPUS_PER_NODE
  need_shared_workdir "${flags[@]}"
  local workdir
  workdir=$(workdir_of "${flags[@]}")
  run mkdir -p "$logs"
  # singleton: of the jobs of one name only one runs. The signal goes to the processes and not to
  # the script (B:), which could not pass it on: srun answers SIGTERM by killing them.
  run sbatch --job-name="${JOB_NAME:-clip_jax-$(basename "$workdir")}" --dependency=singleton \
    --nodes="$NODES" --ntasks-per-node="$GPUS_PER_NODE" --gpus-per-node="$GPUS_PER_NODE" \
    "${cpus[@]}" --requeue --signal="TERM@${SAVE_SECONDS:-300}" \
    --output="$logs/%j.log" --open-mode=append \
    "$here/slurm.sh" --job "$here" "${flags[@]}"
  if $dry_run; then
    echo "# In the job:"
    job
  fi
}

# Every process has a log of its own. One that fails does not end the others at once: they notice,
# and say why in their logs; what is left after 120 seconds hangs.
job() {
  local log files code=0
  log=$logs/${SLURM_JOB_ID:-JOB}-${SLURM_RESTART_COUNT:-0}
  step=(srun "${cpus[@]}" --output="$log-%t.log" --kill-on-bad-exit=0 --wait=120
    "$here/slurm.sh" --process "$here" "${flags[@]}")
  if $dry_run; then
    show "${step[@]}"
    echo "# In each of its processes:"
    process
    echo "# After exit codes ${again_codes[*]}:"
    show scontrol requeue Incomplete JOB
    return
  fi
  "${step[@]}" || code=$?
  files=("$log"-*.log)
  if [[ ! -e "${files[0]}" ]]; then  # what srun refuses, it refuses every time
    echo "srun ended with exit code $code before any process began"
    exit "$code"
  fi
  codes=()
  for ((i = 0; i < SLURM_NTASKS; i++)); do codes+=("$(code_of "$log-$i.log")"); done
  code=$(verdict "${codes[@]}")
  echo "ended with exit code $code; see $log-*.log"
  if again "$code"; then
    if ((${SLURM_RESTART_COUNT:-0} < ${RESTARTS:-50})); then
      # Incomplete: not a job that has been cancelled meanwhile.
      scontrol requeue Incomplete "$SLURM_JOB_ID"
    else
      echo "given up after $SLURM_RESTART_COUNT restarts (RESTARTS)"
    fi
  fi
  exit "$code"
}

process() {
  local train=(python -m clip_jax.train "${flags[@]}") code=0
  if $dry_run; then show "${train[@]}"; return; fi
  "${train[@]}" &
  trainer=$!
  # SLURM takes a process as ended when this shell is, so that it has to outlast the trainer.
  trap 'kill -TERM "$trainer" 2>/dev/null || true' TERM
  outlast "$trainer" || code=$?
  printf '\nexit code %s\n' "$code"
  exit "$code"
}

logs=${LOGS:-$(workdir_of "${flags[@]}")/slurm}
# For both: since SLURM 22.05 srun does not take it from the job.
cpus=(${CPUS_PER_TASK:+--cpus-per-task="$CPUS_PER_TASK"})
"$part"
