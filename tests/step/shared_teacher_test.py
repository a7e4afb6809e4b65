"""What several students share: the teacher's work, done once for all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes import make_mesh
from several_students import (
  LENGTH,
  PAIR,
  ROWS,
  STUDENTS,
  Run,
  assert_close,
  config_of,
  objectives_of,
  rows,
)

from time_jax.core.arrays import PROJECTIONS, make_batch
from time_jax.parallel import sharding
from time_jax.run import assembly
from time_jax.step import evaluate, flops
from time_jax.step.gradient_accumulation import gradients
from time_jax.step.objective import targets_of
from time_jax.step.state import abstract_state


def of_teacher(objectives):
  """Operations of the teacher, of what the students read of it."""

  def read(params, batch):
    found = targets_of(objectives, params, batch)
    return [
      getattr(found[name].projections[objective.layer], PROJECTIONS[letter])
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


def shapes(run):
  """Parameters of the students, without any array."""
  return {
    name: abstract_state(
      objective.init, assembly.step_settings(run.configs[name]), run.mesh
    ).params
    for name, objective in run.objectives.items()
  }


@pytest.mark.parametrize(
  ("names", "accumulation"),
  [
    (PAIR, 4),
    # m and s read the same layer.
    pytest.param(tuple(STUDENTS), 1, marks=pytest.mark.slow),
    pytest.param(tuple(STUDENTS), 4, marks=pytest.mark.slow),
  ],
)
def test_the_teacher_is_asked_once(names, accumulation):
  run = Run(names)
  params = shapes(run)
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

  alone = [count([name]) for name in names]
  assert all(whole > teacher > 0 for whole, teacher in alone)
  whole, teacher = count(names)
  assert whole - teacher == sum(one - teacher for one, teacher in alone)


@pytest.mark.parametrize(
  ("sizes", "whole"),
  [
    pytest.param((1, 1, 1), False, marks=pytest.mark.slow),
    ((2, 2, 1), True),
    ((1, 1, 2), False),
  ],
)
def test_a_teacher_is_made_whole_where_a_student_is(sizes, whole):
  """Once, before the micro-batches: not where work is split inside layers."""
  run = Run(["m", "xs"], sizes, 4)
  keys = {name: jax.random.key(0) for name in run.objectives}
  params = shapes(run)
  batch = run.parallel.put_batch(rows(0))

  def step(params, teacher_params):
    return gradients(
      params, teacher_params, batch, run.objectives, jnp.float32(1), keys, 4
    )

  with sharding.use_mesh(run.mesh):
    jaxpr = jax.make_jaxpr(step)(params, run.teacher.params).jaxpr
  count = len(jax.tree.leaves(run.teacher.params))
  held = [
    equation
    for equation in jaxpr.eqns
    if equation.primitive.name == "sharding_constraint"
    and equation.invars[0] in jaxpr.invars[-count:]
  ]
  # All of the teacher but its table of tokens.
  assert len(held) == (count - 1) * whole


def test_every_micro_batch_has_dropout_of_its_own():
  run = Run(PAIR)
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
  run = Run(PAIR)
  params = shapes(run)
  batch = make_batch(**rows(0))
  whole = flops.step_flops(run.objectives, params, batch)
  parts = {
    name: flops.step_flops({name: run.objectives[name]}, params, batch)
    for name in PAIR
  }
  assert whole.student == sum(part.student for part in parts.values())
  assert whole.relations == sum(part.relations for part in parts.values())
  projections = 2 * ROWS * LENGTH * 3 * 48**2  # of layer 2, beside its block
  assert whole.teacher == parts["s"].teacher + projections


def test_scores_together_as_alone():
  run = Run(PAIR)
  params = {name: state.params for name, state in run.states().items()}
  batches = [run.parallel.put_batch(rows(number)) for number in range(2)]
  score = evaluate.make_evaluator(run.objectives, run.mesh)
  together = score(params, run.teacher.params, batches)
  assert together.keys() == params.keys()
  assert together["xs"].keys() == {"loss", "kl_qq", "kl_vv"}
  found = score({"xs": params["xs"]}, run.teacher.params, batches)
  assert found == {"xs": together["xs"]}
  alone = Run(["s"])
  score = evaluate.make_evaluator(alone.objectives, run.mesh)
  expected = score({"s": params["s"]}, alone.teacher.params, batches)
  assert_close(together["s"], expected["s"])
  nothing = {name: {} for name in params}
  assert score(params, alone.teacher.params, []) == nothing
