"""Processes that are told to stop, are killed, or stand still."""

import contextlib
import json
import os
import pathlib
import re
import signal
import time

import pytest
import running

from time_jax.core.storage import lease

# A place, the how-manyeth visit, and the step that is saved at least then.
PLACES = {
  "step": ("step:25", 20),
  "save": ("save:2", 10),
  "compilation": ("compilation:1", 0),
  "evaluation": ("evaluation:2", 10),
}


def saved_step(workdir):
  found = (workdir / "checkpoints").glob("[0-9]*")
  return max((int(p.name) for p in found if p.name.isdecimal()), default=0)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm(command, recovered, note, tmp_path, place, processes):
  fault, least = PLACES[place]
  cache = str(tmp_path / "cache")  # Empty, so that compiling takes a while.
  more = {"JAX_COMPILATION_CACHE_DIR": cache} if place == "compilation" else {}
  # All stop where only process 0 is told to; it alone writes checksums.
  code, output = running.disturbed(
    command, f"{fault}:SIGTERM", processes, **more
  )
  assert code == 42, output
  reached = saved_step(tmp_path / "run")
  assert reached > least or place == "compilation"
  assert f"Stopped by a signal after step {reached}" in output
  seconds, output = recovered(processes)
  assert f"continuing after step {reached}" in output
  fault = f"SIGTERM, {place}" + " of 0 of 2" * (processes - 1)
  note(fault, f"saved step {reached}, resumed exact", 42, seconds)


@pytest.mark.parametrize("place", PLACES)
def test_kill_9(command, recovered, note, tmp_path, place):
  fault, least = PLACES[place]
  code, output = running.disturbed(command, f"{fault}:SIGKILL")
  assert code == -signal.SIGKILL, output
  reached = saved_step(tmp_path / "run")
  assert reached in (least, max(least - 10, 0))  # It may not have been done.
  seconds, output = recovered()
  if reached:
    assert f"continuing after step {reached}" in output
  note(f"kill -9, {place}", f"step {reached} left, resumed exact", 137, seconds)


@pytest.mark.parametrize("kind", ["SIGTERM", "SIGKILL"])
def test_preparation(tiny, note, tmp_path, kind):
  """What is prepared is kept, and the end is the same to the byte."""
  workdir, text = tmp_path / "run", tmp_path / "train.txt"
  text.write_text((tiny / "validation.txt").read_text() * 2000)
  flags = f"--config.data.train=('{text}',)", "--config.data.shard_text_mb=1"
  command = ["prepare", *running.command(tiny, workdir, *flags)[1:]]
  whole = tmp_path / "whole"
  again = [word.replace(str(workdir), str(whole)) for word in command]
  assert running.run(again)[0] == 0
  code, output = running.disturbed(command, f"preparation:3:{kind}")
  assert code == {"SIGTERM": 42, "SIGKILL": -9}[kind], output
  kept = {
    path: path.stat().st_mtime_ns
    for path in (workdir / "data" / "unfinished").glob("*.record")
  }
  assert len(kept) >= 3
  if kind == "SIGTERM":
    last = output.strip().splitlines()[-1]
    assert last.startswith("time_jax: error: stopped by a signal; what is fin")
  ended = {42: 42, -9: 137}[code]
  code, output, seconds = running.recover(command, workdir)
  assert code == 0, output

  def rows(folder):
    found = sorted((folder / "data").rglob("*array_record*"))
    return {p.name: p.read_bytes() for p in found}

  assert rows(workdir) == rows(whole) and len(rows(whole)) > 4
  times = {p.stat().st_mtime_ns for p in (workdir / "data").rglob("*record-*")}
  assert times >= set(kept.values())  # Not written again.
  name = {"SIGTERM": "SIGTERM", "SIGKILL": "kill -9"}[kind]
  outcome = f"{len(kept)} shards kept, same bytes"
  note(f"{name}, prepare", outcome, ended, seconds)


@pytest.mark.timeout(900)  # The cores may have other work.
@pytest.mark.parametrize("victim", range(4))
def test_kill_9_of_one_of_four(
  command, recovered, note, tmp_path, victim, undisturbed
):
  (tmp_path / "logs").mkdir()
  words, logs = [*command, *undisturbed.fewer], str(tmp_path / "logs")
  code, output = running.disturbed(
    words, "step:15:SIGKILL", 4, victim, LOGS=logs
  )
  # JAX itself aborts those that miss process 0 before a step does, by one
  # signal or another: launchers start again after each.
  assert code == 42 or code > 127, (code, output)
  logs = [output, *(p.read_text() for p in (tmp_path / "logs").iterdir())]
  words = ("lost another process", "JAX distributed service detected fatal")
  told = [log for log in logs if any(word in log for word in words)]
  assert len(told) >= 3, logs
  assert saved_step(tmp_path / "run") in (0, 10)  # Under way, or done.
  seconds, _ = recovered(4)
  fault = f"kill -9 of process {victim} of 4"
  note(fault, "the others ended, resumed exact", code, seconds)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("victim", "processes"), [(1, 2), (0, 2), (2, 4)])
