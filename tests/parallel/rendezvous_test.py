"""The roll call, with processes as threads, and one with real ones."""

import concurrent.futures
import dataclasses
import errno
import json
import socket
import subprocess
import sys
import time

import pytest
import running

from time_jax.core.errors import RestartableError, UserError
from time_jax.core.storage import lease
from time_jax.parallel import coordinator_port, rendezvous
from time_jax.parallel import processes as parallel_processes
from time_jax.parallel.launcher_env import ProcessSpec


@pytest.fixture
def address():
  with socket.create_server(("localhost", 0)) as free:
    return f"localhost:{free.getsockname()[1]}"


def meet_all(address, indices, processes, timeout):
  """index -> None, or the error that it got."""

  def one(index):
    try:
      rendezvous.meet(ProcessSpec("test", address, processes, index), timeout)
    except Exception as error:
      return error

  with concurrent.futures.ThreadPoolExecutor(len(indices)) as pool:
    return list(pool.map(one, indices))


def test_all_come(address):
  for _ in range(2):  # The port is free again at once.
    assert meet_all(address, [3, 0, 2, 1], 4, 20) == [None] * 4


def test_hosts_without_ipv6(address, monkeypatch):
  create = socket.create_server

  def refuse(where, family=socket.AF_INET, **options):
    if family == socket.AF_INET6:
      raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
    options.pop("dualstack_ipv6", None)
    return create(where, family=family, **options)

  monkeypatch.setattr(socket, "create_server", refuse)
  assert meet_all(address, [0, 1], 2, 20) == [None] * 2


def test_alone_needs_no_port():
  rendezvous.meet(ProcessSpec("test", "nowhere:1", 1, 0), 0.1)


def test_all_are_told_who_is_missing(address):
  errors = meet_all(address, [0, 2, 4], 5, 1)
  for error in errors:
    assert isinstance(error, RestartableError)
    assert str(error).startswith(
      f"processes 1, 3 of 5 did not report to {address} within 1 s (test)"
    )


def test_all_are_told_why_process_0_refuses(address, tmp_path, monkeypatch):
  """Another run holds the lease of the workdir, say."""

  def refused():
    held = lease.hold(tmp_path / lease.RUN, "--workdir=W")
    place = ProcessSpec("test", address, 3, 0)
    monkeypatch.setattr(parallel_processes, "_detect", lambda timeout: place)
    with (
      pytest.raises(UserError) as caught,
      held,
      parallel_processes.hold_workdir(tmp_path),
    ):
      pass
    return str(caught.value)

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    first = pool.submit(refused)
    for error in meet_all(address, [1, 2], 3, 20):
      assert isinstance(error, UserError) and str(error) == first.result()
  assert "is being written by" in first.result()
  place = ProcessSpec("test", address, 3, 1)
  with lease.hold(tmp_path / lease.RUN, "W"):
    monkeypatch.setattr(parallel_processes, "_detect", lambda timeout: place)
    with parallel_processes.hold_workdir(tmp_path):  # Only process 0 needs it.
      pass


def test_process_0_never_comes(address):
  (error,) = meet_all(address, [1], 2, 1)
  assert isinstance(error, RestartableError)
  assert f"process 1 of 2 could not reach process 0 at {address}" in str(error)
  assert "Connection refused" in str(error)


def test_a_port_that_is_taken(address):
  with socket.create_server(("", int(address.split(":")[1]))):
    (error,) = meet_all(address, [0], 2, 1)
  assert isinstance(error, RestartableError)
  assert f"cannot listen at {address}: Address already in use" in str(error)


def connect(address):
  host, port = address.split(":")
  for _ in range(200):
    try:
      return socket.create_connection((host, int(port)), 5)
    except OSError:
      time.sleep(0.01)
  raise AssertionError


def hello(index, processes=3, who="them", purpose=rendezvous.RUN):
  greeting = coordinator_port.Hello(purpose, index, processes, who)
  return json.dumps(dataclasses.asdict(greeting)).encode() + b"\n"


def disturbed(address, *said, close=False, others=True):
  """What process 0 of 3 gets when others say this first, then 1 and 2 come."""
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    first = pool.submit(meet_all, address, [0], 3, 20)
    peers = []
    for text in said:
      peer = connect(address)
      peer.sendall(text)
      peers.append(peer)
      if close:
        peer.close()
    if others:
      rest = pool.submit(meet_all, address, [1, 2], 3, 20)
      assert rest.result() == [None, None]
    error = first.result()[0]
    for peer in peers:
      peer.close()
    return error


@pytest.mark.parametrize(
  "said",
  [
    *(b"GET / HTTP/1.1\r\n\r\n", b"\n", b"[1]\n", b"x" * 9000),
    hello(1, purpose="command 7"),
  ],
)
def test_strangers_are_ignored(address, said):
  assert disturbed(address, said) is None


def test_one_that_was_killed_comes_again(address):
  assert disturbed(address, hello(1), close=True) is None


@pytest.mark.parametrize(
  ("said", "words"),
  [
    ([hello(2, 5)], "them calls itself process 2 of 5, but process 0 was told"),
    ([hello(3)], "them calls itself process 3 of 3"),
    ([hello(1, who="a"), hello(1, who="b")], "both call themselves process 1"),
  ],
)
def test_processes_that_contradict_each_other(address, said, words):
  error = disturbed(address, *said, others=False)
  assert isinstance(error, UserError) and words in str(error)


@pytest.mark.slow
def test_a_run_of_three_of_which_one_never_comes(tiny, tmp_path):
  """The command: exit code 42, the missing process named, no traceback."""
  with socket.create_server(("localhost", 0)) as free:
    address = f"localhost:{free.getsockname()[1]}"
  command = [
    *(sys.executable, "-m", "time_jax"),
    *running.command(tiny, tmp_path, "--config.data.validation=()"),
  ]
  processes = [
    subprocess.Popen(
      command,
      cwd=running.ROOT,
      env=running.environment(
        TIME_JAX_COORDINATOR=address,
        TIME_JAX_NUM_PROCESSES="3",
        TIME_JAX_PROCESS_ID=index,
        TIME_JAX_TIMEOUT="6",
      ),
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in ("0", "2")
  ]
  for process, index in zip(processes, "02", strict=True):
    _, output = process.communicate(timeout=240)
    assert process.returncode == 42, output
    assert f"process {index} of 3 (TIME_JAX_*), coordinator {address}" in output
    assert "processes 1 of 3 did not report" in output.splitlines()[-1]
    assert "Traceback" not in output
