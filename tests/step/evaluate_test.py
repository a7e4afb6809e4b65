"""Held-out loss: the same number however the rows are spread."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes import make_mesh

from time_jax.core.arrays import make_batch
from time_jax.hf import load
from time_jax.models import bert
from time_jax.models.family import abstract_params, init_params
from time_jax.parallel import sharding
from time_jax.relations import loss as relations
from time_jax.step import evaluate
from time_jax.step.objective import Objective

FLOAT32 = jnp.dtype("float32")
WEIGHTS = {"qq": 1.0, "kk": 0.5, "qk": 2.0}
TEACHER = {
  "model_type": "bert",
  "vocab_size": 40,
  "hidden_size": 24,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "intermediate_size": 32,
  "max_position_embeddings": 16,
  "initializer_range": 0.5,
}
STUDENT = bert.BertConfig(
  vocab_size=40,
  hidden_size=16,
  num_layers=2,
  num_heads=4,
  intermediate_size=24,
  max_positions=16,
  dropout=0.5,
  attention_dropout=0.5,
  initializer_range=0.5,
)


@pytest.fixture(scope="module")
def objective():
  teacher = load.random_teacher(
    TEACHER, (2,), seed=1, dtype=FLOAT32, mesh=make_mesh(1, 1, 1)
  )
  return Objective(teacher, bert.Encoder(STUDENT, 2), 4, WEIGHTS, "dense", 2)


@pytest.fixture(scope="module")
def params(objective):
  fresh = jax.jit(lambda: init_params(objective.student, jax.random.key(3)))
  return jax.tree.map(np.asarray, nn.meta.unbox(fresh()))


@pytest.fixture(scope="module")
def rows():
  """16 rows of 0 to 3 documents, very unlike in number and length."""
  random = np.random.default_rng(0)
  tokens = random.integers(40, size=(16, 12)).astype(np.int32)
  segments = np.zeros((16, 12), np.int32)
  for row, count in enumerate(random.integers(0, 4, size=16)):
    ends = np.sort(random.choice(np.arange(1, 13), count, replace=False))
    for number, end in reversed(list(enumerate(ends, 1))):
      segments[row, :end] = number
  assert set(segments.max(axis=1)) == {0, 1, 2, 3}
  return tokens, segments


@pytest.fixture(scope="module")
def run(objective):
  """Evaluates; what is compiled is used again."""
  evaluators = {}

  def evaluated(params, rows, sizes=(1, 1, 1), size=16):
    mesh = make_mesh(*sizes)
    if sizes not in evaluators:
      evaluators[sizes] = evaluate.make_evaluator({"student": objective}, mesh)
    return run_with(evaluators[sizes], objective, params, rows, mesh, size)

  return evaluated


def run_with(evaluator, objective, params, rows, mesh, size=16):
  layout = sharding.param_shardings(abstract_params(objective.student), mesh)
  batches = [
    sharding.global_batch(*(x[i : i + size] for x in rows), mesh, size)
    for i in range(0, len(rows[0]), size)
  ]
  found = evaluator(
    {"student": jax.device_put(params, layout)},
    sharding.replicate(objective.teacher.params, mesh),
    iter(batches),
  )
  return found["student"]


@pytest.fixture(scope="module")
def one_batch(run, params, rows):
  return run(params, rows)


def assert_same(found, expected):
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert isinstance(found[name], float)
    np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_it_is_the_mean_over_documents(objective, params, rows, one_batch):
  """Each document by itself, as the paper averages them."""

  @jax.jit
  def of(batch):
    return relations.relation_sums(
      objective.targets(objective.teacher.params, batch).projections[2],
      objective.student.apply({"params": params}, batch),
      batch.segment_ids,
      num_heads=4,
      relations=WEIGHTS,
      implementation="dense",
    )

  parts = []
  for tokens, segments in zip(*rows, strict=True):
    for number in range(1, segments.max() + 1):
      ids = tokens[segments == number]
      alone = np.zeros((2, 1, 12), np.int32)
      alone[:, 0, : len(ids)] = ids, np.ones_like(ids)
      parts.append(of(make_batch(*alone)))
  assert len(parts) == rows[1].max(axis=1).sum()
  means = {n: np.mean([float(part[n]) for part in parts]) for n in WEIGHTS}
  expected = {f"kl_{name}": mean for name, mean in means.items()}
  expected["loss"] = sum(WEIGHTS[n] * means[n] for n in WEIGHTS)
  assert_same(one_batch, expected)
  assert one_batch["loss"] > 0.01


def test_the_batch_size_does_not_matter(run, params, rows, one_batch):
  assert_same(run(params, rows, size=4), one_batch)


@pytest.mark.parametrize(
  "sizes",
  [pytest.param((8, 1, 1), marks=pytest.mark.slow), (2, 2, 2)],
  ids=str,
)
def test_the_mesh_does_not_matter(run, params, rows, one_batch, sizes):
  assert_same(run(params, rows, sizes, size=8), one_batch)


def test_empty_rows_change_nothing(run, params, rows, one_batch):
  empty = [np.zeros_like(x) for x in rows]
  padded = [np.concatenate(parts) for parts in zip(rows, empty, strict=True)]
  assert_same(run(params, padded), one_batch)
  assert set(run(params, empty).values()) == {0.0}
  assert run(params, [x[:0] for x in rows]) == {}


def test_there_is_no_dropout(objective, params, rows, one_batch):
  sober = dataclasses.replace(STUDENT, dropout=0.0, attention_dropout=0.0)
  without = dataclasses.replace(objective, student=bert.Encoder(sober, 2))
  mesh = make_mesh(1, 1, 1)
  evaluator = evaluate.make_evaluator({"student": without}, mesh)
  assert run_with(evaluator, without, params, rows, mesh) == one_batch
