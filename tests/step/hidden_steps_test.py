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
from time_jax.run import assembly
from time_jax.step import evaluate, flops

TERM = {"hidden.weight": 0.5, "hidden.pairs": "2:3,1:1"}


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

  def lowered(self):
    batch = self.parallel.put_batch(rows(0))
    return self.parallel.lower(self.states(), self.teacher.params, batch)

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
  return config_of(
    "m",
    **TERM
    | {"hidden.projection": basis, "student.dropout": 0.0}
    | {"student.attention_dropout": 0.0}
    | fields,
  )


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


@pytest.mark.parametrize(
  "how",
  [
    {"sizes": (2, 2, 1), "accumulation": 4},
    pytest.param({"sizes": (2, 2, 2)}, marks=pytest.mark.slow),
    pytest.param(
      {"sizes": (2, 1, 1), "parallel": "pmap"}, marks=pytest.mark.slow
    ),
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


@pytest.mark.parametrize("pairs", ["2:3,1:1", "1:1"])
def test_the_last_block_learns_where_its_state_is_compared(one, pairs):
  before, after = one(pairs, steps=0)[0], one(pairs)[0]
  flat = flax.traverse_util.flatten_dict
  before, after = flat(before["student"]), flat(after["student"])
  moved = {p for p, x in before.items() if not np.array_equal(x, after[p])}
  last = {path[1] for path in moved if path[0] == "last"}
  rest = {"attention_out", "attention_norm", "ffn_in", "ffn_out", "ffn_norm"}
  assert last == {"query", "key", "value"} | (rest if "2" in pairs else set())
  assert {path[0] for path in moved} == {"embeddings", "layers", "last"}


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
  assert structure(with_term.states()) != structure(plain.states())
  assert jax.tree.structure(plain.teacher.params) == structure(
    without.teacher.params
  )


def test_several_students_have_terms_of_their_own(basis, one):
  """Each learns as alone; whoever has no term does not notice."""
  configs = {
    "m": config_of_m(basis),
    "s": config_of("s"),
    "wide": config_of(
      "m",
      **{
        "hidden.weight": 2.0,
        "hidden.pairs": "1:1",
        "student.hidden_size": 48,
        "student.num_layers": 1,
        "teacher.layer": 2,
        **{f"relations.weights.{name}": 0.0 for name in ("qq", "kk", "vv")},
      },
    ),
  }
  params, history = Steps(configs).three()
  for name, config in configs.items():
    alone, told = one() if name == "m" else Steps({"student": config}).three()
    assert_close(params[name], alone["student"], 5e-4)
    for found, wanted in zip(history, told, strict=True):
      assert found[name].keys() == wanted["student"].keys()
      assert ("train/hidden" in found[name]) == (name != "s")
      assert ("train/kl_qq" in found[name]) == (name != "wide")
      assert_close(found[name], wanted["student"], 1e-4)
  loss, term = (history[0]["wide"][f"train/{x}"] for x in ("loss", "hidden"))
  assert loss == pytest.approx(2 * term, rel=1e-5)


def test_held_out_scores(basis):
  """The relation loss is what it was, also where no relation is learnt."""
  relations = {f"relations.weights.{name}": 0.0 for name in ("qq", "kk", "vv")}
  fields = TERM | {"hidden.projection": basis}
  configs = {
    "plain": config_of("m"),
    "term": config_of("m", **fields),
    "alone": config_of("m", **fields | relations),
  }
  steps = Steps(configs)
  params = {name: state.params for name, state in steps.states().items()}
  params = dict.fromkeys(params, params["plain"])
  batches = [steps.parallel.put_batch(rows(number)) for number in range(2)]
  score = evaluate.make_evaluator(steps.objectives, steps.mesh)
  found = score(params, steps.teacher.params, batches)
  hidden = found["term"].pop("hidden")
  assert found["alone"].pop("hidden") == pytest.approx(hidden) and hidden > 0.1
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
