"""An error of one process ends all of them."""

import errno
import os

import jax
import pytest

from time_jax.core.errors import RunError, UserError
from time_jax.parallel import failures


class EndError(Exception):
  """Stands for the end of the process."""


@pytest.mark.parametrize(
  ("reason", "processes", "ends"),
  [
    ("UNKNOWN: Gloo all-reduce failed: reset by peer\nlong story", 2, True),
    ("UNAVAILABLE: task 3 is gone", 8, True),
    ("RESOURCE_EXHAUSTED: out of memory", 2, False),
    ("UNAVAILABLE: no other process", 1, False),
  ],
)
def test_a_process_that_lost_another_ends_at_once(
  monkeypatch, capsys, reason, processes, ends
):
  def leave(code):
    assert code == 42
    raise EndError

  monkeypatch.setattr(os, "_exit", leave)
  monkeypatch.setattr(jax, "process_count", lambda: processes)
  monkeypatch.setattr(failures, "_all_failed", lambda: True)
  expected = EndError if ends else jax.errors.JaxRuntimeError
  with pytest.raises(expected), failures.fail_together():
    raise jax.errors.JaxRuntimeError(reason)
  (*_, last) = ["", *capsys.readouterr().err.splitlines()]
  assert last.startswith("time_jax: error: process 0 lost another") == ends
  assert (f"({reason.splitlines()[0]}); start the same" in last) == ends


@pytest.mark.parametrize(
  ("error", "code", "words"),
  [
    (UserError("bad rows"), 2, "time_jax: error: bad rows"),
    (RunError("disk full"), 3, "time_jax: error: disk full"),
    (OSError(errno.ESTALE, "stale"), 42, "time_jax: error: lost storage: "),
    (KeyError("x"), 1, "KeyError: 'x'"),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED"), 1, "RESOURCE_EXHAUSTED"),
  ],
)
def test_an_error_that_others_have_not_ends_at_once(
  monkeypatch, capsys, error, code, words
):
  def leave(found):
    assert found == code
    raise EndError

  monkeypatch.setattr(os, "_exit", leave)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(failures, "_all_failed", lambda: False)
  with pytest.raises(EndError), failures.fail_together():
    raise error
  assert words in capsys.readouterr().err.splitlines()[-1]


def test_an_error_of_all_goes_the_usual_way(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(failures, "_all_failed", lambda: True)
  with pytest.raises(UserError), failures.fail_together():
    raise UserError("bad configuration")
