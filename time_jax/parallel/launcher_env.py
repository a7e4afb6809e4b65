"""Which process of a run this is, from the variables that launchers set."""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from time_jax.core.errors import UserError

VARIABLES = (
  "TIME_JAX_COORDINATOR",
  "TIME_JAX_NUM_PROCESSES",
  "TIME_JAX_PROCESS_ID",
)
# How many seconds the processes wait for each other: at the start; for a sign
# of life; for the last one to end.
LIMITS = {
  "TIME_JAX_TIMEOUT": 900,
  "TIME_JAX_HEARTBEAT": 100,
  "TIME_JAX_SHUTDOWN": 300,
}
_TPU_PORT = 8482  # The ports that JAX takes where nothing is said.
_CPU_PORT = 1234
_Variables = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Place:
  """A process among those of its run.

  Attributes:
    launcher: what told so, for people to read.
    coordinator: host:port at which process 0 listens.
    processes: how many there are.
    index: of this one, from 0.
    local_devices: GPUs of this host that are its own; None: all it sees.
  """

  launcher: str
  coordinator: str
  processes: int
  index: int
  local_devices: tuple[int, ...] | None = None

  def arguments(self) -> dict[str, Any]:
    """What `jax.distributed.initialize` is to be called with."""
    return {
      "coordinator_address": self.coordinator,
      "num_processes": self.processes,
      "process_id": self.index,
      "local_device_ids": self.local_devices and list(self.local_devices),
      "cluster_detection_method": "deactivate",
    }


def find(environ: _Variables) -> Place | None:
  """The place that the environment tells; None if it tells none.

  In this order: TIME_JAX_COORDINATOR (host:port) with TIME_JAX_NUM_PROCESSES
  and TIME_JAX_PROCESS_ID; TPUs on GKE; XPK on GPUs; XPK on CPUs, and our own
  JobSet; SLURM; Open MPI. JAX_COORDINATOR_ADDRESS and JAX_COORDINATOR_PORT
  come before what a launcher suggests.

  Args:
    environ: of the process.

  Raises:
    UserError: variables are missing, or contradict each other.
  """
  for known in (_explicit, _gke_tpu, _xpk_gpu, _xpk_cpu, _slurm, _open_mpi):
    place = known(environ)
    if place is None:
      continue
    if not 0 <= place.index < place.processes:
      raise UserError(
        f"{place.launcher} says that this is process {place.index} of "
        f"{place.processes}; expected at least 0 and below."
      )
    return place
  return None


def seconds(name: str) -> int:
  """How long processes wait for each other, by a variable of `LIMITS`.

  Raises:
    UserError: it is no such number.
  """
  value = os.environ.get(name) or str(LIMITS[name])
  if not value.isdecimal() or not int(value):
    raise UserError(
      f"{name}={value!r}; expected seconds, such as {LIMITS[name]}."
    )
  return int(value)


def _explicit(env: _Variables) -> Place | None:
  if not any(env.get(name) for name in VARIABLES):
    return None
  missing = [name for name in VARIABLES if not env.get(name)]
  if missing:
    raise UserError(f"set all of {', '.join(VARIABLES)}; missing: {missing}.")
  address, count, index = VARIABLES
  if not re.fullmatch(r".+:\d+", env[address]):
    raise UserError(f"{address}={env[address]!r}; expected HOST:PORT.")
  return Place(
    "TIME_JAX_*", env[address], _number(env, count), _number(env, index)
  )


def _gke_tpu(env: _Variables) -> Place | None:
  """One process a host; of several slices, slice by slice."""
  listed = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
  if not listed or not env.get("TPU_WORKER_ID"):
    return None
  hosts = listed.split(",")
  slices = _number(env, "MEGASCALE_NUM_SLICES", 1)
  first = env.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
  inside = _number(env, "TPU_WORKER_ID")
  return Place(
    "GKE, TPU",
    _coordinator(env, first.split(":")[0], _TPU_PORT),
    len(hosts) * slices,
    _number(env, "MEGASCALE_SLICE_ID", 0) * len(hosts) + inside,
  )


def _xpk_gpu(env: _Variables) -> Place | None:
  if not _all_in(env, "JAX_COORDINATOR_ADDRESS", "NNODES", "NODE_RANK"):
    return None
  return Place(
    "XPK, GPU",
    _coordinator(env, "", 0),
    _number(env, "NNODES"),
    _number(env, "NODE_RANK"),
  )


def _xpk_cpu(env: _Variables) -> Place | None:
  if not _all_in(
    env, "JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_COUNT", "JOB_COMPLETION_INDEX"
  ):
    return None
  before = _number(env, "JOB_INDEX", 0) * _number(env, "PROCESSES_IN_JOB", 0)
  return Place(
    "JobSet",
    _coordinator(env, "", _CPU_PORT),
    _number(env, "JAX_PROCESS_COUNT"),
    before + _number(env, "JOB_COMPLETION_INDEX"),
  )


