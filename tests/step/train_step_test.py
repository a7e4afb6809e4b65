"""The step against itself: on other meshes, under pmap, in micro-batches and
after bad batches."""

import dataclasses
import functools
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes import make_mesh

from time_jax.core.arrays import make_batch
from time_jax.hf import load
from time_jax.models import bert
from time_jax.step import optimizer, partitioning
from time_jax.step.objective import Objective
from time_jax.step.state import (
  StepSettings,
  TrainState,
  abstract_state,
  init_state,
)
from time_jax.step.train_step import Student, train_step

FLOAT32 = jnp.dtype("float32")
RELATIONS = {"qq": 1.0, "kk": 1.0, "vv": 1.0}
ADAMW = dict(b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip_norm=1.0)


def make_step(objective, *, peak_lr=1e-2, **changes):
  """Returns the step with its constants bound, and its settings."""
  schedule = functools.partial(
    optimizer.warmup_linear_decay,
    peak_lr=peak_lr,
    warmup_steps=2,
    num_steps=10,
  )
  tx = optimizer.make_optimizer(bert.FAMILY.feeds_projections, **ADAMW)
  settings = StepSettings(tx, schedule, **changes)
  students = {"student": Student(objective, settings)}
  return functools.partial(train_step, students=students), settings


def alone(step):
  """Returns a step of one student that takes and returns its state."""

  def one(state, teacher_params, batch):
    found = step({"student": state}, teacher_params, batch)
    return tuple(own["student"] for own in found)

  return one


SIZES = dict(vocab_size=64, num_heads=4, intermediate_size=64, num_layers=3)


@functools.cache
def tiny_teacher(mesh):
  hf_config = {
    "model_type": "bert",
    "vocab_size": SIZES["vocab_size"],
    "hidden_size": 48,
    "num_hidden_layers": SIZES["num_layers"],
    "num_attention_heads": SIZES["num_heads"],
    "intermediate_size": SIZES["intermediate_size"],
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
  }
  return load.random_teacher(hf_config, (2,), seed=5, dtype=FLOAT32, mesh=mesh)


def tiny_problem(mesh, dropout=0.0):
  """A teacher and a student of different widths."""
  rates = dict(dropout=dropout, attention_dropout=dropout)
  config = bert.BertConfig(hidden_size=32, **SIZES, **rates)
  student = bert.Encoder(config, config.num_layers)
  return Objective(tiny_teacher(mesh), student, 8, RELATIONS, "one_pass", 2)


@functools.cache
def first_state():
  """State of step 0 on one device, from which all runs start."""
  mesh = make_mesh(1, 1, 1)
  objective = tiny_problem(mesh)
  return init_state(objective.init, make_step(objective)[1], mesh)


def tiny_rows(step):
  random = np.random.default_rng(step)
  lengths = random.integers(1, 16, size=16)
  segments = (np.arange(16) < lengths[:, None]).astype(np.int32)
  segments += segments * (np.arange(16) >= lengths[:, None] // 2)
  segments = np.where(segments.max(1, keepdims=True) == 2, segments, 0)
  segments[3] = 0  # an empty row
  return {
    "tokens": random.integers(64, size=(16, 16)).astype(np.int32),
    "segment_ids": segments.astype(np.int32),
  }


def three_steps(step, state, teacher, put_batch):
  """The last state, and the metrics of every step."""
  history = []
  for i in range(3):
    state, metrics = step(state, teacher, put_batch(tiny_rows(i)))
    history.append({k: np.asarray(v) for k, v in metrics.items()})
  return state, history


@functools.cache
def compiled_for(*sizes, how="jit", dropout=0.0, accumulation=1):
  """A step for a mesh, and its state of step 0 and teacher, not donated."""
  mesh = make_mesh(*sizes)
  objective = tiny_problem(mesh, dropout)
  step, settings = make_step(objective, accumulation=accumulation)
  abstract = {"student": abstract_state(objective.init, settings, mesh)}
  spread = (
    partitioning.with_jit(step, abstract, mesh, 16)
    if how == "jit"
    else partitioning.with_pmap(step, mesh)
  )
  # The same start everywhere, to the last bit.
  start = jax.tree.map(
    lambda x, a: jax.device_put(np.asarray(x), a.sharding),
    {"student": first_state()},
    abstract,
  )
  return spread, spread.put(start), spread.put(objective.teacher.params)


def run_three_steps(*sizes, **how):
  spread, start, teacher = compiled_for(*sizes, **how)
  copy = jax.tree.map(jnp.copy, start)["student"]
  step = alone(spread.step)
  state, history = three_steps(step, copy, teacher, spread.put_batch)
  return spread.get(state), history


def assert_same_run(found, expected, atol=1e-5):
  for a, b in zip(found[1], expected[1], strict=True):
    assert a["data/checksum"] == b["data/checksum"]
    assert a["data/documents"] == b["data/documents"] > 0
    np.testing.assert_allclose(a["train/loss"], b["train/loss"], atol=atol)
  for a, b in zip(
    jax.tree.leaves(found[0].params),
    jax.tree.leaves(expected[0].params),
    strict=True,
  ):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=atol, rtol=0)


