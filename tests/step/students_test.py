"""Several students of one teacher: each learns what it would learn alone."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes import make_mesh

from time_jax.config.distill import default_config
from time_jax.core.arrays import PROJECTIONS, make_batch
from time_jax.run import assembly
from time_jax.step import evaluate, flops
from time_jax.step.gradient_accumulation import gradients
from time_jax.step.objective import targets_of
from time_jax.step.state import abstract_state, init_state
from time_jax.step.train_step import Student, train_step

TEACHER = pathlib.Path(__file__).parents[1] / "golden" / "bert"
ROWS, LENGTH = 16, 12
# Fields of a config that differ from student to student.
STUDENTS = {
  "m": {
    "teacher.layer": 3,
    "relations.num_heads": 8,
    "student.hidden_size": 32,
    "student.num_layers": 2,
  },
  "s": {
    "teacher.layer": 3,
    "relations.num_heads": 4,
    "relations.weights.qk": 1.0,
    "relations.weights.vv": 0.0,
    "student.hidden_size": 24,
    "seed": 3,
    "train.ema": 0.5,
  },
  "xs": {
    "teacher.layer": 2,
    "relations.num_heads": 2,
    "relations.weights.kk": 0.0,
    "relations.weights.qq": 2.0,
    "student.hidden_size": 16,
    "train.spike": 6.0,
    "train.peak_lr": 5e-3,
  },
}


def config_of(name, **fields):
  config = default_config()
  config.update_from_flattened_dict(
    {
      "teacher.path": str(TEACHER),
      "teacher.dtype": "float32",
      "student.num_layers": 1,
      "student.intermediate_size": 32,
      "student.num_heads": 4,
      "student.max_positions": LENGTH,
      "student.dropout": 0.2,
      "student.initializer_range": 0.3,
      "data.seq_len": LENGTH,
      "train.global_batch_size": ROWS,
      "train.num_steps": 100,
      "train.peak_lr": 1e-2,
      "train.warmup_steps": 2,
      "train.dtype": "float32",
    }
    | STUDENTS[name]
    | fields
  )
  return config


@functools.cache
def objectives_of(names, sizes):
  configs = {name: config_of(name) for name in names}
  return assembly.make_objectives(configs, make_mesh(*sizes))


class Run:
  """Students of one teacher, and the step that trains some of them."""

  def __init__(
    self, names, sizes=(1, 1, 1), accumulation=1, living=None, **fields
  ):
    self.mesh = make_mesh(*sizes)
    self.objectives = objectives_of(tuple(names), sizes)
    self.configs = {
      name: config_of(name, **{"train.accumulation": accumulation} | fields)
      for name in living or names
    }
    self.parallel = assembly.make_parallel(
      self.configs, self.objectives, self.mesh
    )
    self.teacher = next(iter(self.objectives.values())).teacher

  def states(self):
    """States of step 0, the same on any mesh."""
    found = {}
    for name, config in self.configs.items():
      init = self.objectives[name].init
      settings = assembly.step_settings(config)
      found[name] = jax.tree.map(
        lambda x, like: jax.device_put(np.asarray(x), like.sharding),
        init_state(init, settings, make_mesh(1, 1, 1)),
        abstract_state(init, settings, self.mesh),
      )
    return found

  def steps(self, states, count=3):
    """The states after some steps, and the metrics of each step."""
    history = []
    for number in range(count):
      batch = self.parallel.put_batch(rows(number))
      states, metrics = self.parallel.step(states, self.teacher.params, batch)
      history.append(jax.tree.map(np.asarray, metrics))
    return states, history


def rows(number):
  random = np.random.default_rng(number)
  lengths = random.integers(2, LENGTH + 1, size=(ROWS, 1))
  return {
    "tokens": random.integers(128, size=(ROWS, LENGTH)).astype(np.int32),
    "segment_ids": (np.arange(LENGTH) < lengths).astype(np.int32),
  }


@functools.cache
def all_on_one_device(accumulation=1):
  """All students together, undisturbed: the run, and what has become."""
  run = Run(STUDENTS, accumulation=accumulation)
  return run, run.steps(run.states())


def of(name, found):
  states, history = found
  return states[name], [metrics[name] for metrics in history]


def assert_equal(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found, expected, tolerance=1e-6):
  jax.tree.map(
    functools.partial(
      np.testing.assert_allclose, atol=tolerance, rtol=tolerance
    ),
    found,
    expected,
  )


@pytest.mark.parametrize("accumulation", [1, 4])
def test_together_as_alone(accumulation):
  """Each alone has a teacher of its own, cut off at its own layer."""
  _, together = all_on_one_device(accumulation)
  for name in STUDENTS:
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
  _, expected = all_on_one_device(accumulation)
  run = Run(STUDENTS, sizes, accumulation)
  states, history = run.steps(run.states())
  assert_close(history, expected[1], 1e-5)
  # Adam makes steps of what is rounding, where a gradient is 0.
  assert_close(states, expected[0], 5e-4)


def test_who_else_is_trained_changes_no_bit():
  _, expected = all_on_one_device()
  run = Run(STUDENTS, living=("s", "xs"))
  states = run.states()
  found = run.steps(states)
  assert found[0].keys() == {"s", "xs"}
  for name in found[0]:
    assert_equal(of(name, found), of(name, expected))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(states))


def test_only_the_students_of_the_step_are_trained():
  run, _ = all_on_one_device()
  states = run.states()
  students = {
    name: Student(run.objectives[name], assembly.step_settings(config))
    for name, config in run.configs.items()
    if name != "m"
  }
  found = jax.eval_shape(
    functools.partial(train_step, students=students),
    states,
    run.teacher.params,
    run.parallel.put_batch(rows(0)),
  )
  assert [part.keys() for part in found] == [{"s", "xs"}] * 2


def spoil(state):
  params = jax.tree.map(lambda x: x * jnp.nan, state.params)
  return dataclasses.replace(state, params=params)


def test_what_is_not_finite_stays_with_its_student():
  run, expected = all_on_one_device()
  states = run.states()
  found = run.steps(states | {"s": spoil(states["s"])})
  assert [int(x["s"]["train/skipped"]) for x in found[1]] == [1, 2, 3]
  for name in ("m", "xs"):
    assert_equal(of(name, found), of(name, expected))


def test_a_student_that_has_ended_stays_as_it_is():
  """But for its step; and it goes on where more may be skipped."""
  fields = {"train.max_skipped": 2, "train.ema": 0.5}
  run = Run(STUDENTS, living=("xs",), **fields)
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
  again = Run(STUDENTS, living=("xs",), **fields | {"train.max_skipped": 3})
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


def of_teacher(objectives):
  """Operations of the teacher, of what the students read of it."""

  def read(params, batch):
    found = targets_of(objectives, params, batch)
    return [
      getattr(found[name], PROJECTIONS[letter])
      for name, objective in objectives.items()
      for letter in sorted(set("".join(objective.weights)))
    ]

  teacher = next(iter(objectives.values())).teacher
  return flops.matmul_flops(read, teacher.params, make_batch(**rows(0)))


def test_what_is_shared_is_what_is_read():
  objectives = objectives_of(tuple(STUDENTS), (1, 1, 1))
  configs = {name: config_of(name) for name in STUDENTS}
  plain = assembly.make_teacher(configs["m"], (2, 3), make_mesh(1, 1, 1))
  expected = of_teacher(
    {n: dataclasses.replace(o, teacher=plain) for n, o in objectives.items()}
  )
  assert of_teacher(objectives) == expected
  # One block whole, six projections in all but for a key that nobody reads.
  block = 12 * 48**2 - 3 * 48**2 + 2 * LENGTH * 48
  assert expected >= 2 * ROWS * LENGTH * (2 * block)
  jaxpr = jax.make_jaxpr(plain.targets)(plain.params, make_batch(**rows(0)))
  assert "optimization_barrier" not in str(jaxpr)
  jaxpr = jax.make_jaxpr(objectives["m"].teacher.targets)(
    plain.params, make_batch(**rows(0))
  )
  barriers = [
    equation
    for equation in jaxpr.eqns
    if equation.primitive.name == "optimization_barrier"
  ]
  assert sorted(len(equation.outvars) for equation in barriers) == [2, 3]


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_teacher_is_asked_once(accumulation):
  run, _ = all_on_one_device()
  params = {name: state.params for name, state in run.states().items()}
  batch = make_batch(**rows(0))

  def count(names):
    objectives = {name: run.objectives[name] for name in names}
    keys = {name: jax.random.key(0) for name in names}
    counted = flops.matmul_flops(
      lambda params: gradients(
        params,
        run.teacher.params,
        batch,
        objectives,
        jnp.float32(1),
        keys,
        accumulation,
      ),
      params,
    )
    return counted, of_teacher(objectives)

  alone = [count([name]) for name in STUDENTS]
  assert all(whole > teacher > 0 for whole, teacher in alone)
  whole, teacher = count(STUDENTS)
  assert whole - teacher == sum(one - teacher for one, teacher in alone)


def test_every_micro_batch_has_dropout_of_its_own():
  run, _ = all_on_one_device()
  objectives = {"xs": run.objectives["xs"]}
  params = {"xs": run.states()["xs"].params}
  key, one = jax.random.key(0), jnp.float32(1)
  row = make_batch(**{name: x[:1] for name, x in rows(0).items()})

  @jax.jit
  def twice(params, teacher_params):
    batch = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), row)
    return gradients(
      params, teacher_params, batch, objectives, one, {"xs": key}, 2
    )

  @jax.jit
  def once(params, teacher_params, index):
    targets = targets_of(objectives, teacher_params, row)["xs"]
    rng = jax.random.fold_in(key, index)
    return objectives["xs"].loss(params["xs"], row, targets, one, rng)[0]

  teacher_params = run.teacher.params
  losses = [float(once(params, teacher_params, index)) for index in range(2)]
  assert losses[0] != losses[1]
  _, found, _ = twice(params, teacher_params)["xs"]
  np.testing.assert_allclose(found, sum(losses), rtol=1e-5)


def test_operations_are_the_teachers_once_and_all_students():
  run, _ = all_on_one_device()
  params = {name: state.params for name, state in run.states().items()}
  batch = make_batch(**rows(0))
  whole = flops.step_flops(run.objectives, params, batch)
  parts = {
    name: flops.step_flops({name: run.objectives[name]}, params, batch)
    for name in STUDENTS
  }
  assert whole.student == sum(part.student for part in parts.values())
  assert whole.relations == sum(part.relations for part in parts.values())
  assert parts["m"].teacher == parts["s"].teacher
  projections = 2 * ROWS * LENGTH * 3 * 48**2  # of layer 2, beside its block
  assert whole.teacher == parts["m"].teacher + projections


def test_scores_together_as_alone():
  run, _ = all_on_one_device()
  params = {name: state.params for name, state in run.states().items()}
  batches = [run.parallel.put_batch(rows(number)) for number in range(2)]
  score = evaluate.make_evaluator(run.objectives, run.mesh)
  together = score(params, run.teacher.params, batches)
  assert together.keys() == params.keys()
  assert len({own["relation_loss"] for own in together.values()}) == 3
  assert together["xs"].keys() == {"relation_loss", "kl_qq", "kl_vv"}
  found = score({"xs": params["xs"]}, run.teacher.params, batches)
  assert found == {"xs": together["xs"]}
  alone = Run(["xs"])
  score = evaluate.make_evaluator(alone.objectives, run.mesh)
  expected = score({"xs": params["xs"]}, alone.teacher.params, batches)
  assert_close(found, expected)
  nothing = {name: {} for name in params}
  assert score(params, alone.teacher.params, []) == nothing
