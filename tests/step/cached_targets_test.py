"""Targets that are known: only what is missing is asked for, and a step learns
the same of them, bit by bit."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes import make_mesh
from several_students import LENGTH, ROWS, TEACHER, config_of, rows

from time_jax.hf import load
from time_jax.parallel import sharding
from time_jax.run import assembly
from time_jax.step.cached_targets import make_fill
from time_jax.step.state import init_state

ONE = ((1, 1, 1), 4)
# Sizes of a mesh, and the number of micro-batches.
LAYOUTS = [
  ONE,
  pytest.param(((8, 1, 1), 2), marks=pytest.mark.slow),
  pytest.param(((2, 2, 1), 4), marks=pytest.mark.slow),
  pytest.param(((1, 4, 1), 1), marks=pytest.mark.slow),
  pytest.param(((2, 1, 2), 4), marks=pytest.mark.slow),
  ((2, 2, 2), 2),
]


def some(*missing):
  return ~np.isin(np.arange(ROWS), missing)


# Which rows are there. On one device four are asked for at a time.
PATTERNS = {
  "none is there": some(*range(ROWS)),
  "all are there": some(),
  "the first is missing": some(0),
  "the last is missing": some(15),
  "those of one device are missing": some(4, 5),
  "as many as a part": some(1, 2, 7, 11),
  "one more than a part": some(1, 2, 3, 7, 11),
  "one is there": ~some(9),
  "every other one": np.arange(ROWS) % 2 == 0,
}


@functools.cache
def teacher_on(sizes):
  mesh = make_mesh(*sizes)
  dtype = jnp.dtype("float32")
  return load.load_teacher(str(TEACHER), (2, 3), dtype=dtype, mesh=mesh), mesh


def placed(tree, mesh):
  layout = sharding.batch_sharding(mesh)
  return jax.tree.map(lambda x: sharding.place(np.asarray(x), layout), tree)


@functools.cache
def computed(sizes, parts):
  """The batch on a mesh, and what the teacher makes of its parts there."""
  teacher, mesh = teacher_on(sizes)
  row = rows(0)
  batch = sharding.global_batch(row["tokens"], row["segment_ids"], mesh, ROWS)
  host, size, found = jax.tree.map(np.asarray, batch), ROWS // parts, []
  with sharding.use_mesh(mesh):
    ask = jax.jit(teacher.targets)
    for start in range(0, ROWS, size):
      part = jax.tree.map(lambda x, at=start: x[at : at + size], host)
      found.append(ask(teacher.params, placed(part, mesh)))
  return batch, jax.tree.map(lambda *x: np.concatenate(x), *found)


def half_known(targets, hits, there=lambda x: x):
  """Targets as a cache has them: nothing of use where there is no hit."""
  known = hits[:, None, None]
  return jax.tree.map(
    lambda x: np.where(known, there(x), np.asarray(np.nan, x.dtype)), targets
  )


@functools.cache
def filler(sizes, parts):
  return make_fill(*teacher_on(sizes), parts)


def filled(layout, cached, hits):
  sizes, _ = layout
  teacher, mesh = teacher_on(sizes)
  batch, _ = computed(*layout)
  with sharding.use_mesh(mesh):
    return filler(*layout)(
      teacher.params, batch, placed(cached, mesh), placed(hits, mesh)
    )


def assert_equal(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_what_is_missing_is_what_the_teacher_says(layout):
  _, expected = computed(*layout)
  for hits in PATTERNS.values():
    assert_equal(filled(layout, half_known(expected, hits), hits), expected)


@pytest.mark.parametrize("layout", [ONE, ((2, 2, 2), 2)], ids=str)
def test_what_is_there_stays_as_it_is(layout):
  """Also where a part is filled up with rows that are there."""
  _, expected = computed(*layout)
  other = jax.tree.map(lambda x: x + 1, expected)
  for hits in PATTERNS.values():
    known = hits[:, None, None]
    wanted = jax.tree.map(functools.partial(np.where, known), other, expected)
    assert_equal(filled(layout, half_known(other, hits), hits), wanted)


def test_targets_have_the_dtype_of_the_cache():
  """So that a row is the same number whether it was there or not."""
  _, expected = computed(*ONE)
  short = jax.tree.map(lambda x: x.astype(jnp.bfloat16), expected)
  hits = PATTERNS["every other one"]
  assert_equal(filled(ONE, half_known(short, hits), hits), short)


@functools.cache
def counting():
  """A filler of one device, and the shapes that its teacher is asked for."""
  teacher, mesh = teacher_on((1, 1, 1))
  asked = []

  def targets(params, batch):
    jax.debug.callback(lambda: asked.append(batch.tokens.shape))
    return teacher.targets(params, batch)

  counted = dataclasses.replace(teacher, targets=targets)
  return make_fill(counted, mesh, 4), asked


@pytest.mark.parametrize(
  ("pattern", "times"),
  [
    ("all are there", 0),
    ("the last is missing", 1),
    ("as many as a part", 1),
    ("one more than a part", 2),
    ("one is there", 4),
    ("none is there", 4),
  ],
)
def test_the_teacher_is_asked_no_more_than_it_must(pattern, times):
  teacher, mesh = teacher_on((1, 1, 1))
  batch, expected = computed(*ONE)
  fill, asked = counting()
  asked.clear()
  with sharding.use_mesh(mesh):
    fill(teacher.params, batch, expected, PATTERNS[pattern])
  jax.effects_barrier()
  assert asked == [(4, LENGTH)] * times


def test_the_teacher_is_not_taken_out_of_its_loop():
  """Where one turn asks for all rows, all turns would compute the same."""
  batch, expected = computed((1, 1, 1), 1)
  teacher, mesh = teacher_on((1, 1, 1))
  with sharding.use_mesh(mesh):
    compiled = make_fill(teacher, mesh, 1).lower(
      teacher.params, batch, expected, PATTERNS["all are there"]
    )
    text = compiled.compile().as_text()
  products = re.compile(r"while/body/teacher/\S*dot_general")
  assert products.search(text)
  assert not products.search(text[text.index("\nENTRY ") :])


@pytest.mark.parametrize("layout", [((8, 1, 1), 2), ((2, 2, 2), 2)], ids=str)
def test_rows_stay_on_their_devices(layout):
  """No device sends another one what is cached, which is written in place."""
  sizes, parts = layout
  teacher, mesh = teacher_on(sizes)
  batch, expected = computed(*layout)
  with sharding.use_mesh(mesh):
    lowered = filler(*layout).lower(
      teacher.params, batch, *placed((expected, PATTERNS["one is there"]), mesh)
    )
  compiled = lowered.compile()
  sent = re.findall(
    rf"= \(?f32\[([\d,]+),{LENGTH},\d+\]\S* "
    r"(?:all-gather|all-to-all|collective-permute)\(",
    compiled.as_text(),
  )
  ways = sharding.batch_ways(mesh)
  part = ROWS // ways // parts  # The teacher may be split inside its layers.
  assert all(np.prod([int(n) for n in x.split(",")]) <= part for x in sent)
  size = sum(x.nbytes for x in jax.tree.leaves(expected)) // ways
  assert compiled.memory_analysis().alias_size_in_bytes == size


# Whole runs of the second layout are in run/teacher_cache_test.
@pytest.mark.slow
@pytest.mark.parametrize(
  "layout",
  [((1, 1, 1), 1), ONE, ((2, 2, 1), 2), ((1, 1, 2), 2)],
  ids=str,
)
def test_a_step_learns_the_same_of_known_targets(layout):
  sizes, accumulation = layout
  mesh, configs = (
    make_mesh(*sizes),
    {"student": config_of("m", **{"train.accumulation": accumulation})},
  )
  objectives = assembly.make_objectives(configs, mesh)
  objective = objectives["student"]
  teacher = objective.teacher
  parallel = assembly.make_parallel(configs, objectives, mesh)
  settings = assembly.step_settings(configs["student"])
  fill = make_fill(teacher, mesh, accumulation)

  def run(cached):
    states = {"student": init_state(objective.init, settings, mesh)}
    history = []
    for number in range(2):
      batch, targets = parallel.put_batch(rows(number)), None
      if cached:
        shapes = jax.eval_shape(teacher.targets, teacher.params, batch)
        empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        given = placed((empty, PATTERNS["none is there"]), mesh)
        with sharding.use_mesh(mesh):
          targets = fill(teacher.params, batch, *given)
      states, metrics = parallel.step(states, teacher.params, batch, targets)
      history.append(jax.tree.map(np.asarray, metrics))
    return jax.tree.map(np.asarray, states), history

  assert_equal(run(cached=True), run(cached=False))