@pytest.fixture(scope="module")
def compiled():
  """Name -> (objective, step, state of step 0); without mesh and donation."""
  mesh, made = make_mesh(1, 1, 1), {}
  for name, dropout, guards in (
    ("plain", 0.0, {}),
    ("dropout", 0.2, {}),
    ("guarded", 0.0, {"spike": 6.0, "ema": 0.3}),
  ):
    objective = tiny_problem(mesh, dropout)
    step, settings = make_step(objective, **guards)
    state = init_state(objective.init, settings, mesh)
    made[name] = objective, alone(jax.jit(step)), state
  return made


@pytest.fixture(scope="module")
def single_device(compiled):
  """Dropout -> the run of one device."""
  runs = {}
  for dropout, name in (0.0, "plain"), (0.2, "dropout"):
    objective, step, state = compiled[name]
    runs[dropout] = three_steps(
      step, state, objective.teacher.params, lambda rows: make_batch(**rows)
    )
  return runs


@pytest.mark.parametrize(
  "sizes",
  [
    pytest.param((8, 1, 1), marks=pytest.mark.slow),
    pytest.param((4, 2, 1), marks=pytest.mark.slow),
    (2, 2, 2),
  ],
  ids=str,
)
def test_any_mesh_gives_the_single_device_run(single_device, sizes):
  """Dropout included: its masks do not depend on the mesh."""
  found = run_three_steps(*sizes, dropout=0.2)
  assert_same_run(found, single_device[0.2])
  kernel = found[0].params["layers"]["ffn_in"]["kernel"]
  shard = kernel.addressable_shards[0].data.shape
  assert shard == (2, 32 // sizes[1], 64 // sizes[2])
  moments = jax.tree.leaves(found[0].opt_state)
  assert any(m.addressable_shards[0].data.shape == shard for m in moments)


PMAP = {"how": "pmap", "accumulation": 4}


@pytest.mark.parametrize(
  ("sizes", "how"),
  [
    pytest.param((2, 1, 1), {"accumulation": 4}, marks=pytest.mark.slow),
    ((2, 1, 1), PMAP),
    pytest.param((8, 1, 1), {"how": "pmap"}, marks=pytest.mark.slow),
  ],
  ids=str,
)
def test_pmap_and_micro_batches_give_the_same_run(single_device, sizes, how):
  found = run_three_steps(*sizes, **how)
  assert_same_run(found, single_device[0.0])


@pytest.mark.parametrize(
  ("sizes", "dropout"),
  [((2, 4, 1), 0.0), pytest.param((2, 2, 2), 0.2, marks=pytest.mark.slow)],
  ids=str,
)
def test_micro_batches_give_the_same_run_on_any_mesh(
  single_device, sizes, dropout
):
  """Whether each device adds up its own gradients or the compiler decides.

  Each micro-batch draws dropout of its own; step/students_test has it, too.
  """
  how = dict(dropout=dropout, accumulation=2)
  alone = run_three_steps(1, 1, 1, **how) if dropout else single_device[0.0]
  assert_same_run(run_three_steps(*sizes, **how), alone)


def test_training_changes_what_it_should(single_device):
  state, history = single_device[0.0]
  before = flax.traverse_util.flatten_dict(first_state().params)
  after = flax.traverse_util.flatten_dict(state.params)
  for path in before:
    same = bool((before[path] == after[path]).all())
    assert same != bert.FAMILY.feeds_projections(path), path
  assert history[0]["train/learning_rate"] == 0
  assert not np.array_equal(history[0]["train/loss"], history[2]["train/loss"])
  assert int(state.step) == 3


def test_dropout_depends_on_seed_and_step_alone(compiled):
  objective, step, state = compiled["dropout"]
  rows = make_batch(**tiny_rows(0))
  _, first = step(state, objective.teacher.params, rows)
  _, again = step(state, objective.teacher.params, rows)
  assert first["train/loss"] == again["train/loss"]
  later = dataclasses.replace(state, step=state.step + 1)
  _, other = step(later, objective.teacher.params, rows)
  assert first["train/loss"] != other["train/loss"]


def test_a_bad_step_changes_nothing_but_the_counters(compiled):
  objective, step, state = compiled["plain"]
  good = objective.teacher.params
  bad = jax.tree.map(lambda x: x * jnp.nan, good)
  rows = make_batch(**tiny_rows(0))
  state, _ = step(state, good, rows)
  after_bad, metrics = step(state, bad, rows)
  assert not np.isfinite(metrics["train/loss"])
  jax.tree.map(
    np.testing.assert_array_equal,
    (after_bad.params, after_bad.opt_state),
    (state.params, state.opt_state),
  )
  assert (int(after_bad.step), int(after_bad.skipped)) == (2, 1)
  twice, _ = step(after_bad, bad, rows)
  assert int(twice.skipped_in_a_row) == 2
  healed, metrics = step(twice, good, rows)
  assert np.isfinite(metrics["train/loss"])
  assert (int(healed.skipped), int(healed.skipped_in_a_row)) == (2, 0)


def test_a_spike_changes_nothing_but_the_counters(compiled):
  objective, step, state = compiled["guarded"]
  teacher = objective.teacher.params
  # As this teacher's relations are of another scale, so is the loss.
  sharp = jax.tree.map(lambda x: x * 4, teacher)
  for i in range(25):
    state, metrics = step(state, teacher, make_batch(**tiny_rows(i % 2)))
  assert int(metrics["train/spikes"]) == int(state.skipped) == 0
  rows = make_batch(**tiny_rows(0))
  spiked, metrics = step(state, sharp, rows)
  assert np.isfinite(metrics["train/loss"])
  assert int(metrics["train/spikes"]) == int(spiked.skipped) == 1
  for name in ("params", "opt_state", "ema"):
    found, expected = getattr(spiked, name), getattr(state, name)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
  healed, metrics = step(spiked, teacher, rows)
  assert int(metrics["train/spikes"]) == 1
  assert int(healed.skipped_in_a_row) == 0


def test_the_average_is_one_and_touches_nothing_else(compiled):
  objective, plain, state = compiled["plain"]
  _, with_average, both = compiled["guarded"]
  teacher = objective.teacher.params
  first = expected = state.params
  for i in range(6):
    rows = make_batch(**tiny_rows(i))
    state, _ = plain(state, teacher, rows)
    both, _ = with_average(both, teacher, rows)
    decay = min(0.3, (1 + i) / (10 + i))
    expected = jax.tree.map(
      lambda a, p, d=decay: d * a + (1 - d) * p, expected, state.params
    )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-6),
    (both.params, both.ema),
    (state.params, expected),
  )
  # What is not trained keeps its bits.
  untouched = both.ema["pooler"]["kernel"]
  np.testing.assert_array_equal(untouched, first["pooler"]["kernel"])


