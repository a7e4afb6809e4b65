#!/bin/sh
# Runs time_jax on a GKE cluster of TPUs or GPUs with XPK.
#
#   launch/gke_xpk.sh [--dry_run] COMMAND
#
#   image             builds launch/Dockerfile and pushes it
#   run ARGUMENTS     submits `time_jax ARGUMENTS` as a workload
#   list              workloads of the cluster, with their state
#   logs              follows the log of process 0
#   resume ARGUMENTS  deletes the workload and submits it again: the run continues
#   delete            sends SIGTERM to all hosts: the run saves, its pods end
#
# Needs docker, xpk, kubectl (of this cluster) and gcloud, logged in, and a
# cluster that XPK made. Without XPK: launch/jobset.yaml. Variables:
#   NAME              of the workload: lower-case letters, digits, dashes; short
#   PROJECT, ZONE, CLUSTER
#   DEVICE            device type, such as v5litepod-16 or h100-80gb-8
#   IMAGE             where the image goes, such as
#                     europe-docker.pkg.dev/PROJECT/REPOSITORY/time_jax:1
#   STORAGE           `xpk storage` that all hosts mount, with --workdir on it
#   ACCELERATOR       of the image: tpu or cuda13 (tpu)
#   SLICES            of TPUs (1)
#   NODES             of GPUs (1)
#   MAX_RESTARTS      how often all hosts are restarted together (50)
#   GRACE             seconds between SIGTERM and SIGKILL, for saving (300)
set -u

root=$(cd "$(dirname "$0")/.." && pwd) || exit 2
. "$root/launch/common.sh"
[ $# -gt 0 ] || usage "$0"
command=$1
shift
need_variables NAME PROJECT ZONE CLUSTER DEVICE IMAGE STORAGE
need_programs docker xpk kubectl gcloud
check "$0"

# workload VERB ARGUMENT...
workload() {
  verb=$1
  shift
  run xpk workload "$verb" --project="$PROJECT" --zone="$ZONE" \
    --cluster="$CLUSTER" "$@"
}

# XPK restarts all hosts after exit codes 42 and 127 to 255 (including 130 and
# 141, which a pod does not end with), so no host restarts alone.
submit() {
  workload create --workload="$NAME" --device-type="$DEVICE" \
    --num-slices="${SLICES:-1}" --num-nodes="${NODES:-1}" \
    --docker-image="$IMAGE" --storage="$STORAGE" \
    --max-restarts="${MAX_RESTARTS:-50}" \
    --termination-grace-period-seconds="${GRACE:-300}" \
    --env=MAX_RESTARTS=0 \
    --command="launch/worker.sh $(quoted "$@")"
}

case $command in
  image | list | logs | delete) no_more "$command" "$@" ;;
  run | resume) [ $# -gt 0 ] || usage "$0" ;;
esac
case $command in
  image)
    run docker build --file="$root/launch/Dockerfile" \
      --build-arg=ACCELERATOR="${ACCELERATOR:-tpu}" --tag="$IMAGE" "$root" &&
      run docker push "$IMAGE"
    ;;
  run) submit "$@" ;;
  list) workload list ;;
  logs)
    run kubectl logs --follow --tail=-1 --selector="jobset.sigs.k8s.io/jobset-name=$NAME,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
    ;;
  resume)
    workload delete --workload="$NAME" --force
    submit "$@"
    ;;
  delete) workload delete --workload="$NAME" --force ;;
  *) usage "$0" ;;
esac
