#!/bin/sh
# Runs one command of time_jax as N processes on this machine.
#
#   launch/local_processes.sh 2 distill --config=configs/quickstart.py \
#     --workdir=/tmp/two
#
# Process 0 writes to the terminal, process I > 0 to LOGS/process-I.log. Ends with
# the first exit code that is not 0. Variables:
#   CPU_DEVICES       CPU devices of each process, without accelerators (1)
#   LOGS              folder for logs (a new one in /tmp)
#   PYTHON            interpreter (.venv/bin/python if it exists, else python3)
#   MODULE            module to run (time_jax)
# `--dry_run`, anywhere among the words, prints the commands instead.
set -u

root=$(cd "$(dirname "$0")/.." && pwd) || exit 2
. "$root/launch/common.sh"
[ $# -gt 1 ] || usage "$0"
count=$1
shift
case $count in
  '' | 0* | *[!0-9]*)
    echo "$(quoted "$count") is no number of processes; expected 1 or more," \
      "and then a command: $0 2 $(quoted "$@")" >&2
    exit 2
    ;;
esac
module=${MODULE:-time_jax}
find_python
check "$0"
if [ "$dry_run" -eq 1 ]; then
  i=0
  while [ "$i" -lt "$count" ]; do
    echo "TIME_JAX_COORDINATOR=localhost:PORT TIME_JAX_NUM_PROCESSES=$count \\"
    echo "  TIME_JAX_PROCESS_ID=$i JAX_NUM_CPU_DEVICES=${CPU_DEVICES:-1} \\"
    echo "  $(quoted "$python" -m "$module" "$@")"
    i=$((i + 1))
  done
  exit 0
fi
logs=${LOGS:-$(mktemp -d /tmp/time_jax.XXXXXX)}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')

export TIME_JAX_COORDINATOR="localhost:$port" TIME_JAX_NUM_PROCESSES="$count"
export JAX_NUM_CPU_DEVICES="${CPU_DEVICES:-1}"
# A signal is passed on: the processes save and end, and are waited for below.
trap 'kill $pids 2>/dev/null' INT TERM

pids=
i=$((count - 1))
while [ "$i" -ge 0 ]; do
  if [ "$i" -eq 0 ]; then
    TIME_JAX_PROCESS_ID=0 "$python" -m "$module" "$@" &
  else
    TIME_JAX_PROCESS_ID=$i "$python" -m "$module" "$@" \
      >"$logs/process-$i.log" 2>&1 &
  fi
  pids="$pids $!"
  i=$((i - 1))
done

code=0
for pid in $pids; do
  wait "$pid"
  status=$?
  while kill -0 "$pid" 2>/dev/null; do # the wait was interrupted by a signal
    wait "$pid"
    status=$?
  done
  [ "$code" -ne 0 ] || code=$status
done
[ "$code" -eq 0 ] || echo "exit code $code; see $logs" >&2
exit "$code"
