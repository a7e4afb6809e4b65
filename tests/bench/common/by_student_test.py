"""The parts of a step of several students, and what they add up to."""

import functools

import jax
import numpy as np
import pytest
import small_run
from meshes import make_mesh

from time_jax.bench.common import by_student, teacher_alone
from time_jax.bench.common.step_runner import StepRunner, Window
from time_jax.parallel import sharding
from time_jax.step.memory import device_bytes

TEACHER = by_student._TEACHER


def config_of(**fields):
  return small_run.make_config(
    data__seq_len=16, train__accumulation=2, mesh__data=1, **fields
  )


@pytest.fixture(scope="module")
def runner():
  """Two students of different layers, on one device."""
  configs = {
    "m": config_of(student__hidden_size=32, relations__weights__qq=0.0),
    "xs": config_of(teacher__layer=2, relations__weights__vv=0.0),
  }
  return StepRunner.build(configs, jax.devices()[:1])


def test_the_sum_of_the_parts():
  """A machine that is twice as fast in its second round, and an odd third."""
  alone = {("m",): 5.0, ("xs",): 3.0, TEACHER: 2.0, (): 6.6}
  times = {key: [one, one / 2, one * 7] for key, one in alone.items()}
  found = by_student.summary(["m", "xs"], times)
  assert found["rounds"] == 3
  assert found["teacher_s"] == 2.0 and found["together_s"] == 6.6
  assert found["sum_of_parts_s"] == pytest.approx(2 + 3 + 1)
  assert found["one_by_one_s"] == pytest.approx(8)
  assert found["ratio"] == pytest.approx(1.1)
  assert found["of_one_by_one"] == pytest.approx(6.6 / 8)
  assert found["students"] == {
    "m": {"alone_s": 5.0, "own_s": 3.0},
    "xs": {"alone_s": 3.0, "own_s": 1.0},
  }


def test_ratios_are_those_of_a_round():
  """1 / 1, 10 / 5 and 4 / 8: their median is not that of times."""
  teacher = [1.0, 5.0, 8.0]
  times = {TEACHER: teacher, ("m",): teacher, (): [1.0, 10.0, 4.0]}
  found = by_student.summary(["m"], times)
  assert found["ratio"] == found["of_one_by_one"] == 1.0
  assert found["students"]["m"]["own_s"] == 0


def test_all_are_measured_in_turns(runner, monkeypatch):
  seconds = {(): 0.25, TEACHER: 0.125, ("m",): 0.1875, ("xs",): 0.15625}
  calls = []

  def window(what, batches, steps):
    next(batches)
    calls.append((what, steps))
    return Window([seconds[what]] * steps, 0.0, 0)

  monkeypatch.setattr(
    StepRunner, "window", lambda _, rows, n, *names: window(names, rows, n)
  )
  monkeypatch.setattr(
    StepRunner, "teacher_window", lambda _, rows, n: window(TEACHER, rows, n)
  )
  found = by_student.measure(runner, runner.full_batch(), 7, 12345)
  order = [(), TEACHER, ("m",), ("xs",)]
  first, *counted = [calls[i : i + 4] for i in range(0, len(calls), 4)]
  assert len(counted) == found["rounds"] == 5
  assert first == [(what, 2) for what in order]  # 7 steps in five rounds
  assert counted[0] == first[::-1]
  assert found["ratio"] == 0.25 / (0.125 + 0.0625 + 0.03125)
  assert found["temporaries_bytes"] == 12345
  batch = runner.full_batch()
  parts = found["teacher_flops"]
  for name, own in found["students"].items():
    state = runner.states[name]
    assert own["weights_bytes"] == device_bytes(state.params)
    moments = device_bytes(state.opt_state)
    counters = 3 * 4
    assert own["optimizer_bytes"] == moments + counters
    assert own["temporaries_bytes"] > 0
    parts += own["flops"]
  assert parts == found["flops"]
  assert found["flops"] == runner.flops(batch).total
  told = by_student.as_text(found).splitlines()
  assert [line.split()[:3] for line in told[1:3]] == [
    ["m", "187.5", "62.5"],
    ["xs", "156.2", "31.2"],
  ]
  assert told[3].startswith("teacher") and "125.0" in told[3]
  assert told[4].startswith("sum of parts") and "218.8" in told[4]
  assert told[5].startswith("together") and told[5].endswith("12.3 kB")
  assert told[7] == "together / sum of parts: 1.143 (goal: at most 1.05)"
  assert "one by one: 0.727; both are medians of 5 rounds" in told[8]
  assert told[9].startswith("the teacher runs up to layer 3 in all of these")
  assert all(len(line) <= 80 for line in told)
  found["layers"]["xs"] = 3
  assert "up to layer" not in by_student.as_text(found)


def test_a_student_alone_leaves_the_others_alone(runner):
  batch = runner.full_batch()
  other = jax.tree.map(np.asarray, runner.states["m"])
  before = int(runner.states["xs"].step)
  window = runner.window(iter([batch] * 3), 3, "xs")
  assert len(window.seconds) == 3 and window.real_tokens == 3 * 16 * 16
  assert int(runner.states["xs"].step) == before + 3
  jax.tree.map(np.testing.assert_array_equal, runner.states["m"], other)
  runner.window(iter([batch]), 1)
  assert int(runner.states["xs"].step) == before + 4
  assert int(runner.states["m"].step) == int(other.step) + 1


def test_the_teacher_alone_computes_what_students_read(runner):
  batch = runner.full_batch()
  window = runner.teacher_window(iter([batch] * 2), 2)
  assert len(window.seconds) == 2 and window.real_tokens == 2 * 16 * 16
  ask = jax.jit(runner.objectives["m"].teacher.targets)
  found = ask(runner.teacher_params, batch)
  read = {2: ("query", "key"), 3: ("key", "value")}
  expected = sum(
    np.asarray(getattr(found.projections[layer], field)).sum(dtype=np.float64)
    for layer, fields in read.items()
    for field in fields
  )
  for accumulation, sizes in ((1, (1, 1, 1)), (2, (1, 1, 1)), (2, (2, 2, 1))):
    mesh = make_mesh(*sizes)
    params = {name: state.params for name, state in runner.states.items()}
    params = sharding.replicate(params, mesh)
    frozen = sharding.replicate(runner.teacher_params, mesh)
    rows = jax.device_put(batch, sharding.batch_sharding(mesh))
    with sharding.use_mesh(mesh):
      total = jax.jit(
        functools.partial(teacher_alone.ask, runner.objectives, accumulation)
      )(params, frozen, rows)
    np.testing.assert_allclose(total["sum"], expected, rtol=1e-4, atol=1e-2)
    assert total["data/tokens"] == 16 * 16