def test_sigstop(
  command, recovered, note, tmp_path, victim, processes, undisturbed
):
  """The watchdogs of the others end them; nobody would tell them otherwise."""
  logs = tmp_path / "logs"
  logs.mkdir()
  more = {"LOGS": str(logs), "FAULTS": "step:15:SIGSTOP"}
  more |= {"VICTIM": str(victim), "MODULE": "tests.faults.disturbed"}
  # Starting and compiling count; the cores may have other work.
  words = [*command, "--config.train.watchdog=45"]
  words += undisturbed.fewer if processes > 2 else ()
  process = running.start(words, processes, **more)
  running.wait_for(process, tmp_path / "run", 10)
  ids = running.processes_of(process)
  stopped = ids.pop(victim)
  for pid in ids.values():
    running.wait_until_gone(pid, 200)
  stat = pathlib.Path(f"/proc/{stopped}/stat").read_text()
  assert stat.rpartition(")")[2].split()[0] == "T"
  with contextlib.suppress(ProcessLookupError):
    os.kill(stopped, signal.SIGKILL)
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 42 or process.returncode > 127, output
  told = [output, *(path.read_text() for path in logs.iterdir())]
  told = [t for t in told if "error: no step for 45 s (train.watchdog)" in t]
  assert told and all(re.search(r"File .*loop.py", t) for t in told)
  seconds, _ = recovered(processes)
  fault = f"SIGSTOP of process {victim} of {processes}"
  note(fault, "watchdog ended the others, resumed exact", 42, seconds)


def stopped_at_15(command, workdir):
  """A run that has suspended itself, and is there to be woken."""
  more = {"FAULTS": "step:15:SIGSTOP", "MODULE": "tests.faults.disturbed"}
  process = running.start(command, **more)
  running.wait_for(process, workdir, 12)
  stat = pathlib.Path(f"/proc/{process.pid}/stat")
  while stat.read_text().rpartition(")")[2].split()[0] != "T":
    time.sleep(0.05)
  return process


def test_two_runs_of_one_workdir(command, undisturbed, note, tmp_path):
  """The second is refused, and changes nothing for the first."""
  process = stopped_at_15(command, tmp_path / "run")
  began = time.monotonic()
  code, output = running.run([*command, "--config.train.peak_lr=1e-4"])
  seconds = time.monotonic() - began
  assert code == 2, output
  assert f"(pid {process.pid}, since" in output.strip().splitlines()[-1]
  os.kill(process.pid, signal.SIGCONT)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 0, output
  running.assert_same_state(
    running.saved(tmp_path / "run", 40), running.saved(undisturbed(), 40)
  )
  assert running.losses(tmp_path / "run") == running.losses(undisturbed())
  note("a second run of a workdir", "refused, first exact", 2, seconds)


def test_suspended_and_taken_over(command, recovered, note, tmp_path):
  """Another machine goes on; the run that wakes up writes nothing."""
  run = tmp_path / "run"
  process = stopped_at_15(command, run)
  time.sleep(3)
  more = {"FAULTS": "elsewhere:2", "MODULE": "tests.faults.disturbed"}
  seconds, output = recovered(**more)
  assert "took over --workdir=" in output and "no sign for" in output

  def finished():
    """What it was writing when it stood still has no name, and gets none."""
    files = [p for p in run.rglob("checkpoints/**/*") if p.is_file()]
    return {
      p: p.stat().st_mtime_ns for p in files if "checkpoint-tmp" not in str(p)
    }

  before = finished()
  texts = [(run / f"{n}.jsonl").read_bytes() for n in ("metrics", "sessions")]
  # Who took it over is still there, as far as the other one knows.
  holder = {"host": "far", "boot": "", "processes": "", "pid": 1, "born": ""}
  holder |= {"command": "distill", "started": 0.0, "token": "far"}
  (run / lease.RUN).write_text(json.dumps(holder))
  os.kill(process.pid, signal.SIGCONT)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 3, output
  assert "was taken over by 'distill' on far (pid 1, since" in output
  assert finished() == before
  assert texts == [
    (run / f"{n}.jsonl").read_bytes() for n in ("metrics", "sessions")
  ]
  outcome = "exact elsewhere; woken, it wrote nothing"
  note("suspended, taken over", outcome, 3, seconds)


@pytest.mark.parametrize("victim", [0, 1])
def test_an_error_of_one_of_two(command, recovered, note, tmp_path, victim):
  """It says so and ends at once; the other need not wait for it."""
  (tmp_path / "logs").mkdir()
  logs = str(tmp_path / "logs")
  code, output = running.disturbed(command, "rows:25", 2, victim, LOGS=logs)
  told = [output, (tmp_path / "logs" / "process-1.log").read_text()]
  assert "error: rows are damaged here" in told[victim], told
  assert "rows are damaged here" not in told[1 - victim]
  # Waited for are first 1, then 0.
  assert code == 2 if victim else code == 42 or code > 127, told
  assert "lost another process" in told[1 - victim] or code > 127, told
  seconds, _ = recovered(2)
  fault = f"bad rows for process {victim} of 2"
  note(fault, "both ended, resumed exact", 2, seconds)
