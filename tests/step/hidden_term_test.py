"""The hidden-state term against PyTorch, and a step that has it."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from meshes import make_mesh
from several_students import (
  LENGTH,
  ROWS,
  assert_close,
  assert_equal,
  config_of,
  rows,
)

from time_jax.core.arrays import make_batch
from time_jax.hf import load
from time_jax.hf.save import to_tensors
from time_jax.models import bert
from time_jax.run import assembly
from time_jax.step import evaluate, flops
from time_jax.step.hidden_term import HiddenTerm, cosine_sum
from time_jax.step.objective import Objective
from time_jax.step.state import abstract_state, init_state

FLOAT32 = jnp.dtype("float32")
# Documents of 1 to 7 tokens, two of them in one row, with padding between.
SEGMENTS = np.array(
  [
    [1, 1, 1, 1, 1, 1, 1],
    [1, 1, 0, 2, 2, 2, 0],
    [0, 0, 0, 0, 0, 0, 1],
    [0, 0, 0, 0, 0, 0, 0],
  ],
  np.int32,
)


def random_states(width, seed):
  shape = (*SEGMENTS.shape, width)
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def documents():
  for row, segments in enumerate(SEGMENTS):
    for number in range(1, segments.max() + 1):
      yield row, np.flatnonzero(segments == number)


def in_torch(teacher, student, projection):
  """PyTorch's own cosine loss, document by document; its sum."""
  loss = torch.nn.CosineEmbeddingLoss()  # The mean over a document's tokens.
  total = 0
  for row, places in documents():
    aim = teacher[row, places] @ projection
    total += loss(student[row, places], aim, torch.ones(len(places)))
  return total


@pytest.mark.parametrize("width", [5, 3], ids=["equal widths", "narrower"])
def test_value_and_gradient_are_those_of_pytorch(width):
  teacher, student = random_states(5, seed=0), random_states(width, seed=1)
  student[0, 0] *= 1e3
  projection = np.random.default_rng(2).normal(size=(5, width))
  if width == 5:
    projection = np.eye(5)
  leaf = torch.tensor(student, dtype=torch.float64, requires_grad=True)
  aim = torch.tensor(teacher, dtype=torch.float64)
  expected = in_torch(aim, leaf, torch.tensor(projection))
  expected.backward()
  given = None if width == 5 else projection.astype(np.float32)
  term = HiddenTerm(1.0, ((1, 2),), given)
  found, grads = jax.value_and_grad(
    lambda s: term.sum({2: teacher}, {1: s}, SEGMENTS)
  )(student)
  np.testing.assert_allclose(found, expected.detach(), rtol=1e-6)
  np.testing.assert_allclose(grads, leaf.grad, atol=1e-6)
  assert (np.asarray(grads)[SEGMENTS == 0] == 0).all()


def test_several_pairs_are_averaged():
  states = {n: random_states(4, seed=n) for n in range(4)}
  term = HiddenTerm(1.0, ((1, 2), (0, 3)))
  assert term.student_layers == (0, 1) and term.teacher_layers == (2, 3)
  alone = [cosine_sum(states[b], states[a], SEGMENTS) for a, b in term.pairs]
  found = term.sum(states, states, SEGMENTS)
  np.testing.assert_allclose(found, np.mean(alone), rtol=1e-6)


def test_the_least_is_zero_and_constants_have_no_gradient():
  states = random_states(6, seed=0)
  assert cosine_sum(states, states * 3, SEGMENTS) < 1e-6
  zero = np.zeros_like(states)
  found = jax.grad(cosine_sum, (0, 1))(states, zero, SEGMENTS)
  assert np.isfinite(found[1]).all() and not np.any(found[0])
  short = states.astype(jnp.bfloat16)
  value = cosine_sum(short, -short, SEGMENTS)
  assert value.dtype == FLOAT32
  np.testing.assert_allclose(value, 2 * len([*documents()]), rtol=1e-6)


@pytest.fixture(scope="module")
def models(golden, mesh):
  """A teacher of four layers, a narrower student of two, and a projection."""
  folder, how = golden / "end_to_end", dict(dtype=FLOAT32, mesh=mesh)
  teacher = load.load_teacher(
    str(folder / "teacher"), (3,), states=(2, 4), **how
  )
  student, params = load.load_encoder(folder / "student_init", **how)
  projection = np.random.default_rng(0).normal(size=(48, 32))
  return teacher, student, params, projection.astype(np.float32)


