"""Steps with the hidden-state term, in any layout, alone and in company."""

import functools

import flax
import jax
import numpy as np
import pytest
import safetensors.numpy
from meshes import make_mesh
from several_students import (
  LENGTH,
  ROWS,
  assert_close,
  assert_equal,
  config_of,
  first_states,
  rows,
)

from time_jax.core.arrays import make_batch
from time_jax.run import assembly, hidden_states
from time_jax.step import evaluate, flops
from time_jax.step.state import abstract_state

TERM = {"hidden.weight": 0.5, "hidden.pairs": "2:3,1:1"}
SOBER = {"student.dropout": 0.0, "student.attention_dropout": 0.0}
NO_RELATIONS = {f"relations.weights.{n}": 0.0 for n in ("qq", "kk", "vv")}


@pytest.fixture(scope="module")
def basis(tmp_path_factory):
  """A file with a matrix of the teacher's width and of student m's."""
  path = tmp_path_factory.mktemp("basis") / "basis.safetensors"
  matrix = np.random.default_rng(5).normal(size=(48, 32)).astype(np.float32)
  safetensors.numpy.save_file({"basis": matrix}, path)
  return str(path)


class Steps:
  """Students with the term, and the step that trains them."""

  def __init__(self, configs, sizes=(1, 1, 1)):
    self.configs, self.mesh = configs, make_mesh(*sizes)
    self.objectives = assembly.make_objectives(configs, self.mesh)
    self.parallel = assembly.make_parallel(configs, self.objectives, self.mesh)
    self.teacher = next(iter(self.objectives.values())).teacher

  def states(self):
    return first_states(self.configs, self.objectives, self.mesh)

  def abstract(self):
    """Shapes of the states of step 0."""
    return {
      name: abstract_state(
        self.objectives[name].init, assembly.step_settings(config), self.mesh
      )
      for name, config in self.configs.items()
    }

  def lowered(self):
    batch = self.parallel.put_batch(rows(0))
    return self.parallel.lower(self.abstract(), self.teacher.params, batch)

  def three(self):
    """What becomes of the students in three steps."""
    states, history = self.parallel.put(self.states()), []
    teacher_params = self.parallel.put(self.teacher.params)
    for number in range(3):
      batch = self.parallel.put_batch(rows(number))
      states, metrics = self.parallel.step(states, teacher_params, batch)
      history.append(jax.tree.map(np.asarray, metrics))
    states = self.parallel.get(states)
    params = {name: state.params for name, state in states.items()}
    return jax.tree.map(np.asarray, params), history


def config_of_m(basis, **fields):
  return config_of("m", **TERM | {"hidden.projection": basis} | SOBER | fields)


def configs_of_several(basis, **fields):
  """With terms of their own; s has none."""
  wide = {
    "hidden.weight": 2.0,
    "hidden.pairs": "1:1",
    "student.hidden_size": 48,
    "student.num_layers": 1,
    "teacher.layer": 2,
  }
  return {
    "m": config_of_m(basis, **fields),
    "s": config_of("s", **SOBER | fields),
    "wide": config_of("m", **SOBER | wide | NO_RELATIONS | fields),
  }


@pytest.fixture(scope="module")
def one(basis):
  """What becomes of one student in some steps, by what differs."""

  @functools.cache
  def made(pairs, sizes, accumulation, parallel, dtype):
    config = config_of_m(
      basis,
      **{
        "hidden.pairs": pairs,
        "train.accumulation": accumulation,
        "train.parallel": parallel,
        "train.dtype": dtype,
        "teacher.dtype": dtype,
      },
    )
    steps = Steps({"student": config}, sizes)
    return steps, steps.three()

  def found(
    pairs=TERM["hidden.pairs"],
    sizes=(1, 1, 1),
    accumulation=1,
    parallel="jit",
    dtype="float32",
    steps=3,
  ):
    run, after = made(pairs, sizes, accumulation, parallel, dtype)
    if steps:
      return after
    return {name: state.params for name, state in run.states().items()}, []

  return found


# Several students in the first layout are below.
@pytest.mark.slow
@pytest.mark.parametrize(
  "how",
  [
    {"sizes": (2, 2, 1), "accumulation": 4},
    {"sizes": (2, 2, 2)},
    {"sizes": (2, 1, 1), "parallel": "pmap"},
  ],
  ids=str,
)
def test_layout_and_micro_batches_do_not_matter(one, how):
  params, history = one(**how)
  expected, told = one()
  assert_close(params, expected, 5e-4)  # Adam makes much of tiny gradients.
  for found, wanted in zip(history, told, strict=True):
    for name in ("train/loss", "train/hidden", "train/kl_qq"):
      np.testing.assert_allclose(
        found["student"][name], wanted["student"][name], rtol=1e-5
      )


@pytest.mark.slow  # The term of bfloat16 states is in hidden_term_test.
def test_bfloat16_is_near(one):
  _, history = one(dtype="bfloat16")
  _, expected = one()
  for found, wanted in zip(history, expected, strict=True):
    np.testing.assert_allclose(
      found["student"]["train/hidden"],
      wanted["student"]["train/hidden"],
      rtol=0.02,
    )


