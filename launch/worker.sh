#!/bin/sh
# Runs one command of time_jax on a host, and starts it again when that helps.
#
#   launch/worker.sh distill --config=configs/paper.py:lang=da --workdir=/data/da
#
# Every launcher runs this script on every host. Where they are not set, it sets a
# few variables that suit long runs.
#
# Exit code 42 (the run was stopped and has saved, or another process is gone)
# and codes above 127 (killed or aborted) start the command again. Others are
# final: 0 done, 1 a bug, 2 bad input, 3 the run failed; and so are 130 (Ctrl-C)
# and 141 (nobody reads the output any more). SIGTERM is passed on, and nothing is
# started after it. Variables:
#   PYTHON            interpreter with time_jax (.venv/bin/python if it exists,
#                     else python3)
#   MAX_RESTARTS      how often it is started again (10); 0 where the launcher
#                     restarts all hosts together
#   RESTART_WAIT      seconds between end and start (10)
# `--dry_run`, anywhere among the words, prints the command instead.
set -u

root=$(cd "$(dirname "$0")/.." && pwd) || exit 2
. "$root/launch/common.sh"
[ $# -gt 0 ] || usage "$0"

find_python
check "$0"

# Compiled programs are kept on this host's disk, at most 8 GiB of them, in a
# folder that only this user can write to: JAX runs what it reads there.
cache=${TMPDIR:-/tmp}/time_jax_compiled_$(id -u)
if [ -z "${JAX_COMPILATION_CACHE_DIR:-}" ]; then
  if mkdir -m 700 "$cache" 2>/dev/null ||
    [ -n "$(find "$cache" -prune -type d -user "$(id -u)" 2>/dev/null)" ]; then
    export JAX_COMPILATION_CACHE_DIR="$cache"
  fi
fi
export JAX_COMPILATION_CACHE_MAX_SIZE="${JAX_COMPILATION_CACHE_MAX_SIZE:-8589934592}"
# Seconds until the workdir of a run that was killed on another host is free.
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

restarts=${MAX_RESTARTS:-10}
while :; do
  if [ "$dry_run" -eq 1 ]; then
    quoted "$python" -m time_jax "$@"
    exit 0
  fi
  [ "$stopping" -eq 0 ] || exit 42
  "$python" -m time_jax "$@" &
  pid=$!
  [ "$stopping" -eq 0 ] || stop # the signal came between these two lines
  wait "$pid"
  code=$?
  while kill -0 "$pid" 2>/dev/null; do # the wait was interrupted by a signal
    wait "$pid"
    code=$?
  done
  helps_again "$code" || exit "$code"
  if [ "$stopping" -eq 1 ] || [ "$restarts" -le 0 ]; then
    exit "$code"
  fi
  restarts=$((restarts - 1))
  echo "worker.sh: exit code $code; again in ${RESTART_WAIT:-10} s ($restarts restarts left)" >&2
  sleep "${RESTART_WAIT:-10}"
done
