"""Objects in other processes answer, and tell what is wrong."""

import functools
import importlib
import os
from unittest import mock

import pytest

from time_jax.bench.common.child_process import ChildProcess
from time_jax.core.errors import RunError, UserError


def test_an_object_in_another_process():
  with ChildProcess(list, "abc") as child:
    assert child.call("index", "b") == 1
    with pytest.raises(RunError, match="ValueError: 'z' is not in list"):
      child.call("index", "z")
    child.call("append", "z")
    child.send("index", "z")
    assert child.receive() == 3


def test_an_object_that_cannot_be_made():
  with pytest.raises(RunError, match="ValueError: invalid literal"):
    ChildProcess(int, "x")


def test_a_process_that_is_killed_and_its_environment():
  child = ChildProcess(
    importlib.import_module, "os", environment={"TIME_JAX_TEST": "set"}
  )
  assert child.call("getenv", "TIME_JAX_TEST") == "set"
  with pytest.raises(RunError, match="ended with code 9; -9 mostly means"):
    child.call("_exit", 9)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not Linux")
def test_a_process_that_has_some_cores():
  one = {min(os.sched_getaffinity(0))}
  with ChildProcess(importlib.import_module, "os", cores=one) as child:
    assert child.call("sched_getaffinity", 0) == one


def test_errors_of_users_stay_what_they_are():
  side_effect = {"measure.side_effect": UserError("no room.")}
  child = ChildProcess(functools.partial(mock.Mock, **side_effect))
  with child, pytest.raises(UserError, match="^no room.$"):
    child.call("measure")
