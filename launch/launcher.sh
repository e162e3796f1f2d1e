# shellcheck shell=bash
# What the launchers in this folder share; they source it.

# Ends with one line, and the exit code of a wrong command line.
usage() { echo "${0##*/}: $*" >&2; exit 64; }

# options ACTIONS [arguments]: sets dry_run, action (train, or one of ACTIONS) and flags (the
# rest: those of clip_jax.train).
# shellcheck disable=SC2034 # the launchers use them
options() {
  local actions=" $1 "
  shift
  dry_run=false action=train
  while [[ "${1:-}" == --dry-run || "$actions" == *" ${1:--} "* ]]; do
    if [[ $1 == --dry-run ]]; then dry_run=true; else action=${1#--}; fi
    shift
  done
  local flag
  for flag; do  # not for the trainer to refuse, when machines have been paid for
    if [[ "$actions--dry-run " == *" ${flag:--} "* ]]; then
      usage "$flag comes before the flags of clip_jax.train"
    fi
  done
  flags=("$@")
}

# need VARIABLE ...
need() {
  local name
  for name; do [[ -n "${!name:-}" ]] || usage "$name is not set (see launch/README.md)"; done
}

# The value of --workdir among the flags, however it is written; nothing without one.
workdir_of() {
  local flag previous=
  for flag; do
    if [[ "$flag" == --workdir=* ]]; then echo "${flag#--workdir=}"; return; fi
    if [[ "$previous" == --workdir ]]; then echo "$flag"; return; fi
    previous=$flag
  done
}

# Machines are only asked for once it is certain that the trainer will not refuse the flags.
need_shared_workdir() {
  local workdir
  workdir=$(workdir_of "$@")
  if [[ -z "$workdir" ]]; then usage "--workdir=DIR is missing: a folder that all workers see"; fi
  if [[ "$workdir" == *://* ]]; then
    usage "--workdir=$workdir must be a folder that all workers see, not an address: mount it"
  fi
}

# Prints a command as one line for a shell.
show() {
  local word line=
  for word; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  echo "${line:1}"
}

# Runs a command; in a dry run, prints it instead.
run() { if $dry_run; then show "$@"; else "$@"; fi; }

# log_folder NAME: a folder for the logs of this launch alone, also when another one began in the
# same second.
log_folder() {
  local folder=${LOGS:-runs/launch}/$1/TIME
  $dry_run || folder=${folder%TIME}$(date +%Y%m%d-%H%M%S)
  while [[ -e "$folder" ]]; do folder+=-again; done
  echo "$folder"
}

# Words as one string that a shell splits into the same words.
quoted() {
  local line
  printf -v line ' %q' "$@"
  echo "${line:1}"
}

# The exit code that a process's log ends with (in the words of xpk's containers, or our own), if
# the process came to say it.
reported_code() { sed -nE 's/^(exit code |EXIT_CODE=)([0-9]+)$/\2/p' "$1" | tail -n 1; }

# The same; 70 for a process that was lost before it could say.
code_of() {
  local code
  code=$(reported_code "$1")
  echo "${code:-70}"
}

# The exit codes that mean: start again. First what is more likely the cause than what came of it:
# killed (or out of memory), no progress, JAX's own abort when a peer was lost, ours, asked to stop.
again_codes=(137 71 134 70 75)
again() { [[ " ${again_codes[*]} " == *" $1 "* ]]; }

# verdict CODE ...: the exit code of a run from those of its processes. When one fails, the others
# end with "start again": what the failed one says comes first.
verdict() {
  local code likely
  for code; do
    if ((code != 0)) && ! again "$code"; then echo "$code"; return; fi
  done
  for likely in "${again_codes[@]}"; do
    if [[ " $* " == *" $likely "* ]]; then echo "$likely"; return; fi
  done
  echo 0
}

# Seconds between checks of processes and logs on the same machine.
check_interval=${CHECK_INTERVAL:-0.2}

# outlast PID: its exit code. Polls instead of waiting: a signal ends bash's `wait` with a status
# like that of a killed child.
outlast() {
  while kill -0 "$1" 2>/dev/null; do sleep "$check_interval"; done
  wait "$1"
}