def torch_gradients(folder, batch, projection):
  """Loss and gradients by the modules and the autograd of PyTorch."""
  teacher, student = (
    transformers.AutoModel.from_pretrained(folder / name).eval()
    for name in ("teacher", "student_init")
  )
  how = {
    "input_ids": torch.tensor(np.asarray(batch.tokens)),
    "attention_mask": torch.tensor(np.asarray(batch.segment_ids)),
    "output_hidden_states": True,
  }
  with torch.no_grad():
    aims = teacher(**how).hidden_states
  states = student(**how).hidden_states
  total = 0
  for own, layer in ((1, 2), (2, 4)):
    cosine = torch.nn.functional.cosine_similarity(
      states[own], aims[layer] @ torch.tensor(projection), dim=-1
    )
    mask = how["attention_mask"]
    means = ((1 - cosine) * mask).sum(dim=1) / mask.sum(dim=1)
    total += means.mean() / 2
  total.backward()
  return total.item(), {
    name: parameter.grad for name, parameter in student.named_parameters()
  }


def test_gradients_of_all_parameters_are_those_of_pytorch(golden, models):
  teacher, student, params, projection = models
  folder = golden / "end_to_end"
  batches = np.load(folder / "batches.npz")
  batch = make_batch(batches["input_ids"][0], batches["attention_mask"][0])
  term = HiddenTerm(1.0, ((1, 2), (2, 4)), projection)
  objective = Objective(teacher, student, 8, {}, "dense", 3, term)
  count = jnp.float32(len(batch.tokens))

  @jax.jit
  def gradients(params, teacher_params):
    targets = objective.targets(teacher_params, batch)
    loss = functools.partial(objective.loss, batch=batch, targets=targets)
    return jax.value_and_grad(loss, has_aux=True)(params, num_documents=count)

  (loss, parts), grads = gradients(params, teacher.params)
  assert parts.keys() == {"hidden"} and parts["hidden"] == loss
  wanted, expected = torch_gradients(folder, batch, projection)
  np.testing.assert_allclose(loss, wanted, rtol=1e-5)
  found = to_tensors(grads, bert.NAMES, 2)
  assert found.keys() == expected.keys()
  for name, values in found.items():
    if expected[name] is None:
      assert name.startswith("pooler") and not np.any(values)
    else:
      assert name.endswith("key.bias") or expected[name].abs().max() > 1e-4
      np.testing.assert_allclose(
        values, expected[name], atol=1e-6, rtol=1e-4, err_msg=name
      )


def test_packed_documents_are_those_that_lie_alone(models):
  teacher, student, params, projection = models
  term = HiddenTerm(1.0, ((1, 2), (2, 4)), projection)
  objective = Objective(teacher, student, 8, {}, "dense", 3, term)
  random = np.random.default_rng(3)
  first, second = (random.integers(4, 100, size=size) for size in (5, 9))

  @functools.partial(jax.jit, static_argnums=1)
  def total(batch, count):
    targets = objective.targets(teacher.params, batch)
    one = jnp.float32(1)
    return objective.loss(params, batch, targets, one)[0]

  def batch(*placed):
    tokens = np.zeros((len(placed), 16), np.int32)
    segments = np.zeros_like(tokens)
    for row, parts in enumerate(placed):
      start = 0
      for number, part in enumerate(parts, 1):
        tokens[row, start : start + len(part)] = part
        segments[row, start : start + len(part)] = number
        start += len(part)
    return make_batch(tokens, segments)

  packed = total(batch([first, second]), 1)
  alone = total(batch([second], [first], []), 3)
  np.testing.assert_allclose(packed, alone, rtol=1e-5)
  assert packed > 0.1


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


@pytest.fixture(scope="module")
def one(basis):
  """Changes of a config and a mesh -> what becomes of one student."""

  @functools.cache
  def found(sizes=(1, 1, 1), accumulation=1, parallel="jit", dtype="float32"):
    config = config_of(
      "m",
      **TERM,
      **{
        "hidden.projection": basis,
        "train.accumulation": accumulation,
        "train.parallel": parallel,
        "train.dtype": dtype,
        "teacher.dtype": dtype,
        "student.dropout": 0.0,
      },
    )
    return Steps({"student": config}, sizes).three()

  return found


