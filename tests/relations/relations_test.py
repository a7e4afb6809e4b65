"""The loss against the reference's values, and implementations against each
other where the reference has no answer."""

import doctest
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import (
  ALL,
  PACKED,
  assert_close,
  assert_close_in_norm,
  random_qkv,
  value_and_grad,
)
from jax.test_util import check_grads

from time_jax.core.arrays import Qkv
from time_jax.core.errors import UserError
from time_jax.relations import dense, loss
from time_jax.relations.loss import (
  IMPLEMENTATIONS,
  check_heads,
  check_relations,
  relation_sums,
)

CASES = sorted(
  (pathlib.Path(__file__).parents[1] / "golden/relation_loss").glob("*.npz")
)
NAMES = "?qkv"
# "auto" is one of them; which one is tested with the platforms.
NAMED = sorted(set(IMPLEMENTATIONS) - {"auto"})
SOME = {"qq": 1.0, "vq": 1.5}
FAST = sorted(set(NAMED) - {"dense"})


def qkv(case, side):
  return Qkv(*(jnp.asarray(case[f"{side}_{n}"]) for n in "qkv"))


@pytest.mark.parametrize("module", [dense, loss], ids=lambda m: m.__name__)
def test_the_examples_of_docstrings(module):
  results = doctest.testmod(module)
  assert results.attempted > 4 and not results.failed


# Programs of their own that differ from others in widths and heads alone, which
# kernels_test varies too. "dense", the definition, is quick with every case.
ALIKE = ("base_h32_a8_r*", "base_h*_a16_r*_self", "base_h48_a[48]_r*_self")


def is_slow(path, name):
  alike = any(path.match(f"{pattern}.npz") for pattern in ALIKE)
  return alike and name != "dense"


@pytest.mark.parametrize(
  ("path", "implementation"),
  [
    pytest.param(
      *(path, name),
      id=f"{path.stem}-{name}",
      marks=pytest.mark.slow if is_slow(path, name) else (),
    )
    for path in CASES
    for name in NAMED
  ],
)
def test_equals_the_reference(path, implementation):
  case = np.load(path)
  relations = {
    NAMES[i] + NAMES[j]: float(w)
    for (i, j), w in zip(case["relations"], case["weights"], strict=True)
  }
  (value, parts), grads = value_and_grad(
    qkv(case, "student"),
    qkv(case, "teacher"),
    jnp.asarray(case["mask"], jnp.int32),
    relations,
    int(case["relation_heads"]),
    implementation,
  )
  # "ltg" is the reference's form that averages over non-empty examples.
  np.testing.assert_allclose(value, case["loss_ltg_f64"], rtol=1e-5)
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


# This and the next two have one program for each implementation: rows, widths,
# heads and relations are alike, and to compile takes most of their time.
@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["normal", "saturated"])
def test_equals_dense_on_packed_rows(scale, implementation):
  inputs = random_qkv(1, 4, 12, 16, scale), random_qkv(0, 4, 12, 32, scale)
  found, expected = (
    value_and_grad(*inputs, jnp.asarray(PACKED), ALL, 4, name)
    for name in (implementation, "dense")
  )
  assert_close(found, expected)
  for grad in jax.tree.leaves(found[1]):
    assert not np.asarray(grad)[PACKED == 0].any()


@pytest.mark.parametrize("implementation", NAMED)
def test_packed_documents_count_as_if_alone(implementation):
  teacher, student = random_qkv(0, 4, 12, 32), random_qkv(1, 4, 12, 16)
  (packed, _), _ = value_and_grad(
    student, teacher, jnp.asarray(PACKED), ALL, 4, implementation
  )

  def alone(x, row, columns):
    """The document in the first of otherwise empty rows, of the same shape."""
    rows = np.zeros_like(x)
    rows[0, : len(columns)] = np.asarray(x)[row, columns]
    return rows

  one_by_one = []
  for row, ids in enumerate(PACKED):
    for document in range(1, ids.max() + 1):
      take = functools.partial(
        alone, row=row, columns=np.flatnonzero(ids == document)
      )
      inputs = student, teacher, np.ones_like(PACKED)
      (loss, _), _ = value_and_grad(
        *jax.tree.map(take, inputs), ALL, 4, implementation
      )
      one_by_one.append(loss)
  assert len(one_by_one) == 6
  np.testing.assert_allclose(packed, np.mean(one_by_one), rtol=1e-5)


