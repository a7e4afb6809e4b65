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
TIMEOUTS = {
  "TIME_JAX_TIMEOUT": 900,
  "TIME_JAX_HEARTBEAT": 100,
  "TIME_JAX_SHUTDOWN": 300,
}
_TPU_PORT = 8482  # the ports that JAX takes by default
_CPU_PORT = 1234
_FIRST_PORT, _NUM_PORTS = 61440, 4096  # of those that are derived from a job
_Variables = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class ProcessSpec:
  """A process among those of its run.

  Attributes:
    launcher: what started it, for people to read.
    coordinator_address: HOST:PORT at which process 0 listens.
    num_processes: how many processes the run has.
    process_id: index of this process, from 0.
    local_device_ids: GPUs of this host that belong to this process; None: all
      that it sees.
  """

  launcher: str
  coordinator_address: str
  num_processes: int
  process_id: int
  local_device_ids: tuple[int, ...] | None = None

  @property
  def port(self) -> int:
    """The port at which process 0 listens."""
    return int(self.coordinator_address.rpartition(":")[2])

  def arguments(self) -> dict[str, Any]:
    """Returns the arguments of `jax.distributed.initialize`."""
    arguments = dataclasses.asdict(self)
    del arguments["launcher"]
    ids = self.local_device_ids
    return arguments | {
      "local_device_ids": None if ids is None else list(ids),
      "cluster_detection_method": "deactivate",
    }


def detect(environ: _Variables) -> ProcessSpec | None:
  """Reads the environment of a process that a launcher started.

  In this order: TIME_JAX_COORDINATOR (HOST:PORT) with TIME_JAX_NUM_PROCESSES
  and TIME_JAX_PROCESS_ID; TPUs on GKE; XPK on GPUs; XPK on CPUs, and our own
  JobSet; SLURM; Open MPI. JAX_COORDINATOR_ADDRESS and JAX_COORDINATOR_PORT
  override what a launcher suggests.

  Args:
    environ: variables of the process.

  Returns:
    The process; None if no launcher is recognised.

  Raises:
    UserError: variables are missing, or contradict each other.
  """
  for launcher in (_explicit, _gke_tpu, _xpk_gpu, _xpk_cpu, _slurm, _open_mpi):
    spec = launcher(environ)
    if spec and not 0 <= spec.process_id < spec.num_processes:
      raise UserError(
        f"{spec.launcher} says that this is process {spec.process_id} of "
        f"{spec.num_processes}; expected an index from 0, below their number."
      )
    if spec:
      return spec
  return None


def seconds(name: str) -> int:
  """Returns how long processes wait for each other.

  Args:
    name: a variable of `TIMEOUTS`.

  Raises:
    UserError: its value is no positive whole number.
  """
  value = os.environ.get(name) or str(TIMEOUTS[name])
  if not value.isdecimal() or not int(value):
    raise UserError(
      f"{name}={value!r}; expected seconds, such as {TIMEOUTS[name]}."
    )
  return int(value)


def _explicit(env: _Variables) -> ProcessSpec | None:
  if not any(map(env.get, VARIABLES)):
    return None
  missing = [name for name in VARIABLES if not env.get(name)]
  if missing:
    raise UserError(f"set all of {', '.join(VARIABLES)}; missing: {missing}.")
  address, count, index = VARIABLES
  if not re.fullmatch(r".+:\d+", env[address]):
    raise UserError(f"{address}={env[address]!r}; expected HOST:PORT.")
  return ProcessSpec(
    "TIME_JAX_*", env[address], _number(env, count), _number(env, index)
  )


def _gke_tpu(env: _Variables) -> ProcessSpec | None:
  """Reads TPUs on GKE: one process a host, the slices one by one."""
  listed = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
  if not listed or not env.get("TPU_WORKER_ID"):
    return None
  hosts = listed.split(",")
  first = env.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
  earlier_slices = _number(env, "MEGASCALE_SLICE_ID", 0)
  return ProcessSpec(
    "GKE, TPU",
    _coordinator(env, first.split(":")[0], _TPU_PORT),
    len(hosts) * _number(env, "MEGASCALE_NUM_SLICES", 1),
    len(hosts) * earlier_slices + _number(env, "TPU_WORKER_ID"),
  )


def _xpk_gpu(env: _Variables) -> ProcessSpec | None:
  names = ("JAX_COORDINATOR_ADDRESS", "NNODES", "NODE_RANK")
  if not all(map(env.get, names)):
    return None
  return ProcessSpec(
    "XPK, GPU",
    _coordinator(env, "", 0),
    _number(env, "NNODES"),
    _number(env, "NODE_RANK"),
  )


