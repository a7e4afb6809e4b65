"""The loss against the reference's values, and implementations against each
other where the reference has no answer."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from time_jax.arrays import Qkv
from time_jax.errors import UserError
from time_jax.relations.loss import (
  IMPLEMENTATIONS,
  check_heads,
  check_relations,
  count_documents,
  relation_sums,
)

CASES = sorted(
  (pathlib.Path(__file__).parents[1] / "golden/relation_loss").glob("*.npz")
)
NAMES = "?qkv"


def qkv(case, side):
  return Qkv(*(jnp.asarray(case[f"{side}_{n}"]) for n in "qkv"))


def loss_of(student, teacher, segments, num_heads, relations, implementation):
  sums = relation_sums(
    teacher,
    student,
    segments,
    num_heads=num_heads,
    relations=relations,
    implementation=implementation,
  )
  documents = jnp.maximum(count_documents(segments), 1).astype(jnp.float32)
  parts = {name: total / documents for name, total in sums.items()}
  loss = jnp.sum(jnp.stack([relations[n] * parts[n] for n in parts]))
  return loss, parts


def value_and_grad(student, teacher, segments, num_heads, relations, name):
  @jax.jit
  def run(student, teacher, segments):
    return jax.value_and_grad(loss_of, has_aux=True)(
      student, teacher, segments, num_heads, relations, name
    )

  return run(student, teacher, segments)


@pytest.mark.parametrize("implementation", sorted(IMPLEMENTATIONS))
@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_equals_the_reference(path, implementation):
  case = np.load(path)
  relations = {
    NAMES[i] + NAMES[j]: float(w)
    for (i, j), w in zip(case["relations"], case["weights"], strict=True)
  }
  (loss, parts), grads = value_and_grad(
    qkv(case, "student"),
    qkv(case, "teacher"),
    jnp.asarray(case["mask"], jnp.int32),
    int(case["relation_heads"]),
    relations,
    implementation,
  )
  # "ltg" is the reference's form that averages over non-empty examples.
  np.testing.assert_allclose(loss, case["loss_ltg_f64"], rtol=1e-5)
  np.testing.assert_allclose(
    jnp.stack([parts[n] for n in relations]), case["parts_ltg_f64"], rtol=1e-5
  )
  form = "ltg" if "grad_q_ltg_f64" in case else "fast"
  for name, found in zip(
    "qkv", (grads.query, grads.key, grads.value), strict=True
  ):
    np.testing.assert_allclose(
      found, case[f"grad_{name}_{form}_f64"], atol=1e-6, rtol=0
    )


def random_qkv(seed, batch, length, width, scale=1.0):
  keys = jax.random.split(jax.random.key(seed), 3)
  return Qkv(
    *(scale * jax.random.normal(k, (batch, length, width)) for k in keys)
  )


PACKED = np.array(
  [
    [1, 1, 1, 2, 2, 2, 2, 3, 3, 0, 0, 0],
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [0, 1, 1, 2, 0, 2, 2, 2, 2, 2, 2, 2],
  ]
)
ALL = {"qq": 1.0, "kk": 0.5, "vv": 2.0, "qk": 0.3, "vq": 1.5}


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["normal", "saturated"])
def test_one_pass_equals_dense_on_packed_rows(scale):
  teacher, student = random_qkv(0, 4, 12, 32), random_qkv(1, 4, 12, 16, scale)
  run = functools.partial(
    value_and_grad, student, teacher, jnp.asarray(PACKED), 4, ALL
  )
  (loss, parts), grads = run("one_pass")
  (expected, expected_parts), expected_grads = run("dense")
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  for name in ALL:
    np.testing.assert_allclose(parts[name], expected_parts[name], rtol=1e-5)
  for found, wanted in zip(
    jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True
  ):
    bound = 1e-4 * float(jnp.abs(wanted).max())
    np.testing.assert_allclose(found, wanted, atol=bound, rtol=0)


@pytest.mark.parametrize("implementation", sorted(IMPLEMENTATIONS))
def test_packed_documents_count_as_if_alone(implementation):
  teacher, student = random_qkv(0, 4, 12, 32), random_qkv(1, 4, 12, 16)
  packed, _ = loss_of(
    student, teacher, jnp.asarray(PACKED), 4, ALL, implementation
  )

  def take(x, row, columns):
    rest = 12 - len(columns)
    return jnp.pad(x[row, jnp.asarray(columns)], ((0, rest), (0, 0)))

  rows, segments = [], []
  for row, ids in enumerate(PACKED):
    for document in range(1, ids.max() + 1):
      columns = np.flatnonzero(ids == document)
      rows.append((row, columns))
      segments.append([1] * len(columns) + [0] * (12 - len(columns)))

  def alone(x):
    return jax.tree.map(
      lambda a: jnp.stack([take(a, *where) for where in rows]), x
    )

  one_by_one, _ = loss_of(
    alone(student),
    alone(teacher),
    jnp.asarray(segments),
    4,
    ALL,
    implementation,
  )
  np.testing.assert_allclose(packed, one_by_one, rtol=1e-5)


@pytest.mark.parametrize("implementation", sorted(IMPLEMENTATIONS))
def test_gradient_is_the_derivative(implementation):
  with jax.enable_x64(True):
    teacher, student = random_qkv(0, 2, 5, 8), random_qkv(1, 2, 5, 4)
    teacher = jax.tree.map(lambda x: x.astype(jnp.float64), teacher)
    arrays = [x.astype(jnp.float64) for x in jax.tree.leaves(student)]
    segments = jnp.asarray([[1, 1, 2, 2, 0], [0, 1, 1, 1, 1]])

    def loss(*projections):
      sums = relation_sums(
        teacher,
        Qkv(*map(jnp.asarray, projections)),
        segments,
        num_heads=2,
        relations=ALL,
        implementation=implementation,
      )
      return jnp.sum(jnp.stack(list(sums.values())))

    check_grads(loss, arrays, order=1, modes=["rev"], rtol=1e-5)


def test_empty_batch_gives_zero_and_no_nan():
  student = random_qkv(1, 2, 6, 8)
  for implementation in IMPLEMENTATIONS:
    (loss, _), grads = jax.value_and_grad(loss_of, has_aux=True)(
      student,
      random_qkv(0, 2, 6, 8),
      jnp.zeros((2, 6), jnp.int32),
      2,
      {"qq": 1.0},
      implementation,
    )
    assert loss == 0
    assert all(bool((g == 0).all()) for g in jax.tree.leaves(grads))


def test_bfloat16_keeps_the_softmax_in_float32():
  teacher, student = random_qkv(0, 2, 64, 64), random_qkv(1, 2, 64, 32)
  segments = jnp.ones((2, 64), jnp.int32)
  halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (student, teacher))
  rounded = jax.tree.map(lambda x: x.astype(jnp.float32), halves)
  for implementation in IMPLEMENTATIONS:
    low, _ = loss_of(*halves, segments, 8, {"qq": 1.0}, implementation)
    high, _ = loss_of(*rounded, segments, 8, {"qq": 1.0}, implementation)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, high, rtol=1e-5)


def test_one_pass_keeps_no_square_matrix():
  """Its temporaries must not grow with the number of relation heads."""

  def temporary(implementation, num_heads):
    teacher, student = random_qkv(0, 2, 128, 192), random_qkv(1, 2, 128, 96)
    segments = jnp.ones((2, 128), jnp.int32)

    def loss(x):
      return loss_of(
        Qkv(x, x, x), teacher, segments, num_heads, {"qq": 1.0}, implementation
      )[0]

    compiled = jax.jit(jax.grad(loss)).lower(student.query).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  square = 2 * 128 * 128 * 4
  assert temporary("dense", 48) > 48 * square
  assert temporary("one_pass", 48) < 12 * square


@pytest.mark.parametrize(
  ("relations", "implementation", "words"),
  [
    ({"qz": 1.0}, "dense", "relation 'qz' is unknown"),
    ({"qk": 1.0}, "dense", "its projections are 64 and 32 wide"),
    ({}, "dense", "nothing would be learnt"),
    ({"qq": 1.0}, "magic", "known: dense, one_pass"),
  ],
)
def test_impossible_relations_are_refused(relations, implementation, words):
  widths = {"query": 64, "key": 32, "value": 32}
  with pytest.raises(UserError, match=words):
    check_relations(relations, widths, implementation)


@pytest.mark.parametrize("heads", [48, 0, -1])
def test_heads_that_do_not_divide_are_refused(heads):
  widths = {"teacher": 1024, "student": 384}
  check_heads(64, widths)
  with pytest.raises(UserError, match=r"all: \[1, 2, 4, 8, 16, 32, 64, 128\]"):
    check_heads(heads, widths)
