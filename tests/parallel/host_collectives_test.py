"""What joined processes tell each other; JAX's own part is replaced."""

import json
import types

import jax
import numpy as np
import pytest

from time_jax.core.errors import GoneError, UserError
from time_jax.parallel import host_collectives


@pytest.mark.parametrize("seen", [[[True], [True]], [[True], [False]]])
def test_a_workdir_that_is_not_shared(monkeypatch, tmp_path, seen):
  written = []

  def gather(sees):
    written.extend(path.name for path in tmp_path.iterdir())
    assert sees.tolist() == [True]
    return np.asarray(seen)

  for name, stand_in in {
    "broadcast_one_to_all": lambda x: x,
    "sync_global_devices": lambda name: None,
    "process_allgather": gather,
  }.items():
    monkeypatch.setattr(host_collectives.multihost_utils, name, stand_in)
  host_collectives.check_shared(tmp_path)  # Alone.
  assert not written
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  if seen[1] == [True]:
    host_collectives.check_shared(tmp_path)
  else:
    with pytest.raises(UserError, match=r"processes \[1\] do not see what"):
      host_collectives.check_shared(tmp_path)
  assert len(written) == 1 and not list(tmp_path.iterdir())


def test_all_are_waited_for_however_long_it_takes(monkeypatch):
  """In short waits, so that a signal is heard."""
  asked, late = [], ["DEADLINE_EXCEEDED: too late"] * 2

  def get(name, milliseconds):
    asked.append(name[-1])
    if name.endswith("-1") and late:
      raise jax.errors.JaxRuntimeError(late.pop())
    return "done"

  client = types.SimpleNamespace(
    key_value_set=lambda name, value: asked.append(f"set {name[-1]}"),
    blocking_key_value_get=get,
  )
  monkeypatch.setattr(host_collectives.runtime.global_state, "client", client)
  host_collectives.barrier("text")  # Alone.
  assert asked == []
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  host_collectives.barrier("text")
  assert asked == ["set 0", "0", "1", "1", "1", "2"]
  late.append("UNAVAILABLE: process 1 is gone")
  with pytest.raises(jax.errors.JaxRuntimeError, match="is gone"):
    host_collectives.barrier("text")


def damaged():
  raise GoneError("scores.json is damaged.")


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
  ("work", "told"), [(lambda: "five", ["", "five"]), (damaged, None)]
)
def test_what_process_0_does_is_told_to_all(monkeypatch, index, work, told):
  """The others do nothing; they get its text, or its error."""
  told = told or ["UserError", "scores.json is damaged."]
  asked = []

  def gather(text):
    asked.append(json.loads(text))
    return [json.dumps(told), text]

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: index)
  monkeypatch.setattr(host_collectives, "all_gather", gather)
  mine = work if index == 0 else lambda: pytest.fail("it is not process 0")
  if work is damaged:
    with pytest.raises(UserError, match="json is damaged"):
      host_collectives.run_on_first(mine)
  else:
    assert host_collectives.run_on_first(mine) == "five"
  assert asked == [told if index == 0 else ["", ""]]
