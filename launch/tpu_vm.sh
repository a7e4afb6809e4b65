#!/bin/sh
# Runs time_jax on Cloud TPU VMs: one slice or several, as a queued resource.
#
#   launch/tpu_vm.sh [--dry_run] COMMAND
#
#   create            requests the TPUs, which are given when they are available
#   state             prints the state of the request: ACTIVE means ready
#   setup             copies this commit to all hosts and installs it there
#   run ARGUMENTS     starts `time_jax ARGUMENTS` in the background: commands that
#                     train or measure on all hosts, others on the first host
#                     only, and on its CPU if there are more hosts
#   logs [HOST]       follows the log of one host (0)
#   stop              sends SIGTERM to the run on all hosts: it saves and ends
#   resume ARGUMENTS  after a preemption: delete, create, wait, setup, run
#   delete            gives the TPUs back, which cost money until then
#
# Needs gcloud, logged in, and git. Variables:
#   NAME              of the queued resource
#   PROJECT, ZONE     of Google Cloud
#   TYPE              accelerator type, such as v5litepod-16
#   RUNTIME           runtime version that suits TYPE, such as v2-alpha-tpuv5-lite
#   SLICES            number of slices (1)
#   SPOT              1: spot capacity, which is cheaper and can be preempted (0)
#   NFS               HOST:/SHARE to mount as /data, for the --workdir of several
#                     hosts (none)
set -u

root=$(cd "$(dirname "$0")/.." && pwd) || exit 2
. "$root/launch/common.sh"
[ $# -gt 0 ] || usage "$0"
command=$1
shift
need_variables NAME PROJECT ZONE TYPE RUNTIME
need_programs gcloud git
check "$0"

# tpus VERB ARGUMENT...
tpus() {
  verb=$1
  shift
  run gcloud compute tpus queued-resources "$verb" "$NAME" \
    --project="$PROJECT" --zone="$ZONE" "$@"
}

on_all_hosts() {
  on_hosts all "$1"
}

# on_hosts WHICH COMMAND
on_hosts() {
  tpus ssh --node="$1" --worker="$1" --command="$2"
}

create() {
  if [ "${SLICES:-1}" -gt 1 ]; then
    set -- --node-count="$SLICES" --node-prefix="$NAME"
  else
    set -- --node-id="$NAME"
  fi
  [ "${SPOT:-0}" -eq 0 ] || set -- "$@" --spot
  tpus create --accelerator-type="$TYPE" --runtime-version="$RUNTIME" "$@"
}

state() {
  tpus describe --format='value(state.state)'
}

# Waits for the TPUs; a dry run asks once.
wait_until_active() {
  while :; do
    now=$(state) || exit 1
    echo "$now"
    case $dry_run$now in
      1* | 0ACTIVE) return 0 ;;
      0FAILED | 0SUSPENDED) exit 1 ;;
    esac
    sleep 30
  done
}

# Hosts have an older Python than time_jax needs; uv installs one.
setup() {
  archive=${TMPDIR:-/tmp}/time_jax.tar.gz
  run git -C "$root" archive --format=tar.gz --output="$archive" HEAD &&
    run gcloud compute tpus queued-resources scp "$archive" "$NAME:" \
      --project="$PROJECT" --zone="$ZONE" --node=all --worker=all &&
    on_all_hosts 'set -e
mkdir -p time_jax
tar -xzf time_jax.tar.gz -C time_jax
cd time_jax
python3 -m pip install -q --user uv
[ -d .venv ] || python3 -m uv venv -q --python=3.12 .venv
python3 -m uv pip install -q --python=.venv/bin/python -r requirements.txt "jax[tpu]"
python3 -m uv pip install -q --python=.venv/bin/python --no-deps -e .' || exit 1
  [ -z "${NFS:-}" ] || on_all_hosts "set -e
sudo apt-get install -y -qq nfs-common
sudo mkdir -p /data
mountpoint -q /data || sudo mount -t nfs $(quoted "$NFS") /data"
}

# Succeeds if TYPE is one host: up to 8 chips, or cores in older generations.
one_host() {
  case ${TYPE##*-} in
    [1-8]) [ "${SLICES:-1}" -eq 1 ] ;;
    *) return 1 ;;
  esac
}

# on_cpu COMMAND: makes it run on a CPU, as one host cannot use a shared slice.
on_cpu() {
  if [ "$1" = sweep ]; then
    echo "sweep trains on one host, which cannot use the TPUs of $TYPE x" \
      "${SLICES:-1} alone; expected a TYPE of one host, such as v5litepod-8;" \
      "nothing was started" >&2
    exit 2
  fi
  echo "$1 runs on the CPU of the first host: one host alone cannot use the" \
    "TPUs of $TYPE x ${SLICES:-1}" >&2
  prefix='env JAX_PLATFORMS=cpu '
}

# find_hosts ARGUMENT...: sets which and prefix for `start`, or ends.
find_hosts() {
  [ $# -gt 0 ] || usage "$0"
  prefix=
  case $1 in
    distill | prepare | finetune | bench | doctor) which=all ;;
    *) # On all hosts an export, say, would be written to one folder by each.
      which=0
      one_host || on_cpu "$1"
      ;;
  esac
}

start() {
  on_hosts "$which" "cd time_jax || exit 1
if kill -0 \"\$(cat ../time_jax.pid 2>/dev/null)\" 2>/dev/null; then
  echo 'it runs already; launch/tpu_vm.sh stop comes first'
  exit 1
fi
nohup ${prefix}launch/worker.sh $(quoted "$@") >>../time_jax.log 2>&1 </dev/null &
echo \$! >../time_jax.pid"
}

case $command in
  create | state | setup | stop | delete) no_more "$command" "$@" ;;
  logs)
    case ${1:-0} in
      *[!0-9]*) no_more logs "$@" ;;
    esac
    [ $# -lt 2 ] || no_more "logs $1" "$2"
    ;;
  run | resume) find_hosts "$@" ;;
esac
case $command in
  create) create ;;
  state) state ;;
  setup) setup ;;
  run) start "$@" ;;
  logs) tpus ssh --node=0 --worker="${1:-0}" --command='tail -n 200 -F time_jax.log' ;;
  stop) on_all_hosts "kill -TERM \"\$(cat time_jax.pid)\"" ;;
  resume)
    tpus delete --force --quiet
    create && wait_until_active && setup && start "$@"
    ;;
  delete) tpus delete --force --quiet ;;
  *) usage "$0" ;;
esac
