"""Commands of one process, as a launcher starts them: several at once."""

import dataclasses
import hashlib
import json
import socket
import struct
import threading
import time

import pytest

from time_jax.cli import commands, main
from time_jax.core import errors
from time_jax.parallel import (
  coordinator_port,
  launcher_env,
  rendezvous,
  run_once,
)
from time_jax.parallel.launcher_env import ProcessSpec


def free_port():
  with socket.create_server(("localhost", 0)) as free:
    return free.getsockname()[1]


SPECS = {}  # thread -> the process that it plays


@pytest.fixture(autouse=True)
def _processes_of_threads(monkeypatch):
  detect = run_once._this_process
  monkeypatch.setattr(
    run_once,
    "_this_process",
    lambda: SPECS.get(threading.get_ident()) or detect(),
  )
  yield
  SPECS.clear()


def run(index, work, port, patience=20, count=3, words=("export",)):
  """What one process ends with: the code, or the type of its error."""
  spec = ProcessSpec("test", f"localhost:{port}", count, index)
  SPECS[threading.get_ident()] = spec
  try:
    return run_once.run_once(work, words, patience)
  except BaseException as error:
    return type(error)
  finally:
    del SPECS[threading.get_ident()]


def together(works, port=None, **how):
  """What each process ends with, a thread for each."""
  port = port or free_port()
  ends = {}

  def play(index, work):
    ends[index] = run(index, work, port, **how)

  threads = [threading.Thread(target=play, args=each) for each in works.items()]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(60)
  return ends


def failing(error):
  def work():
    raise error

  return work


@pytest.mark.parametrize(
  ("work", "first", "others"),
  [
    (lambda: 0, 0, 0),
    (lambda: 3, 3, 3),
    (lambda: 42, 42, 42),
    (failing(KeyError("bug")), KeyError, 1),
    (failing(BrokenPipeError()), BrokenPipeError, 141),
  ],
)
def test_one_does_it_and_all_end_alike(capsys, work, first, others):
  done = []

  def once():
    done.append(1)
    time.sleep(0.3)
    return work()

  ends = together({0: once, 1: once, 2: once})
  assert ends == {0: first, 1: others, 2: others}
  assert done == [1]
  told = capsys.readouterr().err
  assert told.count("process 0 ended with exit code") == 2 * (others != 0)


def test_process_0_that_is_late_or_never_comes():
  def late():
    time.sleep(0.5)
    return 5

  never = failing(AssertionError("it is not process 0"))
  ends = together({0: late, 1: never, 2: never})
  assert ends == {0: 5, 1: 5, 2: 5}
  ends = together({1: never}, patience=0.1)
  assert ends == {1: errors.RestartableError}


def test_process_0_that_is_killed():
  """The system closes what it held."""
  port = free_port()

  def be_killed():
    with socket.create_server(("localhost", port)) as listener:
      peer, _ = listener.accept()
      with peer:
        hello = json.loads(peer.makefile().readline())
        peer.sendall(coordinator_port._as_line({"purpose": hello["purpose"]}))

  first = threading.Thread(target=be_killed)
  first.start()
  never = failing(AssertionError("it is not process 0"))
  assert together({1: never}, port) == {1: errors.RestartableError}
  first.join(30)


def test_beside_a_run_each_does_it_alone():
  """In a pod or node of a run, whose coordinator listens there."""
  with socket.create_server(("localhost", 0)) as other:
    port = other.getsockname()[1]
    stop = threading.Event()

    def speak_otherwise():
      other.settimeout(0.1)
      while not stop.is_set():
        try:
          peer, _ = other.accept()
        except TimeoutError:
          continue
        with peer:
          peer.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00")

    speaker = threading.Thread(target=speak_otherwise)
    speaker.start()
    ends = together({0: lambda: 6, 1: lambda: 7}, port)
    stop.set()
    speaker.join(30)
  assert ends == {0: 6, 1: 7}


def connected(port):
  for _ in range(500):
    try:
      return socket.create_connection(("localhost", port), 5)
    except OSError:
      time.sleep(0.01)
  raise AssertionError


def hello(purpose):
  greeting = coordinator_port.Hello(purpose, 1, 3, "somebody")
  return json.dumps(dataclasses.asdict(greeting)).encode() + b"\n"


def reset(peer):
  """Hangs up as a port probe may do: without a word of farewell."""
  how = struct.pack("ii", 1, 0)
  peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
  peer.close()


NEVER = failing(AssertionError("it is not process 0"))


def test_strangers_take_nobodys_place():
  """Port probes, web clients, one who says nothing, and a run's process."""
  port = free_port()
  run_starts = hello(rendezvous.RUN)
  silent = []

  def work():
    for said in (
      b"",
      b"GET / HTTP/1.1\r\n\r\n",
      run_starts,
      b"[" * 1000,
      b"\xff\n",
    ):
      with connected(port) as peer:
        peer.sendall(said)
    reset(connected(port))
    silent.append(connected(port))
    time.sleep(0.2)
    others.start()
    time.sleep(0.5)
    return 5

  ends = {}
  others = threading.Thread(
    target=lambda: ends.update(together({1: NEVER, 2: NEVER}, port))
  )
  # A run's process ended the wait for late ones, not for those who ask.
  assert run(0, work, port) == 5
  others.join(60)
  silent[0].close()
  assert ends == {1: 5, 2: 5}


