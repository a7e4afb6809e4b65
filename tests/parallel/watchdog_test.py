"""A run that hangs ends, and shows where."""

import subprocess
import sys
import time

import running

PROGRAM = """
import threading, time
from time_jax.parallel.watchdog import Watchdog

def hangs_here(seconds):
  time.sleep(seconds)

threading.Thread(target=hangs_here, args=(60,), daemon=True).start()
with Watchdog({watchdog}) as watchdog:
  for _ in range({beats}):
    time.sleep(0.05)
    watchdog.beat()
  hangs_here({hang})
print("went on")
"""


def run(**values):
  return subprocess.run(
    [sys.executable, "-c", PROGRAM.format(**values)],
    cwd=running.ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )


def test_silence_ends_the_process_and_shows_all_threads():
  start = time.monotonic()
  done = run(watchdog=0.5, beats=20, hang=30)
  assert done.returncode == 42, done.stderr
  assert time.monotonic() - start < 15
  assert done.stderr.count("in hangs_here") == 2
  last = done.stderr.splitlines()[-1]
  assert last.startswith("time_jax: error: no step for 0 s (train.watchdog);")


def test_beats_keep_it_alive():
  done = run(watchdog=1, beats=40, hang=0)
  assert done.returncode == 0 and done.stdout == "went on\n", done.stderr


def test_it_can_be_off():
  done = run(watchdog=0, beats=0, hang=0.3)
  assert done.returncode == 0 and not done.stderr
