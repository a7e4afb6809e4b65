"""One writer at a time: who may take a lease, and who notices that it is gone.

Holders are invented: of this machine or others, dead, suspended, much later.
"""

import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from time_jax.core.errors import RunError, UserError, exit_status
from time_jax.core.storage import holder as holders
from time_jax.core.storage import lease


def holder(place, age=1.0, **changed):
  """Leaves a lease of somebody else there, with a last sign so long ago."""
  me = dataclasses.asdict(holders.this_process())
  place.write_text(json.dumps(me | {"command": "distill x"} | changed))
  os.utime(place, (time.time() - age,) * 2)
  return place


def refusal(place):
  with pytest.raises(UserError) as caught, lease.hold(place, "--workdir=W"):
    pass
  return str(caught.value)


@pytest.fixture
def place(tmp_path):
  return tmp_path / lease.RUN


@pytest.fixture
def ended():
  """The id of a process that has been."""
  process = subprocess.Popen([sys.executable, "-c", ""])
  process.wait()
  return process.pid


def test_a_lease_is_there_while_it_is_held(place):
  with lease.hold(place, "--workdir=W"):
    content = json.loads(place.read_text())
    assert content["pid"] == os.getpid() and content["host"]
    lease.check()
    line = refusal(place)
  assert line.startswith("--workdir=W is being written by ")
  assert f"(pid {os.getpid()}, since 20" in line and "last sign 0 s ago" in line
  assert not list(place.parent.iterdir())


def test_it_is_renewed_by_its_time_alone(place, monkeypatch):
  monkeypatch.setattr(lease, "RENEWED_EVERY", 0.02)
  with lease.hold(place, "W"):
    text = place.read_bytes()
    for _ in range(3):
      os.utime(place, (0, 0))
      deadline = time.monotonic() + 20
      while not place.stat().st_mtime:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert place.read_bytes() == text


@pytest.mark.parametrize("age", [0.0, 30.0, 1e6])
def test_of_a_dead_process_of_this_machine_it_is_free(
  place, ended, capsys, age
):
  holder(place, age, pid=ended)
  with lease.hold(place, "W"):
    pass
  holder(place, age, born="1")  # Another process has got its id since.
  with lease.hold(place, "W"):
    pass
  assert not capsys.readouterr().err


def test_a_zombie_is_dead(place):
  process = subprocess.Popen([sys.executable, "-c", ""])
  deadline = time.monotonic() + 20
  while holders._born(process.pid) is not None:
    assert time.monotonic() < deadline
    time.sleep(0.01)
  with lease.hold(holder(place, pid=process.pid, born=""), "W"):
    pass
  process.wait()


@pytest.mark.parametrize("age", [1.0, 1e6])
def test_of_a_live_one_of_this_machine_it_is_refused(place, age):
  """Also of one that is suspended for hours."""
  line = refusal(holder(place, age))
  assert f"'distill x' on {holders.this_process().host} (pid" in line


@pytest.mark.parametrize(
  "other",
  [
    {"host": "far"},
    {"processes": "pid:[1]"},  # a container of this machine
    {"boot": "x"},  # another machine of this one's name
  ],
)
def test_of_another_machine_it_is_refused_for_a_minute(
  place, ended, capsys, other
):
  line = refusal(holder(place, 40, pid=ended, **other))
  assert f"'distill x' on {other.get('host', '')}" in line
  assert "last sign 40 s ago" in line
  assert refusal(holder(place, -3600, pid=ended, **other))  # An odd clock.
  assert not capsys.readouterr().err
  with lease.hold(holder(place, 61, pid=ended, **other), "W"):
    lease.check()
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("time_jax: took over W from 'distill x' on ")
  assert line.endswith("no sign for 61 s")


def test_a_container_is_known_where_the_system_hides_its_start(monkeypatch):
  """Some sandboxes have no boot_id; containers may share the host's name."""
  known = holders.this_process().processes

  def refuse(*arguments, **options):
    raise FileNotFoundError

  monkeypatch.setattr(holders.Path, "read_text", refuse)
  hidden = holders.this_process()
  assert (hidden.boot, hidden.processes) == ("", known)


def test_after_a_restart_of_the_machine_it_is_free(place, monkeypatch, capsys):
  monkeypatch.setattr(holders, "_uptime", lambda: 20.0)
  assert refusal(holder(place, 15, boot="before"))
  assert refusal(holder(place, 25, boot="before", host="far"))
  with lease.hold(holder(place, 25, boot="before"), "W"):
    pass
  assert not capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"host": 1}', "\0"])
