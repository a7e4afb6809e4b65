#!/bin/sh
# What every host runs: one command of time_jax, again when that helps.
#
#   launch/worker.sh distill --config=configs/time.py:lang=da --workdir=/data/da
#
# Needs time_jax installed for PYTHON (.venv/bin/python if it is there, else
# python3). Sets a few variables that suit long runs, where they are not set.
#
# Starts the command again after exit code 42 (stopped, all saved; or a peer
# is gone) and above 127 (killed or aborted), MAX_RESTARTS times (10), each
# RESTART_WAIT seconds (10) later. Any other code is final: 0 done, 2 bad input,
# 3 run failed, 1 a bug; and so are 130 (Ctrl-C) and 141 (nobody reads the
# output any more). A SIGTERM is passed on, and nothing is started after it.
# Where the launcher restarts all hosts at once: MAX_RESTARTS=0.
# `--dry_run`, wherever it stands, prints the command.
set -u

root=$(cd "$(dirname "$0")/.." && pwd) || exit 2
. "$root/launch/common.sh"
[ $# -gt 0 ] || usage "$0"

find_python
check "$0"

# Compiled programs: on this host's disk, in a folder of nobody else's (JAX runs
# what it finds there), and bounded (8 GiB).
cache=${TMPDIR:-/tmp}/time_jax_compiled_$(id -u)
if [ -z "${JAX_COMPILATION_CACHE_DIR:-}" ]; then
  if mkdir -m 700 "$cache" 2>/dev/null ||
    [ -n "$(find "$cache" -prune -type d -user "$(id -u)" 2>/dev/null)" ]; then
    export JAX_COMPILATION_CACHE_DIR="$cache"
  fi
fi
export JAX_COMPILATION_CACHE_MAX_SIZE="${JAX_COMPILATION_CACHE_MAX_SIZE:-8589934592}"
# A run that was killed on another host is taken over once that is sure.
export TIME_JAX_LEASE_WAIT="${TIME_JAX_LEASE_WAIT:-90}"
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-1}"
export PYTHONUNBUFFERED=1

stopping=0
pid=
stop() {
  stopping=1
  [ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null
}
trap stop TERM INT

left=${MAX_RESTARTS:-10}
while :; do
  if [ "$dry_run" -eq 1 ]; then
    quoted "$python" -m time_jax "$@"
    exit 0
  fi
  [ "$stopping" -eq 0 ] || exit 42
  "$python" -m time_jax "$@" &
  pid=$!
  [ "$stopping" -eq 0 ] || stop # told between these two lines
  wait "$pid"
  code=$?
  while kill -0 "$pid" 2>/dev/null; do # the wait was interrupted by a signal
    wait "$pid"
    code=$?
  done
  helps_again "$code" || exit "$code"
  if [ "$stopping" -eq 1 ] || [ "$left" -le 0 ]; then
    exit "$code"
  fi
  left=$((left - 1))
  echo "worker.sh: exit code $code; again in ${RESTART_WAIT:-10} s ($left restarts left)" >&2
  sleep "${RESTART_WAIT:-10}"
done