def test_one_that_was_killed_and_one_that_is_late(monkeypatch, capsys):
  """Both hear how it ended, when process 0 is long done."""
  monkeypatch.setattr(run_once, "_FIRST_SAID", 0.1)
  port = free_port()
  command = json.dumps([3, "export"]).encode()
  purpose = f"command {hashlib.sha256(command).hexdigest()[:16]}"

  def work():
    with connected(port) as killed:
      killed.sendall(hello(purpose))
      assert json.loads(killed.makefile().readline()) == {"purpose": purpose}
    return 3

  ends = {}
  first = threading.Thread(target=lambda: ends.update({0: run(0, work, port)}))
  first.start()
  time.sleep(1)
  assert not ends
  told = capsys.readouterr().err
  assert "over (exit code 3); waiting up to" in told
  assert "for processes 1, 2 of 3 (test)" in told and run_once._ALONE in told
  ends |= together({1: NEVER, 2: NEVER}, port)
  first.join(60)
  assert ends == {0: 3, 1: 3, 2: 3}


def test_the_wait_for_others_ends(monkeypatch):
  """By Ctrl-C, with the command's own code; and when a run wants the port."""
  port = free_port()

  def interrupt(self, verdict):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(coordinator_port.Listener, "tell", interrupt)
    assert run(0, lambda: 0, port, patience=900, count=2) == 0

  def start_a_run():
    with pytest.raises(errors.RestartableError, match="could not reach"):
      rendezvous.meet(ProcessSpec("test", f"localhost:{port}", 2, 1), 2)

  starting = threading.Thread(target=start_a_run)
  starting.start()
  assert run(0, lambda: 0, port, patience=900, count=2) == 0
  starting.join(60)


def test_beside_the_roll_call_of_a_run_it_is_done_here():
  """In a pod of a run whose others are not all there yet."""
  port = free_port()
  spec = ProcessSpec("test", f"localhost:{port}", 3, 0)
  with coordinator_port.Listener(spec, rendezvous.RUN):
    assert together({1: lambda: 7}, port) == {1: 7}


def test_another_command_is_not_taken_for_done():
  port, ends = free_port(), {}

  def other():
    ends[1] = run(1, NEVER, port, count=2, words=["choose"])

  def late():
    thread = threading.Thread(target=other)
    thread.start()
    thread.join(60)
    return 0

  assert run(0, late, port, patience=0.1, count=2) == 0
  assert ends == {1: errors.UserError}


def test_whoever_waits_says_what_to_type(monkeypatch, capsys):
  monkeypatch.setattr(run_once, "_FIRST_SAID", 0.1)
  ends = together({1: lambda: 0}, patience=0.5)
  assert ends == {1: errors.RestartableError}
  told = capsys.readouterr().err
  assert "process 1 of 3 (test) waits for process 0 at localhost:" in told
  assert f"type {run_once._ALONE} before the command" in told


def test_which_commands_process_0_does():
  """Those that write something; `sweep` refuses several processes."""
  once = {n for n, command in commands.COMMANDS.items() if command.once}
  writing = {"choose", "export", "import", "probe", "report", "spacy", "start"}
  assert once == writing | {"trim"}


def test_who_only_reads_waits_for_nobody(monkeypatch, capsys):
  """In the pod or node of a run whose others are not there, or at work."""
  for index in (0, 1):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost,other")
    monkeypatch.setenv("TPU_WORKER_ID", str(index))
    begun = time.monotonic()
    assert main.main(["languages", "da"]) == 0
    assert time.monotonic() - begun < 5
    assert "Danish" in capsys.readouterr().out


def test_what_is_wrong_is_said_before_the_others_are_told(
  monkeypatch, tmp_path, capsys
):
  said = []
  monkeypatch.setattr(
    run_once, "_tell", lambda *_: said.append(capsys.readouterr().err)
  )
  set_variables(monkeypatch, f"localhost:{free_port()}")
  assert main.main(["choose", f"--workdir={tmp_path}"]) == 2
  assert "time_jax: error: " in said[0]


def set_variables(monkeypatch, coordinator):
  values = (coordinator, "2", "0")
  for name, value in zip(launcher_env.VARIABLES, values, strict=True):
    monkeypatch.setenv(name, value)


def test_alone_it_is_done_here(monkeypatch, tmp_path, capsys):
  """Also in a shell inside of a job of SLURM with several tasks."""
  choose = ["choose", f"--workdir={tmp_path}"]
  monkeypatch.setenv("SLURM_JOB_ID", "7")
  monkeypatch.setenv("SLURM_NTASKS", "4")
  assert main.main(choose) == 2
  assert str(tmp_path) in capsys.readouterr().err
  monkeypatch.setenv("TIME_JAX_NUM_PROCESSES", "2")
  assert main.main(choose) == 2
  assert "set all of TIME_JAX_COORDINATOR" in capsys.readouterr().err
