"""Several students of one teacher: each learns what it would learn alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from several_students import (
  PAIR,
  STUDENTS,
  Run,
  assert_close,
  assert_equal,
  both_on_one_device,
  of,
  rows,
)

from time_jax.run import assembly
from time_jax.step.train_step import Student, train_step


@pytest.mark.parametrize(
  ("name", "accumulation"),
  [
    ("s", 4),
    pytest.param("s", 1, marks=pytest.mark.slow),
    pytest.param("xs", 1, marks=pytest.mark.slow),
    pytest.param("xs", 4, marks=pytest.mark.slow),
  ],
)
def test_together_as_alone(name, accumulation):
  """Each alone has a teacher of its own, cut off at its own layer."""
  _, together = both_on_one_device(accumulation)
  alone = Run([name], accumulation=accumulation)
  assert alone.teacher.layers == (STUDENTS[name]["teacher.layer"],)
  expected = alone.steps(alone.states())
  assert_close(of(name, together), of(name, expected))


@pytest.mark.parametrize(
  ("sizes", "accumulation"),
  [
    pytest.param((8, 1, 1), 1, marks=pytest.mark.slow),
    ((2, 2, 1), 4),
    pytest.param((2, 2, 2), 1, marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_any_mesh_gives_the_same_students(sizes, accumulation):
  _, expected = both_on_one_device(accumulation)
  run = Run(PAIR, sizes, accumulation)
  states, history = run.steps(run.states())
  assert_close(history, expected[1], 1e-5)
  # Adam makes steps of what is rounding, where a gradient is 0.
  assert_close(states, expected[0], 5e-4)


def test_who_else_is_trained_does_not_matter():
  _, expected = both_on_one_device()
  run = Run(PAIR, accumulation=4, living=("xs",))
  states = run.states()
  found = run.steps(states)
  assert found[0].keys() == {"xs"}
  # Two programs, in which XLA may round otherwise.
  assert_close(of("xs", found), of("xs", expected))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(states))


def test_only_the_students_of_the_step_are_trained():
  run, _ = both_on_one_device()
  states = run.states()
  students = {
    name: Student(run.objectives[name], assembly.step_settings(config))
    for name, config in run.configs.items()
    if name != "s"
  }
  found = jax.eval_shape(
    functools.partial(train_step, students=students),
    states,
    run.teacher.params,
    run.parallel.put_batch(rows(0)),
  )
  assert [part.keys() for part in found] == [{"xs"}] * 2


def spoil(state):
  params = jax.tree.map(lambda x: x * jnp.nan, state.params)
  return dataclasses.replace(state, params=params)


def test_what_is_not_finite_stays_with_its_student():
  run, expected = both_on_one_device()
  states = run.states()
  found = run.steps(states | {"s": spoil(states["s"])})
  assert [int(x["s"]["train/skipped"]) for x in found[1]] == [1, 2, 3]
  assert_equal(of("xs", found), of("xs", expected))


def test_a_student_that_has_ended_stays_as_it_is():
  """But for its step; and it goes on where more may be skipped."""
  fields = {"train.max_skipped": 2, "train.ema": 0.5}
  run = Run(PAIR, living=("xs",), **fields)
  good = run.states()["xs"]
  states, history = run.steps({"xs": spoil(run.states()["xs"])}, 4)
  counts = [int(x["xs"]["train/skipped_in_a_row"]) for x in history]
  assert counts == [1, 2, 2, 2]
  # Even where it could learn again.
  healed = dataclasses.replace(states["xs"], params=good.params)
  before = jax.tree.map(np.asarray, healed)
  states, history = run.steps({"xs": healed}, 1)
  assert np.isfinite(history[0]["xs"]["train/loss"])
  assert_equal(states["xs"], dataclasses.replace(before, step=np.int32(5)))
  again = Run(PAIR, living=("xs",), **fields | {"train.max_skipped": 3})
  states, _ = again.steps(states, 1)
  assert int(states["xs"].skipped_in_a_row) == 0
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), states["xs"].ema, before.ema
  )
  assert any(jax.tree.leaves(moved))


def test_one_student_goes_on_until_its_run_ends():
  run = Run(["xs"], **{"train.max_skipped": 2})
  _, history = run.steps({"xs": spoil(run.states()["xs"])}, 3)
  assert int(history[-1]["xs"]["train/skipped_in_a_row"]) == 3