def _slurm(env: _Variables) -> Place | None:
  if not env.get("SLURM_JOB_ID"):
    return None
  if not env.get("SLURM_STEP_NODELIST"):
    if _number(env, "SLURM_NTASKS", 1) > 1:
      raise UserError(
        f"this SLURM job has {env['SLURM_NTASKS']} tasks, but srun did not "
        "start this process, so it would run alone; put srun before the "
        "command (launch/slurm.sbatch does), or ask for one task."
      )
    return None
  index, local = _number(env, "SLURM_PROCID"), _number(env, "SLURM_LOCALID")
  # Derived from the job, so that two jobs on a node rarely meet.
  port = 61440 + _number(env, "SLURM_JOB_ID") % 4096
  tasks = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get(
    "SLURM_TASKS_PER_NODE", ""
  )
  counts = _expanded(tasks)
  node = _number(env, "SLURM_NODEID", 0)
  here = counts[node] if node < len(counts) else None
  return Place(
    "SLURM",
    _coordinator(env, first_host(env["SLURM_STEP_NODELIST"]), port),
    _number(env, "SLURM_NTASKS"),
    index,
    _share_of_gpus(env, local, here, _number(env, "SLURM_GPUS_ON_NODE", 0)),
  )


def _open_mpi(env: _Variables) -> Place | None:
  if not env.get("OMPI_COMM_WORLD_SIZE"):
    return None
  uri = env.get("OMPI_MCA_orte_hnp_uri", "")
  host, port = "", 0
  if found := re.match(r"(\d+)\..*?tcp6?://\[?(.+?)(?:,|\]|:\d+$)", uri):
    host = f"[{found[2]}]" if ":" in found[2] else found[2]
    port = 61440 + int(found[1]) // 4096 % 4096
  local = _number(env, "OMPI_COMM_WORLD_LOCAL_RANK", 0)
  here = _number(env, "OMPI_COMM_WORLD_LOCAL_SIZE", 1)
  return Place(
    "Open MPI",
    _coordinator(env, host, port),
    _number(env, "OMPI_COMM_WORLD_SIZE"),
    _number(env, "OMPI_COMM_WORLD_RANK"),
    _share_of_gpus(env, local, here, 0),
  )


def first_host(nodes: str) -> str:
  """The first of SLURM's node list: "n[001-4,9]-x,m1" -> "n001-x"."""
  found = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
  return re.sub(r"\[(\d+)[^\]]*\]", r"\1", found[0] if found else nodes)


def _expanded(counts: str) -> list[int]:
  """SLURM's "2(x3),1" -> [2, 2, 2, 1]."""
  found = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
  return [int(n) for n, times in found for _ in range(int(times or 1))]


def _share_of_gpus(
  env: _Variables, local: int, tasks: int | None, gpus: int
) -> tuple[int, ...] | None:
  """GPUs of a process, where several processes of a node see all of them.

  Args:
    env: of the process.
    local: its index on its node.
    tasks: processes of the node; None: not known.
    gpus: of the node; 0: not known.
  """
  visible = env.get("CUDA_VISIBLE_DEVICES")
  if visible is not None:
    gpus = len([name for name in visible.split(",") if name])
  # JAX reads JAX_LOCAL_DEVICE_IDS itself.
  if tasks == 1 or gpus == 1 or env.get("JAX_LOCAL_DEVICE_IDS"):
    return None
  if not gpus or tasks is None:
    return (local,)  # As JAX does; of no effect where there is no GPU.
  if gpus % tasks:
    raise UserError(
      f"{tasks} processes cannot share the {gpus} GPUs of a node evenly; "
      f"expected one process a node, or a number that divides {gpus}."
    )
  share = gpus // tasks
  return tuple(range(local * share, (local + 1) * share))


def _coordinator(env: _Variables, host: str, port: int) -> str:
  """host:port, with what JAX_COORDINATOR_ADDRESS and _PORT say of it."""
  address = env.get("JAX_COORDINATOR_ADDRESS") or host
  if not address:
    raise UserError(
      "the launcher does not say on which host process 0 is; set "
      "JAX_COORDINATOR_ADDRESS=HOST:PORT for all processes."
    )
  if re.search(r"[^:]:\d+$", address):
    return address
  if not port and not env.get("JAX_COORDINATOR_PORT"):
    raise UserError(
      f"JAX_COORDINATOR_ADDRESS={address!r} has no port, and "
      "JAX_COORDINATOR_PORT is not set; expected HOST:PORT."
    )
  return f"{address}:{_number(env, 'JAX_COORDINATOR_PORT', port)}"


def _all_in(env: _Variables, *names: str) -> bool:
  return all(env.get(name) for name in names)


def _number(env: _Variables, name: str, default: int | None = None) -> int:
  value = env.get(name) or ("" if default is None else str(default))
  if not re.fullmatch(r"-?\d+", value):
    raise UserError(f"{name}={value!r} must be an integer.")
  return int(value)