@pytest.mark.parametrize(
  "pairs", ["2:3,1:1", pytest.param("1:1", marks=pytest.mark.slow)]
)
def test_the_last_block_learns_where_its_state_is_compared(one, pairs):
  before, after = one(pairs, steps=0)[0], one(pairs)[0]
  flat = flax.traverse_util.flatten_dict
  before, after = flat(before["student"]), flat(after["student"])
  moved = {p for p, x in before.items() if not np.array_equal(x, after[p])}
  last = {path[1] for path in moved if path[0] == "last"}
  rest = {"attention_out", "attention_norm", "ffn_in", "ffn_out", "ffn_norm"}
  assert last == {"query", "key", "value"} | (rest if "2" in pairs else set())
  assert {path[0] for path in moved} == {"embeddings", "layers", "last"}


def test_what_is_trained_follows_from_the_pairs(basis):
  def trained(pairs):
    return hidden_states.trained(config_of_m(basis, **{"hidden.pairs": pairs}))

  for path in (("last", "query", "kernel"), ("layers", "ffn_in", "kernel")):
    assert trained("2:3,1:1")(path) and trained("1:1")(path)
  path = ("last", "ffn_in", "kernel")
  assert trained("2:3,1:1")(path) and not trained("1:1")(path)


def test_without_a_weight_it_is_the_program_that_it_was(basis):
  """Whatever the other fields say; so are the moments."""
  off = TERM | {"hidden.weight": 0.0, "hidden.projection": basis}
  plain = Steps({"student": config_of("m")})
  without = Steps({"student": config_of("m", **off)})
  with_term = Steps(
    {"student": config_of("m", **TERM, **{"hidden.projection": basis})}
  )
  text = plain.lowered().as_text()
  assert without.lowered().as_text() == text
  assert with_term.lowered().as_text() != text
  assert_equal(without.states(), plain.states())
  structure = jax.tree.structure
  assert structure(with_term.abstract()) != structure(plain.abstract())
  assert jax.tree.structure(plain.teacher.params) == structure(
    without.teacher.params
  )


@pytest.fixture(scope="module")
def together(basis):
  """What becomes of several on four devices, in micro-batches."""
  configs = configs_of_several(basis, **{"train.accumulation": 4})
  return Steps(configs, (2, 2, 1)).three()


def test_several_students_have_terms_of_their_own(together):
  _, history = together
  for found in history:
    assert {n for n, own in found.items() if "train/hidden" in own} == {
      *("m", "wide")
    }
    assert {n for n, own in found.items() if "train/kl_qq" in own} == {"m", "s"}
  loss, term = (history[0]["wide"][f"train/{x}"] for x in ("loss", "hidden"))
  assert loss == pytest.approx(2 * term, rel=1e-5)


# Whoever has no term does not notice, which step/students_test shows in part.
@pytest.mark.parametrize(
  "name", ["m", pytest.param("s", marks=pytest.mark.slow), "wide"]
)
def test_each_learns_as_alone_on_one_device(basis, one, together, name):
  params, history = together
  if name == "m":
    alone, told = one()
  else:
    alone, told = Steps({"student": configs_of_several(basis)[name]}).three()
  # Adam makes much of tiny gradients.
  assert_close(params[name], alone["student"], 5e-4)
  for found, wanted in zip(history, told, strict=True):
    assert found[name].keys() == wanted["student"].keys()
    assert_close(found[name], wanted["student"], 1e-4)


def test_held_out_scores(basis):
  """What counts is the loss; the relations are measured as they were."""
  fields = TERM | {"hidden.projection": basis}
  configs = {
    "plain": config_of("m"),
    "term": config_of("m", **fields),
    "alone": config_of("m", **fields | NO_RELATIONS),
  }
  steps = Steps(configs)
  params = {name: state.params for name, state in steps.states().items()}
  params = dict.fromkeys(params, params["plain"])
  batches = [steps.parallel.put_batch(rows(number)) for number in range(2)]
  score = evaluate.make_evaluator(steps.objectives, steps.mesh)
  found = score(params, steps.teacher.params, batches)
  hidden = found["term"].pop("hidden")
  assert found["alone"].pop("hidden") == pytest.approx(hidden) and hidden > 0.1
  weight = configs["term"].hidden.weight
  relations = found["plain"].pop("loss")
  for name in ("term", "alone"):
    assert found[name].pop("relation_loss") == pytest.approx(relations)
  assert found["term"].pop("loss") == pytest.approx(relations + weight * hidden)
  assert found["alone"].pop("loss") == pytest.approx(weight * hidden)
  assert_close(found["term"], found["plain"])
  assert_close(found["alone"], found["plain"])


def test_operations_of_the_term_count(basis):
  fields = {"hidden.weight": 1.0, "hidden.projection": basis}
  batch = make_batch(**rows(0))

  def count(**fields):
    objectives = Steps({"student": config_of("m", **fields)}).objectives
    shapes = jax.eval_shape(objectives["student"].init, jax.random.key(0))
    params = {"student": flax.linen.meta.unbox(shapes)}
    return flops.step_flops(objectives, params, batch)

  def whole_block(width, inner):
    # The program has its projections twice, a compiled one computes them once.
    return 2 * (4 * width**2 + 2 * width * inner) + 4 * LENGTH * width

  plain, found = count(), count(**fields)
  tokens = ROWS * LENGTH
  assert found.teacher - plain.teacher == tokens * whole_block(48, 96)
  assert found.student - plain.student == 3 * tokens * whole_block(32, 32)
  assert found.relations - plain.relations == tokens * 2 * 48 * 32
