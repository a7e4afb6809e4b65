"""How a run's processes are joined; JAX's own part is replaced."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from time_jax.core.errors import RestartableError, RunError, UserError
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

  def meet(place, timeout):
    calls.append((place.coordinator, place.processes, place.index, timeout))

  for name in os.environ:
    if name.startswith(("TIME_JAX_", *OTHERS)) or name.lower() in PROXIES:
      monkeypatch.delenv(name)
  for name in ("no_proxy", "NO_PROXY"):
    monkeypatch.setenv(name, "example.org")
  monkeypatch.setattr(parallel_processes.rendezvous, "meet", meet)
  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  monkeypatch.setattr(
    parallel_processes.runtime.global_state,
    "initialize_preemption_sync_manager",
    lambda: calls.append("hears"),
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
  time.sleep(8)
  process.send_signal(signal.SIGCONT)
  time.sleep(3)
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
  with pytest.raises(UserError, match="Kubernetes API Error: 403 Set TIME"):
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


class EndError(Exception):
  """Stands for the end of the process."""


@pytest.mark.parametrize(
  ("reason", "processes", "ends"),
  [
    ("UNKNOWN: Gloo all-reduce failed: reset by peer\nlong story", 2, True),
    ("UNAVAILABLE: task 3 is gone", 8, True),
    ("RESOURCE_EXHAUSTED: out of memory", 2, False),
    ("UNAVAILABLE: no other process", 1, False),
  ],
)
def test_a_process_that_lost_another_ends_at_once(
  monkeypatch, capsys, reason, processes, ends
):
  def leave(code):
    assert code == 42
    raise EndError

  monkeypatch.setattr(os, "_exit", leave)
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  monkeypatch.setattr(parallel_processes, "_all_failed", lambda: True)
  expected = EndError if ends else jax.errors.JaxRuntimeError
  with pytest.raises(expected), parallel_processes.ending_with_others():
    raise jax.errors.JaxRuntimeError(reason)
  (*_, last) = ["", *capsys.readouterr().err.splitlines()]
  assert last.startswith("time_jax: error: process 0 lost another") == ends
  assert (f"({reason.splitlines()[0]}); start the same" in last) == ends


@pytest.mark.parametrize(
  ("error", "code", "words"),
  [
    (UserError("bad rows"), 2, "time_jax: error: bad rows"),
    (RunError("disk full"), 3, "time_jax: error: disk full"),
    (OSError(errno.ESTALE, "stale"), 42, "time_jax: error: lost storage: "),
    (KeyError("x"), 1, "KeyError: 'x'"),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED"), 1, "RESOURCE_EXHAUSTED"),
  ],
)
def test_an_error_that_others_have_not_ends_at_once(
  monkeypatch, capsys, error, code, words
):
  def leave(found):
    assert found == code
    raise EndError

  monkeypatch.setattr(os, "_exit", leave)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(parallel_processes, "_all_failed", lambda: False)
  with pytest.raises(EndError), parallel_processes.ending_with_others():
    raise error
  assert words in capsys.readouterr().err.splitlines()[-1]


def test_an_error_of_all_goes_the_usual_way(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(parallel_processes, "_all_failed", lambda: True)
  with pytest.raises(UserError), parallel_processes.ending_with_others():
    raise UserError("bad configuration")


@pytest.mark.parametrize("seen", [[[True], [True]], [[True], [False]]])
def test_a_workdir_that_is_not_shared(monkeypatch, tmp_path, seen):
  written = []

  def gather(sees):
    written.extend(path.name for path in tmp_path.iterdir())
    assert sees.tolist() == [True]
    return np.asarray(seen)

  for name, stand_in in {
    "broadcast_one_to_all": lambda x: x,
    "sync_global_devices": lambda name: None,
    "process_allgather": gather,
  }.items():
    monkeypatch.setattr(parallel_processes.multihost_utils, name, stand_in)
  parallel_processes.check_shared(tmp_path)  # Alone.
  assert not written
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  if seen[1] == [True]:
    parallel_processes.check_shared(tmp_path)
  else:
    with pytest.raises(UserError, match=r"processes \[1\] do not see what"):
      parallel_processes.check_shared(tmp_path)
  assert len(written) == 1 and not list(tmp_path.iterdir())


def test_a_signal_is_left_alone_until_it_is_asked_for(joined):
  """Text is prepared between the two, which ends as other commands do."""
  parallel_processes.join()
  assert joined[-1] == "met" and "hears" not in joined
  assert joined.takes_signals == [False]
  assert jax.config.jax_enable_preemption_service  # As it was.
  parallel_processes.hear_signals()
  assert joined[-1] == "hears"


def test_all_are_waited_for_however_long_it_takes(monkeypatch):
  """In short waits, so that a signal is heard."""
  asked, late = [], ["DEADLINE_EXCEEDED: too late"] * 2

  def get(name, milliseconds):
    asked.append(name[-1])
    if name.endswith("-1") and late:
      raise jax.errors.JaxRuntimeError(late.pop())
    return "done"

  client = types.SimpleNamespace(
    key_value_set=lambda name, value: asked.append(f"set {name[-1]}"),
    blocking_key_value_get=get,
  )
  monkeypatch.setattr(parallel_processes.runtime.global_state, "client", client)
  parallel_processes.wait_for_all("text")  # Alone.
  assert asked == []
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  parallel_processes.wait_for_all("text")
  assert asked == ["set 0", "0", "1", "1", "1", "2"]
  late.append("UNAVAILABLE: process 1 is gone")
  with pytest.raises(jax.errors.JaxRuntimeError, match="is gone"):
    parallel_processes.wait_for_all("text")


def damaged():
  raise UserError("scores.json is damaged.")


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
  ("work", "told"), [(lambda: "five", ["", "five"]), (damaged, None)]
)
def test_what_process_0_does_is_told_to_all(monkeypatch, index, work, told):
  """The others do nothing; they get its text, or its error."""
  told = told or ["UserError", "scores.json is damaged."]
  asked = []

  def gather(text):
    asked.append(json.loads(text))
    return [json.dumps(told), text]

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: index)
  monkeypatch.setattr(parallel_processes, "of_all", gather)
  mine = work if index == 0 else lambda: pytest.fail("it is not process 0")
  if work is damaged:
    with pytest.raises(UserError, match="json is damaged"):
      parallel_processes.by_first(mine)
  else:
    assert parallel_processes.by_first(mine) == "five"
  assert asked == [told if index == 0 else ["", ""]]
