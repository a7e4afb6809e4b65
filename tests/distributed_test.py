"""How processes find each other; JAX's own part is replaced."""

import os

import jax
import pytest

from time_jax import distributed
from time_jax.errors import UserError

COORDINATOR = "TIME_JAX_COORDINATOR"
COUNT = "TIME_JAX_NUM_PROCESSES"
PROCESS = "TIME_JAX_PROCESS_ID"
COMPLETE = {COORDINATOR: "host:1234", COUNT: "4", PROCESS: "3"}


@pytest.fixture
def joined(monkeypatch):
  """The calls that reach JAX. Put an exception into `fails` to raise it."""
  calls = []

  def initialize(*where, **more):
    assert more == {"initialization_timeout": 900}
    calls.append(where)
    if calls.fails:
      raise calls.fails.pop()

  class Calls(list):
    fails = ()

  calls = Calls()
  for name in os.environ:
    if name.startswith("TIME_JAX_"):
      monkeypatch.delenv(name)
  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  monkeypatch.setattr(
    distributed.multihost_utils,
    "sync_global_devices",
    lambda name: calls.append("met"),
  )
  return calls


def set_all(monkeypatch, values):
  for name, value in values.items():
    monkeypatch.setenv(name, value)


def test_the_variables_decide(joined, monkeypatch):
  set_all(monkeypatch, COMPLETE)
  distributed.initialize()
  assert joined == [("host:1234", 4, 3), "met"]


@pytest.mark.parametrize(
  "given",
  [
    [COORDINATOR],
    [COUNT],
    [PROCESS],
    [COORDINATOR, COUNT],
    [COUNT, PROCESS],
    [COORDINATOR, PROCESS],
  ],
)
def test_some_of_the_variables(joined, monkeypatch, given):
  set_all(monkeypatch, {name: COMPLETE[name] for name in given})
  with pytest.raises(UserError) as caught:
    distributed.initialize()
  absent = [name for name in COMPLETE if name not in given]
  everything = ", ".join(COMPLETE)
  assert str(caught.value) == f"set all of {everything}; missing: {absent}."
  assert joined == []


def test_an_empty_variable_is_missing(joined, monkeypatch):
  set_all(monkeypatch, COMPLETE | {COUNT: ""})
  with pytest.raises(UserError, match=f"missing: \\['{COUNT}'\\]"):
    distributed.initialize()
  assert joined == []


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({COUNT: "two"}, "NUM_PROCESSES='two' and .*must be integers"),
    ({PROCESS: "1.0"}, "PROCESS_ID='1.0' must be integers"),
    ({PROCESS: "4"}, "PROCESS_ID=4 must be at least 0 and below .*=4"),
    ({PROCESS: "-1"}, "PROCESS_ID=-1 must be at least 0"),
    ({COUNT: "0", PROCESS: "0"}, "PROCESS_ID=0 must .* below .*PROCESSES=0"),
  ],
)
def test_bad_numbers(joined, monkeypatch, change, words):
  set_all(monkeypatch, COMPLETE | change)
  with pytest.raises(UserError, match=words):
    distributed.initialize()
  assert joined == []


def test_a_cluster_that_jax_knows(joined):
  distributed.initialize()
  assert joined == [(), "met"]


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_alone(joined, error):
  joined.fails = [error("no cluster")]
  distributed.initialize()
  first, (address, count, process), met = joined
  assert (first, count, process, met) == ((), 1, 0, "met")
  host, port = address.split(":")
  assert host == "localhost" and 1024 <= int(port) < 65536


def test_a_cluster_that_fails_is_not_left_for_a_run_alone(joined):
  joined.fails = [jax.errors.JaxRuntimeError("address in use")]
  with pytest.raises(jax.errors.JaxRuntimeError, match="address in use"):
    distributed.initialize()
  assert joined == [()]


def test_variables_that_fail_are_not_ignored(joined, monkeypatch):
  set_all(monkeypatch, COMPLETE)
  joined.fails = [RuntimeError("no such host")]
  with pytest.raises(RuntimeError, match="no such host"):
    distributed.initialize()
  assert joined == [("host:1234", 4, 3)]
