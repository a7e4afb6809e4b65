import itertools
import subprocess
import sys
import threading
import time

import pytest

from time_jax.evals.predict.ahead import run_ahead


def test_results_come_in_order_and_then_the_error():
  def results():
    yield from range(5)
    raise ValueError("no sixth one")

  found = []
  with pytest.raises(ValueError, match="no sixth one"):
    found.extend(run_ahead(results(), 2))
  assert found == [*range(5)]
  assert [*run_ahead(iter([]), 1)] == []


def test_no_more_is_computed_than_may_wait():
  made = []
  results = run_ahead((made.append(i) or i for i in itertools.count()), 2)
  assert next(results) == 0
  time.sleep(0.3)
  assert made == [0, 1, 2, 3]  # Two wait, one is handed over.
  before = threading.active_count()
  results.close()
  for _ in range(50):
    if threading.active_count() < before:
      break
    time.sleep(0.1)
  assert threading.active_count() < before and made == [0, 1, 2, 3]


def test_a_process_ends_while_its_thread_waits_for_input():
  code = (
    "import sys\n"
    "from time_jax.evals.predict import ahead, streams\n"
    "blocks = ahead.run_ahead(streams.blocks(sys.stdin.buffer), 1)\n"
    "print(next(blocks), flush=True)\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  process.stdin.write(b"a line\n")
  process.stdin.flush()
  assert process.stdout.readline() == b"b'a line\\n'\n"
  # Its standard input stays open: the thread still reads.
  assert process.wait(timeout=60) == 0
  assert process.stderr.read() == b""
