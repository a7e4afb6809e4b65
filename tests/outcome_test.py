"""Commands of one process, as a launcher starts them: several at once."""

import socket
import threading
import time

import pytest

from time_jax import cli, commands, errors, outcome
from time_jax.cluster import Place


def free_port():
  with socket.create_server(("localhost", 0)) as free:
    return free.getsockname()[1]


def together(monkeypatch, works, port=None, patience=20):
  """What each process ends with, a thread for each."""
  port = port or free_port()
  places, ends = {}, {}

  def run(index, work):
    places[threading.get_ident()] = Place("test", f"localhost:{port}", 3, index)
    try:
      ends[index] = outcome.by_first(work, patience)
    except BaseException as error:
      ends[index] = type(error)

  monkeypatch.setattr(outcome, "_place", lambda: places[threading.get_ident()])
  threads = [threading.Thread(target=run, args=each) for each in works.items()]
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
    (failing(errors.UserError("no")), errors.UserError, 2),
    (failing(errors.RestartableError("gone")), errors.RestartableError, 42),
    (failing(KeyError("bug")), KeyError, 1),
    (failing(KeyboardInterrupt()), KeyboardInterrupt, 130),
  ],
)
def test_one_does_it_and_all_end_alike(
  monkeypatch, capsys, work, first, others
):
  done = []

  def once():
    done.append(1)
    time.sleep(0.3)
    return work()

  ends = together(monkeypatch, {0: once, 1: once, 2: once})
  assert ends == {0: first, 1: others, 2: others}
  assert done == [1]
  told = capsys.readouterr().err
  assert told.count("process 0 ended with exit code") == 2 * (others != 0)


def test_process_0_that_is_late_or_never_comes(monkeypatch):
  def late():
    time.sleep(0.5)
    return 5

  never = failing(AssertionError("it is not process 0"))
  ends = together(monkeypatch, {0: late, 1: never, 2: never})
  assert ends == {0: 5, 1: 5, 2: 5}
  ends = together(monkeypatch, {1: never}, patience=0.1)
  assert ends == {1: errors.RestartableError}


def test_process_0_that_is_killed(monkeypatch):
  """The system closes what it held."""
  port = free_port()

  def be_killed():
    with socket.create_server(("localhost", port)) as listener:
      peer, _ = listener.accept()
      with peer:
        peer.sendall(outcome._HELLO)

  first = threading.Thread(target=be_killed)
  first.start()
  never = failing(AssertionError("it is not process 0"))
  assert together(monkeypatch, {1: never}, port) == {1: errors.RestartableError}
  first.join(30)


def test_beside_a_run_each_does_it_alone(monkeypatch):
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
    ends = together(monkeypatch, {0: lambda: 6, 1: lambda: 7}, port)
    stop.set()
    speaker.join(30)
  assert ends == {0: 6, 1: 7}


def test_which_commands_all_processes_share():
  """The others are done once, or would write one folder together."""
  shared = {n for n, command in commands.COMMANDS.items() if command.shared}
  assert shared == {
    *("prepare", "distill", "finetune ud", "finetune ner", "finetune qa"),
    *("bench step", "doctor", "sweep"),  # sweep refuses several.
  }


def test_alone_it_is_done_here(monkeypatch, capsys):
  """Also in a shell inside of a job of SLURM with several tasks."""
  monkeypatch.setenv("SLURM_JOB_ID", "7")
  monkeypatch.setenv("SLURM_NTASKS", "4")
  assert cli.main(["languages", "da"]) == 0
  assert "Danish" in capsys.readouterr().out
  monkeypatch.setenv("TIME_JAX_NUM_PROCESSES", "2")
  assert cli.main(["languages", "da"]) == 2
  assert "set all of TIME_JAX_COORDINATOR" in capsys.readouterr().err
