"""How a run's processes are joined; JAX's own part is replaced."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from time_jax.core.errors import RestartableError, UserError
from time_jax.parallel import processes as parallel_processes

COORDINATOR = "TIME_JAX_COORDINATOR"
COUNT = "TIME_JAX_NUM_PROCESSES"
PROCESS = "TIME_JAX_PROCESS_ID"
COMPLETE = {COORDINATOR: "host:1234", COUNT: "4", PROCESS: "3"}
OTHERS = ("SLURM_", "OMPI_", "JAX_COORD", "TPU_", "KUBERNETES", "JOB_", "NODE")


PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")


class Calls(list):
  """What was called; put an exception into `fails` to raise it."""

  fails = ()
  takes_signals = ()


@pytest.fixture
def joined(monkeypatch):
  """The calls that reach the other processes and JAX."""
  calls = Calls()

  def initialize(**arguments):
    calls.append(arguments)
    calls.takes_signals = [jax.config.jax_enable_preemption_service]
    if calls.fails:
      raise calls.fails.pop()

  def meet(spec, timeout):
    calls.append(
      (spec.coordinator_address, spec.num_processes, spec.process_id, timeout)
    )

  for name in os.environ:
    if name.startswith(("TIME_JAX_", *OTHERS)) or name.lower() in PROXIES:
      monkeypatch.delenv(name)
  for name in ("no_proxy", "NO_PROXY"):
    monkeypatch.setenv(name, "example.org")
  monkeypatch.setattr(parallel_processes.rendezvous, "meet", meet)
  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  state = parallel_processes.runtime.global_state
  monkeypatch.setattr(state, "client", object())
  monkeypatch.setattr(
    state, "initialize_preemption_sync_manager", lambda: calls.append("hears")
  )
  # Tests have used JAX already, a program that starts has not.
  monkeypatch.setattr(
    parallel_processes.xla_bridge, "backends_are_initialized", lambda: False
  )
  monkeypatch.setattr(
    parallel_processes.multihost_utils,
    "sync_global_devices",
    lambda name: calls.append("met"),
  )
  return calls


def set_all(monkeypatch, values):
  for name, value in values.items():
    monkeypatch.setenv(name, value)


def arguments(address, count, index, timeout=900, heartbeat=100):
  return {
    "coordinator_address": address,
    "num_processes": count,
    "process_id": index,
    "local_device_ids": None,
    "cluster_detection_method": "deactivate",
    "initialization_timeout": timeout,
    "heartbeat_timeout_seconds": heartbeat,
    "shutdown_timeout_seconds": 300,
  }


def test_the_environment_decides(joined, monkeypatch, capsys):
  limits = {"TIME_JAX_TIMEOUT": "60", "TIME_JAX_HEARTBEAT": "20"}
  set_all(monkeypatch, COMPLETE | limits)
  parallel_processes.initialize()
  assert joined == [
    ("host:1234", 4, 3, 60),
    arguments("host:1234", 4, 3, 60, 20),
    "met",
    "hears",
  ]
  first = capsys.readouterr().err.splitlines()[0]
  assert first == "process 3 of 4 (TIME_JAX_*), coordinator host:1234"
  assert os.environ["no_proxy"] == "example.org"


def test_a_web_proxy_is_bypassed(joined, monkeypatch):
  set_all(monkeypatch, COMPLETE | {"https_proxy": "http://proxy:3128"})
  parallel_processes.initialize()
  assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "example.org,host"


@pytest.mark.parametrize(
  "change",
  [
    *({COUNT: ""}, {PROCESS: "4"}),
    *({"TIME_JAX_TIMEOUT": "soon"}, {"TIME_JAX_SHUTDOWN": "0"}),
  ],
)
def test_what_is_wrong_reaches_nobody(joined, monkeypatch, change):
  set_all(monkeypatch, COMPLETE | change)
  with pytest.raises(UserError):
    parallel_processes.initialize()
  assert joined == []


def test_a_notebook_that_uses_jax_already_joins_nobody(joined, monkeypatch):
  monkeypatch.setattr(
    parallel_processes.xla_bridge, "backends_are_initialized", lambda: True
  )
  monkeypatch.setattr(parallel_processes.runtime.global_state, "client", None)
  assert parallel_processes.initialize().num_processes == 1
  assert joined == [] and not parallel_processes.preempted()


def test_alone(joined, capsys):
  parallel_processes.initialize()
  (address, count, process, _), called, *then = joined
  assert (count, process, then) == (1, 0, ["met", "hears"])
  wanted = arguments(address, 1, 0)
  wanted["heartbeat_timeout_seconds"] = parallel_processes._NEVER
  assert called == wanted
  host, port = address.split(":")
  assert host == "localhost" and 1024 <= int(port) < 65536
  assert capsys.readouterr().err == ""


def test_alone_it_may_be_suspended():
  """JAX would take it for dead, and end it when it goes on."""
  program = (
    "from time_jax.parallel import processes; processes.initialize(); "
    "print('joined', flush=True); input(); print('went on')"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", program],
    env=os.environ | {"TIME_JAX_HEARTBEAT": "2", "JAX_NUM_CPU_DEVICES": "1"},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "joined\n"
  process.send_signal(signal.SIGSTOP)
  time.sleep(5)
  process.send_signal(signal.SIGCONT)
  time.sleep(2)
  out, errors = process.communicate("\n", timeout=60)
  assert (process.returncode, out) == (0, "went on\n"), errors


@pytest.mark.parametrize(
  "variable",
  [{"JAX_COORDINATOR_ADDRESS": "h:1"}, {"JOB_COMPLETION_INDEX": "2"}],
)
def test_one_of_several_does_not_run_alone(joined, monkeypatch, variable):
  set_all(monkeypatch, variable)
  with pytest.raises(UserError, match=f"one of several .*set {COORDINATOR}"):
    parallel_processes.initialize()
  assert joined == []


def test_what_jax_finds(joined, monkeypatch):
  """Cloud TPU VMs and Kubernetes, which are asked and not read."""
  detect = "auto_detect_unset_distributed_params"
  monkeypatch.setattr(
    parallel_processes.clusters.ClusterEnv,
    detect,
    lambda *given: ("10.0.0.1:8482", 4, 1, None),
  )
  parallel_processes.initialize()
  assert joined[1] == arguments("10.0.0.1:8482", 4, 1)

  def refused(*given):
    raise RuntimeError("Kubernetes API Error: 403\nlong story")

  monkeypatch.setattr(parallel_processes.clusters.ClusterEnv, detect, refused)
  with pytest.raises(UserError, match="Kubernetes API Error: 403. Set TIME"):
    parallel_processes.initialize()


def test_a_cluster_that_fails_is_not_left_for_a_run_alone(joined, monkeypatch):
  set_all(monkeypatch, COMPLETE)
  joined.fails = [jax.errors.JaxRuntimeError("address in use")]
  with pytest.raises(jax.errors.JaxRuntimeError, match="address in use"):
    parallel_processes.initialize()
  assert "met" not in joined


def test_one_that_never_comes_is_named_before_jax_aborts(joined, monkeypatch):
  from time_jax.parallel import rendezvous

  monkeypatch.undo()
  with socket.create_server(("localhost", 0)) as free:
    port = free.getsockname()[1]
  called = []
  monkeypatch.setattr(
    jax.distributed, "initialize", lambda **given: called.append(given)
  )
  set_all(
    monkeypatch,
    {
      COORDINATOR: f"localhost:{port}",
      COUNT: "3",
      PROCESS: "0",
      "TIME_JAX_TIMEOUT": "1",
    },
  )
  assert parallel_processes.rendezvous.meet is rendezvous.meet
  with pytest.raises(RestartableError, match="processes 1, 2 of 3 did not"):
    parallel_processes.initialize()
  assert called == []


def test_a_signal_is_left_alone_until_it_is_asked_for(joined):
  """Text is prepared between the two, which ends as other commands do."""
  parallel_processes.join()
  assert joined[-1] == "met" and "hears" not in joined
  assert joined.takes_signals == [False]
  assert jax.config.jax_enable_preemption_service  # As it was.
  parallel_processes.hear_signals()
  assert joined[-1] == "hears"
