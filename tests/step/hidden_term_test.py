"""The hidden-state term against PyTorch, and a step that has it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from time_jax.core.arrays import make_batch
from time_jax.hf import load
from time_jax.hf.save import to_tensors
from time_jax.models import bert
from time_jax.step.hidden_term import HiddenTerm, cosine_sum
from time_jax.step.objective import Objective

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
