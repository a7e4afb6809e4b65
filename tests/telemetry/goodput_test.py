"""Where the time of a run goes."""

import types

import pytest

from time_jax.telemetry import goodput


@pytest.fixture
def clock(monkeypatch):
  """A clock that moves by hand."""
  now = [100.0]
  fake = types.SimpleNamespace(
    perf_counter=lambda: now[0], time=lambda: now[0] + 1e9
  )
  monkeypatch.setattr(goodput, "time", fake)
  return now


def sums(book):
  row = book.row()
  assert row.pop("time/unix") > 1e9
  return {
    kind: row[f"time/{kind}"] for kind in goodput.KINDS if row[f"time/{kind}"]
  }


def test_every_second_is_of_one_kind(clock):
  book = goodput.Ledger()
  clock[0] += 5

  def items():
    for i in range(2):
      clock[0] += 0.25
      yield i

  with book.doing("steps"):
    for _ in book.timed(items()):
      clock[0] += 2
      with book.doing("checkpoint"):
        clock[0] += 1
    assert sums(book) == {
      "startup": 5,
      "steps": 4,
      "checkpoint": 2,
      "input": 0.5,
    }
    with pytest.raises(OSError), book.doing("evaluation"):
      clock[0] += 3
      raise OSError
    clock[0] += 1
  clock[0] += 1
  assert sums(book) == {
    "startup": 6,
    "steps": 5,
    "checkpoint": 2,
    "input": 0.5,
    "evaluation": 3,
  }


def test_a_resumed_run_goes_on_counting(clock):
  book = goodput.Ledger()
  clock[0] += 2
  rows = [
    {"step": 4, "time/steps": 10.0, "time/startup": 1.0},
    {"step": 6, "time/steps": 20.0, "time/startup": 1.5},
    {"step": 6, "eval/loss": 1.0},
  ]
  first, now = 1e9 + 62, 1e9 + 100
  book.resume(rows, [first, 1e9 + 80, now])
  assert sums(book) == {"steps": 20, "startup": 3.5}
  found = book.row()
  assert (found["run/goodput"], found["run/restarts"]) == (20 / 40, 2)
  book.resume([{"step": 1}], [now])  # Of a run from before there were sums.
  assert sums(book) == {"steps": 20, "startup": 3.5}


def test_saving_goes_on_beside_the_steps(clock):
  book = goodput.Ledger()
  clock[0] += 2
  assert book.row(saving=5.0)["run/saving"] == 5.0
  book.resume([{"step": 1, "time/steps": 0.0, "run/saving": 7.0}], [])
  assert book.row(saving=5.0)["run/saving"] == 12.0
  assert sums(book) == {"startup": 2}


def test_throughput_counts_steps_and_waiting(clock):
  """A step counts with its own tokens, and once its results are there."""
  lengths = [500, 100, 40, 8]

  def items():
    for i in range(4):
      clock[0] += 0.5  # to fetch
      yield i

  ledger = goodput.Ledger()
  throughput = goodput.Throughput(ledger)
  assert throughput.read(2) == {}  # No step yet, and no time either.
  for item in ledger.timed(items()):
    clock[0] += 1.5  # to compute
    if item > 1:
      continue  # Started only.
    throughput.count(lengths[item])
    if item == 1:
      assert throughput.read(2) == {
        "perf/steps_per_second": 0.5,
        "perf/tokens_per_second": 150.0,
        "perf/tokens_per_second_per_device": 75.0,
        "perf/input_wait": 0.25,
      }
      clock[0] += 1000  # an evaluation
      throughput.restart()
  assert item == 3
  assert throughput.read(1) == {}
  throughput.count(lengths[2])
  found = throughput.read(1)
  assert found["perf/steps_per_second"] == 0.25
  assert found["perf/tokens_per_second"] == 10
  assert found["perf/input_wait"] == 0.25
