"""The environments of launchers, and the process that each one tells."""

import pytest

from time_jax.core.errors import UserError
from time_jax.parallel import launcher_env

EXPLICIT = {
  "TIME_JAX_COORDINATOR": "host:1234",
  "TIME_JAX_NUM_PROCESSES": "4",
  "TIME_JAX_PROCESS_ID": "3",
}
GKE = {
  "TPU_WORKER_HOSTNAMES": "t-0.svc,t-1.svc,t-2.svc,t-3.svc",
  "TPU_WORKER_ID": "2",
}
MULTISLICE = GKE | {
  "MEGASCALE_COORDINATOR_ADDRESS": "js-slice-0-0.js:8080",
  "MEGASCALE_NUM_SLICES": "2",
  "MEGASCALE_SLICE_ID": "1",
}
XPK_GPU = {
  "JAX_COORDINATOR_ADDRESS": "da-slice-job-0-0.da",  # Without a port.
  "JAX_COORDINATOR_PORT": "6002",
  "NNODES": "2",
  "NODE_RANK": "1",
  "GPUS_PER_NODE": "8",
}
XPK_CPU = {
  "JAX_COORDINATOR_ADDRESS": "da-slice-job-0-0.da",
  "JAX_PROCESS_COUNT": "8",
  "JOB_INDEX": "1",
  "PROCESSES_IN_JOB": "4",
  "JOB_COMPLETION_INDEX": "2",
}
SRUN = {
  "SLURM_JOB_ID": "4097",
  "SLURM_STEP_NODELIST": "gpu[003-004]",
  "SLURM_NTASKS": "16",
  "SLURM_PROCID": "11",
  "SLURM_LOCALID": "3",
  "SLURM_NODEID": "1",
  "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
  "SLURM_GPUS_ON_NODE": "8",
}
ONE_A_NODE = SRUN | {
  "SLURM_NTASKS": "2",
  "SLURM_PROCID": "1",
  "SLURM_LOCALID": "0",
  "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}
MPI = {
  "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
  "OMPI_COMM_WORLD_SIZE": "4",
  "OMPI_COMM_WORLD_RANK": "3",
  "OMPI_COMM_WORLD_LOCAL_RANK": "1",
  "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
V6 = "1314521088.0;tcp6://[fe80::b9b:ac5d,2620:10d::2]:43370"
# Name -> environment, (coordinator, processes, index, own devices).
PROCESSES = {
  "nothing": ({}, None),
  "explicit": (EXPLICIT, ("host:1234", 4, 3, None)),
  "explicit comes first": (
    {**SRUN, **XPK_GPU, **EXPLICIT},
    ("host:1234", 4, 3, None),
  ),
  "TPU on GKE": (GKE, ("t-0.svc:8482", 4, 2, None)),
  "TPU on GKE, one host": (
    {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
    ("localhost:8482", 1, 0, None),
  ),
  "TPU on GKE, two slices": (MULTISLICE, ("js-slice-0-0.js:8482", 8, 6, None)),
  "TPU on GKE, our JobSet": (
    {**GKE, **XPK_CPU, "JAX_COORDINATOR_ADDRESS": "js-slice-0-0.js:6002"},
    ("js-slice-0-0.js:6002", 4, 2, None),
  ),
  "XPK, GPU": (XPK_GPU, ("da-slice-job-0-0.da:6002", 2, 1, None)),
  "XPK, CPU": (XPK_CPU, ("da-slice-job-0-0.da:1234", 8, 6, None)),
  "JobSet, port in the address": (
    XPK_CPU | {"JAX_COORDINATOR_ADDRESS": "js-slice-0-0.js:6002"},
    ("js-slice-0-0.js:6002", 8, 6, None),
  ),
  "SLURM, one process a GPU": (SRUN, ("gpu003:61441", 16, 11, (3,))),
  "SLURM, one process a node": (ONE_A_NODE, ("gpu003:61441", 2, 1, None)),
  "SLURM, two GPUs a process": (
    SRUN | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_NTASKS": "12"},
    ("gpu003:61441", 12, 11, (6, 7)),
  ),
  "SLURM, each task sees one GPU": (
    SRUN | {"CUDA_VISIBLE_DEVICES": "0"},
    ("gpu003:61441", 16, 11, None),
  ),
  "SLURM, uneven nodes": (
    SRUN | {"SLURM_STEP_TASKS_PER_NODE": "4(x2),1", "SLURM_NODEID": "2"},
    ("gpu003:61441", 16, 11, None),
  ),
  "SLURM, devices given": (
    SRUN | {"JAX_LOCAL_DEVICE_IDS": "5"},
    ("gpu003:61441", 16, 11, None),
  ),
  "SLURM, port given": (
    SRUN | {"JAX_COORDINATOR_PORT": "99"},
    ("gpu003:99", 16, 11, (3,)),
  ),
  "SLURM, address given": (
    SRUN | {"JAX_COORDINATOR_ADDRESS": "ib0:5"},
    ("ib0:5", 16, 11, (3,)),
  ),
  "SLURM, a shell of one task": (
    {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "1"},
    None,
  ),
  "Open MPI": (MPI, ("10.96.0.1:62624", 4, 3, (1,))),
  "Open MPI, IPv6": (
    MPI | {"OMPI_MCA_orte_hnp_uri": V6},
    ("[fe80::b9b:ac5d]:62880", 4, 3, (1,)),
  ),
  "Open MPI, one process a node": (
    MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"},
    ("10.96.0.1:62624", 4, 3, None),
  ),
  "Open MPI 5, address given": (
    {k: v for k, v in MPI.items() if "uri" not in k}
    | {"JAX_COORDINATOR_ADDRESS": "n1:5"},
    ("n1:5", 4, 3, (1,)),
  ),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_the_process_that_a_launcher_tells(name):
  environ, expected = PROCESSES[name]
  spec = launcher_env.detect(environ)
  if expected is None:
    assert spec is None
    return
  address, count, index, devices = expected
  assert spec.port == int(address.rpartition(":")[2])
  assert spec.arguments() == {
    "coordinator_address": address,
    "num_processes": count,
    "process_id": index,
    "local_device_ids": None if devices is None else list(devices),
    "cluster_detection_method": "deactivate",
  }


@pytest.mark.parametrize("given", range(1, 7))
def test_some_of_the_explicit_variables(given):
  environ = {
    n: v for i, (n, v) in enumerate(EXPLICIT.items()) if given >> i & 1
  }
  absent = [name for name in EXPLICIT if name not in environ]
  with pytest.raises(UserError) as caught:
    launcher_env.detect(environ)
  everything = ", ".join(EXPLICIT)
  assert str(caught.value) == f"set all of {everything}; missing: {absent}."


WRONG = {
  "an empty variable": (
    EXPLICIT | {"TIME_JAX_NUM_PROCESSES": ""},
    "missing: ['TIME_JAX_NUM_PROCESSES']",
  ),
  "a word": (
    EXPLICIT | {"TIME_JAX_NUM_PROCESSES": "two"},
    "TIME_JAX_NUM_PROCESSES='two' must be an integer",
  ),
  "a fraction": (
    EXPLICIT | {"TIME_JAX_PROCESS_ID": "1.0"},
    "must be an integer",
  ),
  "too high": (
    EXPLICIT | {"TIME_JAX_PROCESS_ID": "4"},
    "this is process 4 of 4; expected an index from 0, below their number",
  ),
  "negative": (EXPLICIT | {"TIME_JAX_PROCESS_ID": "-1"}, "process -1 of 4"),
  "nobody": (
    EXPLICIT | {"TIME_JAX_NUM_PROCESSES": "0", "TIME_JAX_PROCESS_ID": "0"},
    "process 0 of 0",
  ),
  "no port": (
    EXPLICIT | {"TIME_JAX_COORDINATOR": "host"},
    "TIME_JAX_COORDINATOR='host'; expected HOST:PORT",
  ),
  "XPK without any port": (
    {k: v for k, v in XPK_GPU.items() if k != "JAX_COORDINATOR_PORT"},
    "has no port, and JAX_COORDINATOR_PORT is not set",
  ),
  "SLURM without srun": (
    {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "16", "SLURM_PROCID": "0"},
    "srun did not start this process",
  ),
  "SLURM without a rank": (
    {k: v for k, v in SRUN.items() if k != "SLURM_PROCID"},
    "SLURM_PROCID='' must be an integer",
  ),
  "SLURM, GPUs that do not divide": (
    SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3(x2)"},
    "3 processes cannot share the 8 GPUs of a node evenly",
  ),
  "Open MPI 5": (
    {k: v for k, v in MPI.items() if "uri" not in k},
    "does not say on which host process 0 is; set JAX_COORDINATOR_ADDRESS",
  ),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_environment_that_is_wrong(name):
  environ, words = WRONG[name]
  with pytest.raises(UserError) as caught:
    launcher_env.detect(environ)
  assert words in str(caught.value)


@pytest.mark.parametrize(
  ("nodes", "first"),
  [
    ("node001", "node001"),
    ("node001,host2", "node001"),
    ("node[001-015],host2", "node001"),
    ("node[007,009-015],host2", "node007"),
    ("r[1-2]n[3,4]-ib,x", "r1n3-ib"),
  ],
)
def test_the_first_of_a_list_of_nodes(nodes, first):
  assert launcher_env.first_host(nodes) == first