@pytest.mark.parametrize("implementation", NAMED)
def test_empty_batch_gives_zero_and_no_nan(implementation):
  (value, _), grads = value_and_grad(
    random_qkv(1, 4, 12, 16),
    random_qkv(0, 4, 12, 32),
    jnp.zeros_like(PACKED),
    ALL,
    4,
    implementation,
  )
  assert value == 0
  assert all(bool((g == 0).all()) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("length", [300, 600])
def test_one_pass_in_squares_and_blocks(length):
  """Symmetric squares up to 512 tokens, blocks of queries beyond; the last of
  either is smaller, and documents end anywhere."""
  segments = np.zeros((1, length), np.int32)
  for end in (length - 7, 290, 133, 1):
    segments[:, :end] += 1
  inputs = random_qkv(1, 1, length, 24), random_qkv(0, 1, length, 48)
  found, expected = (
    value_and_grad(*inputs, jnp.asarray(segments), {"qq": 1.0}, 12, name)
    for name in ("one_pass", "dense")
  )
  assert_close(found, expected)


@pytest.mark.parametrize(
  "implementation",
  [
    pytest.param(n, marks=pytest.mark.slow if n.startswith("pallas") else ())
    for n in NAMED
  ],
)
def test_gradient_is_the_derivative(implementation):
  with jax.enable_x64(True):
    teacher, student = random_qkv(0, 2, 5, 8), random_qkv(1, 2, 5, 4)
    teacher = jax.tree.map(lambda x: x.astype(jnp.float64), teacher)
    arrays = [x.astype(jnp.float64) for x in jax.tree.leaves(student)]
    segments = jnp.asarray([[1, 1, 2, 2, 0], [0, 1, 1, 1, 1]])

    @jax.jit
    def total(*projections):
      sums = relation_sums(
        teacher,
        Qkv(*map(jnp.asarray, projections)),
        segments,
        num_heads=2,
        relations=SOME,
        implementation=implementation,
      )
      return jnp.sum(jnp.stack(list(sums.values())))

    check_grads(total, arrays, order=1, modes=["rev"], rtol=1e-5)


@pytest.mark.parametrize("implementation", NAMED)
@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["normal", "saturated"])
def test_bfloat16_is_accumulated_in_float32(scale, implementation):
  """What is lost is the rounding of D, where there is one, and of gradients."""
  inputs = random_qkv(1, 2, 64, 48, scale), random_qkv(0, 2, 64, 128, scale)
  segments = jnp.ones((2, 64), jnp.int32)
  halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), inputs)
  rounded = jax.tree.map(lambda x: x.astype(jnp.float32), halves)
  relations = {"qq": 1.0, "vk": 1.0}
  low = value_and_grad(*halves, segments, relations, 8, implementation)
  high = value_and_grad(*rounded, segments, relations, 8, "dense")
  assert low[0][0].dtype == jnp.float32
  assert_close(low, high, gradient=0.005)
  assert_close_in_norm(low, high, 0.003)


@pytest.mark.parametrize("implementation", FAST)
def test_a_projection_and_its_copy_have_the_relation_of_one(implementation):
  """Told as one operand or as two, the numbers are the same."""
  student, teacher = random_qkv(1, 4, 12, 16), random_qkv(0, 4, 12, 32)
  copied = Qkv(student.query, student.query, student.value)
  twice = Qkv(teacher.query, teacher.query, teacher.value)
  segments = jnp.asarray(PACKED)
  one = value_and_grad(student, teacher, segments, {"qq": 1.0}, 4, "dense")
  two = value_and_grad(copied, twice, segments, {"qk": 1.0}, 4, implementation)
  np.testing.assert_allclose(one[0][0], two[0][0], rtol=1e-5)
  np.testing.assert_allclose(one[1].query, two[1].query + two[1].key, atol=1e-6)


def test_one_pass_keeps_no_square_matrix():
  """Its temporaries grow neither with R nor, beyond a tile, with S squared."""

  def temporary(implementation, num_heads, length):
    inputs = [
      random_qkv(seed, 2, length, width) for seed, width in ((1, 96), (0, 192))
    ]
    compiled = value_and_grad.lower(
      *inputs,
      jnp.ones((2, length), jnp.int32),
      {"qq": 1.0},
      num_heads,
      implementation,
    ).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  square = 128 * 128 * 4
  many = temporary("one_pass", 96, 128)
  assert temporary("dense", 48, 128) > 2 * 48 * square
  assert many < 48 * square
  assert many < 1.1 * temporary("one_pass", 16, 128)
  projections = 2 * 96 * 4 * (2048 - 512)
  assert (
    temporary("one_pass", 48, 2048) - temporary("one_pass", 48, 512)
    < 4 * projections
  )


@pytest.mark.parametrize(
  ("relations", "implementation", "words"),
  [
    ({"qz": 1.0}, "dense", "relation 'qz' is unknown"),
    ({"qk": 1.0}, "dense", "its projections are 64 and 32 wide"),
    ({}, "dense", "nothing would be learnt"),
    ({"qq": 1.0}, "magic", "known: auto, dense, one_pass, pallas_gpu"),
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


@pytest.mark.parametrize(
  "sizes", [(63.9,) * 8, (0.0, 1, 40, 63.9, 64.1, 300, 1e4, 1)], ids=str
)
def test_heads_whose_logits_need_a_maximum_and_heads_that_do_not(sizes):
  """One pass takes four heads at a time; 64 is where it changes its way."""
  num_heads, width = len(sizes), 6

  def scaled(seed, rows=2, length=40):
    x = random_qkv(seed, rows, length, num_heads * width).query
    heads = x.reshape(rows, length, num_heads, width)
    largest = jnp.max(jnp.sum(heads**2, -1), 1, keepdims=True) / width**0.5
    heads *= jnp.sqrt(jnp.asarray(sizes)[None, None] / largest)[..., None]
    return heads.reshape(x.shape)

  student, teacher = (Qkv(*[scaled(seed)] * 3) for seed in (0, 1))
  segments = jnp.asarray(PACKED[:2]).repeat(4, axis=1)[:, :40]
  found, expected = (
    value_and_grad(student, teacher, segments, {"qq": 1.0}, num_heads, name)
    for name in ("one_pass", "dense")
  )
  assert_close(found, expected)