def _xpk_cpu(env: _Variables) -> ProcessSpec | None:
  index = "JOB_COMPLETION_INDEX"
  names = ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_COUNT", index)
  if not all(map(env.get, names)):
    return None
  earlier = _number(env, "JOB_INDEX", 0) * _number(env, "PROCESSES_IN_JOB", 0)
  return ProcessSpec(
    "JobSet",
    _coordinator(env, "", _CPU_PORT),
    _number(env, "JAX_PROCESS_COUNT"),
    earlier + _number(env, index),
  )


def _slurm(env: _Variables) -> ProcessSpec | None:
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
  # Derived from the job, so that two jobs on a node rarely take one port.
  port = _FIRST_PORT + _number(env, "SLURM_JOB_ID") % _NUM_PORTS
  tasks = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get(
    "SLURM_TASKS_PER_NODE", ""
  )
  counts, node = _expand_counts(tasks), _number(env, "SLURM_NODEID", 0)
  return ProcessSpec(
    "SLURM",
    _coordinator(env, first_host(env["SLURM_STEP_NODELIST"]), port),
    _number(env, "SLURM_NTASKS"),
    _number(env, "SLURM_PROCID"),
    _share_of_gpus(
      env,
      _number(env, "SLURM_LOCALID"),
      counts[node] if node < len(counts) else None,
      _number(env, "SLURM_GPUS_ON_NODE", 0),
    ),
  )


def _open_mpi(env: _Variables) -> ProcessSpec | None:
  if not env.get("OMPI_COMM_WORLD_SIZE"):
    return None
  uri = env.get("OMPI_MCA_orte_hnp_uri", "")
  host, port = "", 0
  if match := re.match(r"(\d+)\..*?tcp6?://\[?(.+?)(?:,|\]|:\d+$)", uri):
    host = f"[{match[2]}]" if ":" in match[2] else match[2]
    port = _FIRST_PORT + int(match[1]) // 4096 % _NUM_PORTS
  return ProcessSpec(
    "Open MPI",
    _coordinator(env, host, port),
    _number(env, "OMPI_COMM_WORLD_SIZE"),
    _number(env, "OMPI_COMM_WORLD_RANK"),
    _share_of_gpus(
      env,
      _number(env, "OMPI_COMM_WORLD_LOCAL_RANK", 0),
      _number(env, "OMPI_COMM_WORLD_LOCAL_SIZE", 1),
      0,
    ),
  )


def first_host(nodes: str) -> str:
  """Returns the first of SLURM's node list: "n[001-4,9]-x,m1" -> "n001-x"."""
  match = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
  return re.sub(r"\[(\d+)[^\]]*\]", r"\1", match[0] if match else nodes)


def _expand_counts(counts: str) -> list[int]:
  """Reads SLURM's tasks per node: "2(x3),1" -> [2, 2, 2, 1]."""
  pairs = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
  return [int(n) for n, times in pairs for _ in range(int(times or 1))]


def _share_of_gpus(
  env: _Variables, local_index: int, tasks: int | None, gpus: int
) -> tuple[int, ...] | None:
  """Divides the GPUs of a node between its processes.

  Args:
    env: variables of the process.
    local_index: index of the process on its node.
    tasks: processes of the node; None: unknown.
    gpus: GPUs of the node; 0: unknown.

  Returns:
    Those of the process; None if it sees no others, or JAX knows them.

  Raises:
    UserError: they cannot be divided evenly.
  """
  visible = env.get("CUDA_VISIBLE_DEVICES")
  if visible is not None:
    gpus = len([name for name in visible.split(",") if name])
  # JAX reads JAX_LOCAL_DEVICE_IDS itself.
  if tasks == 1 or gpus == 1 or env.get("JAX_LOCAL_DEVICE_IDS"):
    return None
  if not gpus or tasks is None:
    return (local_index,)  # As JAX does; of no effect where there is no GPU.
  if gpus % tasks:
    raise UserError(
      f"{tasks} processes cannot share the {gpus} GPUs of a node evenly; "
      f"expected one process a node, or a number that divides {gpus}."
    )
  share = gpus // tasks
  return tuple(range(local_index * share, (local_index + 1) * share))


def _coordinator(env: _Variables, host: str, port: int) -> str:
  """Returns HOST:PORT, as JAX_COORDINATOR_ADDRESS and _PORT override it."""
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


def _number(env: _Variables, name: str, default: int | None = None) -> int:
  value = env.get(name) or ("" if default is None else str(default))
  if not re.fullmatch(r"-?\d+", value):
    raise UserError(f"{name}={value!r} must be an integer.")
  return int(value)