def test_a_torn_one_is_somebodys_for_a_minute(place, text):
  place.write_text(text)
  assert "an unknown host" in refusal(place)
  os.utime(place, (time.time() - 61,) * 2)
  with lease.hold(place, "W"):
    pass


def test_a_launcher_waits_for_a_sign(place, monkeypatch, capsys):
  monkeypatch.setenv("TIME_JAX_LEASE_WAIT", "5")
  with lease.hold(holder(place, 59, host="far"), "W"):
    pass
  waiting, took = capsys.readouterr().err.splitlines()
  assert waiting.startswith("time_jax: W: waiting for a sign of 'distill x' on")
  assert "took over W" in took
  holder(place, 50, host="far")
  threading.Timer(0.3, lambda: os.utime(place)).start()
  began = time.monotonic()
  assert "last sign" in refusal(place)
  assert time.monotonic() < began + 4
  monkeypatch.setenv("TIME_JAX_LEASE_WAIT", "a while")
  assert "TIME_JAX_LEASE_WAIT='a while'; expected seconds" in refusal(place)


def test_one_of_many_takers_wins(place, ended):
  """Of a lease whose holder is gone, which all of them remove."""
  for _ in range(20):
    holder(place, 61, pid=ended)
    won, lost = [], []
    start, end = threading.Barrier(6), threading.Barrier(6)

    def take(won=won, lost=lost, start=start, end=end):
      start.wait()
      try:
        with lease.hold(place, "W"):
          end.wait()
          lease.check()
          won.append(1)
      except UserError:
        lost.append(1)
        end.wait()

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert (len(won), len(lost)) == (1, 5)
    assert not list(place.parent.iterdir())


def test_a_slow_taker_removes_nothing(place, ended):
  """It found a dead holder; another one has taken the lease meanwhile."""
  gone = holders.parse(holder(place).read_bytes())
  with lease.hold(holder(place, pid=ended, token="gone"), "W"):
    assert not lease._Lease(place, "W").remove_of(gone)
    lease.check()
  assert not list(place.parent.iterdir())


def test_a_taker_that_was_killed_is_in_nobodys_way(place, ended):
  old = place.with_name(f"{place.name}.gone.old")
  holder(old, pid=ended)
  with lease.hold(holder(place, pid=ended, token="gone"), "W"):
    lease.check()
  assert not list(place.parent.iterdir())


def test_a_holder_that_stood_still_notices(place):
  with lease.hold(place, "--workdir=W"):
    holder(place, host="far", pid=7)
    with pytest.raises(RunError) as caught:
      lease.check()
    with pytest.raises(RunError):
      lease.check()
    line = "--workdir=W was taken over by 'distill x' on far (pid 7, since "
    assert str(caught.value).startswith(line)
    assert exit_status(caught.value) == (3, str(caught.value))
  assert place.exists()  # It is the other one's.


def test_a_lease_that_was_deleted_is_put_back(place):
  with lease.hold(place, "W"):
    place.unlink()
    lease.check()
    assert place.exists()
  assert not place.exists()


def test_without_hard_links(place, monkeypatch, ended):
  def link(*paths):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))

  monkeypatch.setattr(os, "link", link)
  with lease.hold(holder(place, pid=ended), "W"):
    lease.check()
    assert refusal(place)
  assert not list(place.parent.iterdir())


def test_a_disk_that_refuses(place, monkeypatch):
  with lease.hold(place, "W"):

    def utime(*args):
      raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "utime", utime)
    with pytest.raises(RunError, match="Input/output error") as caught:
      lease.check()
    assert exit_status(caught.value)[0] == 42  # The storage may come back.

    def full(*args, **kwargs):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(place), "write_text", full)
    line = refusal(place)
  assert line.startswith(
    "--workdir=W cannot be written to: No space left on device; "
  )


def test_a_link_to_nothing_is_told(place):
  place.symlink_to("nothing")
  assert refusal(place).startswith(f"{place} is a link to nothing")


def test_what_was_left_by_a_killed_taker_goes_away(place):
  old, young = (place.with_name(f"{place.name}.{n}") for n in ("a", "b.old"))
  young.touch()
  holder(old, 100)
  with lease.hold(place, "W"):
    assert young.exists() and not old.exists()
