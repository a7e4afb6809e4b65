"""Several students of one teacher, and the step that trains them."""

import functools
import pathlib

import jax
import numpy as np
from meshes import make_mesh

from time_jax.config.distill import default_config
from time_jax.run import assembly
from time_jax.step.state import abstract_state, init_state

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
    "student.num_layers": 2,
    "student.seed": 3,
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
# Of different layers of the teacher, with different parts beside the weights.
PAIR = ("s", "xs")


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
      "student.attention_dropout": 0.0,  # It is drawn alike.
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
    return first_states(self.configs, self.objectives, self.mesh)

  def steps(self, states, count=3):
    """The states after some steps, and the metrics of each step."""
    history = []
    for number in range(count):
      batch = self.parallel.put_batch(rows(number))
      states, metrics = self.parallel.step(states, self.teacher.params, batch)
      history.append(jax.tree.map(np.asarray, metrics))
    return states, history


def first_states(configs, objectives, mesh):
  """States of step 0 of each student, the same on any mesh."""
  found = {}
  for name, config in configs.items():
    init, settings = objectives[name].init, assembly.step_settings(config)
    found[name] = jax.tree.map(
      lambda x, like: jax.device_put(np.asarray(x), like.sharding),
      init_state(init, settings, make_mesh(1, 1, 1)),
      abstract_state(init, settings, mesh),
    )
  return found


def rows(number):
  random = np.random.default_rng(number)
  lengths = random.integers(2, LENGTH + 1, size=(ROWS, 1))
  return {
    "tokens": random.integers(128, size=(ROWS, LENGTH)).astype(np.int32),
    "segment_ids": (np.arange(LENGTH) < lengths).astype(np.int32),
  }


@functools.cache
def both_on_one_device(accumulation=4):
  """The pair together, undisturbed: the run, and what has become."""
  run = Run(PAIR, accumulation=accumulation)
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
