import itertools
import subprocess
import sys
import threading
import time

import pytest

from time_jax.data.ahead import run_ahead


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
  assert threading.active_count() < before and made == [0, 1, 2, 3]


def test_a_thread_is_told_and_waited_for():
  closed, ended = threading.Event(), []

  def results():
    yield 1
    assert closed.wait(30)
    ended.append(True)

  found = run_ahead(results(), 1, closed=closed)
  assert next(found) == 1
  found.close()
  assert ended == [True]


def test_a_chain_of_threads_ends_while_the_first_one_waits():
  closed, never = threading.Event(), threading.Event()

  def first():
    yield 1
    never.wait(60)

  def second():
    yield from run_ahead(first(), 1, stop=closed, patience=0.0)

  found = run_ahead(second(), 1, closed=closed)
  assert next(found) == 1
  start = time.monotonic()
  found.close()
  assert time.monotonic() - start < 5
  never.set()


def test_nothing_is_lost_where_the_first_thread_ends_early():
  closed = threading.Event()

  def second():
    yield from run_ahead(iter(range(5)), 2, stop=closed, patience=1.0)

  found = []
  for result in run_ahead(second(), 5, closed=closed):
    time.sleep(0.1)  # Both threads have ended long before the last result.
    found.append(result)
  assert found == [*range(5)]


def test_a_process_ends_while_its_thread_waits_for_input():
  code = (
    "import sys\n"
    "from time_jax.data import ahead\n"
    "from time_jax.evals.predict import streams\n"
    "source = streams.blocks(sys.stdin.buffer)\n"
    "blocks = ahead.run_ahead(source, 1, patience=0.0)\n"
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