@pytest.mark.parametrize(
  "how",
  [
    {"accumulation": 4},
    {"sizes": (2, 2, 1), "accumulation": 2},
    {"sizes": (2, 2, 2)},
    {"sizes": (2, 1, 1), "parallel": "pmap"},
  ],
  ids=str,
)
def test_layout_and_micro_batches_do_not_matter(one, how):
  params, history = one(**how)
  expected, told = one()
  assert_close(params, expected, 1e-5)
  for found, wanted in zip(history, told, strict=True):
    for name in ("train/loss", "train/hidden", "train/kl_qq"):
      np.testing.assert_allclose(
        found["student"][name], wanted["student"][name], rtol=1e-5
      )


def test_bfloat16_is_near(one):
  _, history = one(dtype="bfloat16")
  _, expected = one()
  for found, wanted in zip(history, expected, strict=True):
    np.testing.assert_allclose(
      found["student"]["train/hidden"],
      wanted["student"]["train/hidden"],
      rtol=0.02,
    )


def changed(params, config):
  """Paths of the parameters that three steps changed."""
  objective = assembly.make_objectives({"a": config}, make_mesh(1, 1, 1))["a"]
  settings = assembly.step_settings(config)
  before = init_state(objective.init, settings, make_mesh(1, 1, 1)).params
  flat = flax.traverse_util.flatten_dict
  after = flat(params)
  return {
    path
    for path, leaf in flat(before).items()
    if not np.array_equal(leaf, after[path])
  }


@pytest.mark.parametrize(
  ("pairs", "whole"), [("2:3,1:1", True), ("", True), ("1:2", False)]
)
def test_the_last_block_learns_where_its_state_is_compared(basis, pairs, whole):
  fields = {"hidden.projection": basis, "hidden.weight": 0.5}
  config = config_of("m", **fields | {"hidden.pairs": pairs})
  params, _ = Steps({"student": config}).three()
  moved = changed(params["student"], config)
  last = {path[1] for path in moved if path[0] == "last"}
  only = {"query", "key", "value"}
  rest = {"attention_out", "attention_norm", "ffn_in", "ffn_out", "ffn_norm"}
  assert last == (only | rest if whole else only)
  assert not any(path[0] == "pooler" for path in moved)


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


def test_several_students_have_terms_of_their_own(basis):
  """Each learns as alone; whoever has no term does not notice."""
  configs = {
    "m": config_of("m", **TERM, **{"hidden.projection": basis}),
    "s": config_of("s"),
    "wide": config_of(
      "m",
      **{
        "hidden.weight": 2.0,
        "hidden.pairs": "1:1",
        "student.hidden_size": 48,
        "teacher.layer": 2,
        "student.num_layers": 1,
      },
    ),
  }
  params, history = Steps(configs).three()
  for name, config in configs.items():
    alone, told = Steps({"student": config}).three()
    assert_close(params[name], alone["student"], 1e-5)
    for found, wanted in zip(history, told, strict=True):
      assert found[name].keys() == wanted["student"].keys()
      assert ("train/hidden" in found[name]) == (name != "s")
      assert_close(found[name], wanted["student"], 1e-4)


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
  assert found["term"] == found["plain"]
  assert found["alone"].pop("hidden") == hidden > 0.1
  assert_close(found["alone"], found["plain"])
  _, history = steps.three()
  first = {name: float(x["train/loss"]) for name, x in history[0].items()}
  term = history[0]["term"]["train/hidden"]
  assert first["alone"] == pytest.approx(term / 2, rel=1e-5)
  assert "train/kl_qq" not in history[0]["alone"]


def test_operations_of_the_term_count(basis):
  fields = {"hidden.weight": 1.0, "hidden.projection": basis}
  batch = make_batch(**rows(0))

  def count(**fields):
    objectives = Steps({"student": config_of("m", **fields)}).objectives
    shapes = jax.eval_shape(objectives["student"].init, jax.random.key(0))
    params = {"student": flax.linen.meta.unbox(shapes)}
    return flops.step_flops(objectives, params, batch)

  plain, found = count(), count(**fields)
  tokens = ROWS * LENGTH
  width, inner = 48, 96
  rest = 2 * (width**2 + 2 * width * inner) + 4 * LENGTH * width
  assert found.teacher - plain.teacher == tokens * rest
  width, inner = 32, 32
  rest = 2 * (width**2 + 2 * width * inner) + 4 * LENGTH * width
  # The projections of the last block may be counted twice.
  assert found.student - plain.student >= 3 * tokens * rest
  assert found.relations - plain.relations == tokens * 2 * 48 * 32