def test_sharded_init_equals_the_plain_one():
  objective = tiny_problem(make_mesh(1, 1, 1))
  _, settings = make_step(objective)
  split = init_state(objective.init, settings, make_mesh(2, 2, 2))
  states = first_state(), split
  for a, b in zip(*map(jax.tree.leaves, states), strict=True):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6)


@pytest.mark.parametrize("extras", [{}, {"spike": 6.0}, {"ema": 0.9}], ids=str)
def test_a_state_survives_being_taken_apart(extras):
  mesh = make_mesh(1, 1, 1)
  objective = tiny_problem(mesh)
  _, settings = make_step(objective, **extras)
  state = abstract_state(objective.init, settings, mesh)
  trees = state.as_trees()
  assert set(trees) == {"params", "rest"} | ({"ema"} & set(extras))
  assert ("usual" in trees["rest"]) == ("spike" in extras)
  again = TrainState.from_trees(trees)
  assert jax.tree.structure(again) == jax.tree.structure(state)


@pytest.mark.parametrize(
  ("sizes", "how"),
  [((2, 2, 2), {"dropout": 0.2}), ((2, 1, 1), PMAP)],
  ids=str,
)
def test_the_lowered_step_is_the_step_with_its_scopes(sizes, how):
  spread, state, teacher = compiled_for(*sizes, **how)
  arguments = teacher, spread.put_batch(tiny_rows(0)), None
  compiled = spread.lower(state, *arguments).compile()
  text = compiled.as_text()
  for scope in ("teacher", "student", "relations", "optimizer"):
    assert re.search(rf'op_name="[^"]*[/(]{scope}[/)]', text), scope
  assert not re.search(r'[/(]student[/)][^"]*[/(]teacher[/)]', text)
  found, expected = (
    step(jax.tree.map(jnp.copy, state), *arguments)
    for step in (compiled, spread.step)
  )
  jax.tree.map(np.testing.assert_array_equal, found, expected)
