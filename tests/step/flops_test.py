"""The count against hand counts, family by family, and its edges."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas.ops.tpu import flash_attention as flash
from tiny_recipe import get_config

from time_jax.config.distill import STUDENT_SIZES
from time_jax.core.arrays import Batch, Targets
from time_jax.hf import load
from time_jax.models import bert
from time_jax.models.family import Teacher, abstract_params
from time_jax.run import assembly
from time_jax.step import flops
from time_jax.step.objective import Objective

FLOAT32 = jnp.dtype("float32")
# Width of the golden teachers.
D = 48


def batch_of(rows, length):
  ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  return Batch(ids, ids, ids)


def alone(objective):
  """One student and its parameters, as `step_flops` takes them."""
  params = nn.meta.unbox(abstract_params(objective.student))
  return {"student": objective}, {"student": params}


def xlmr_objective(size, weights):
  """The paper's main teacher up to layer 19, without any array."""
  wide = bert.BertConfig(250_002, 1024, 24, 16, 4096, position_offset=2)
  teacher = bert.Encoder(wide, 19)
  small = STUDENT_SIZES[size]
  thin = bert.BertConfig(250_002, num_heads=12, dropout=0.1, **small)
  student = bert.Encoder(thin, thin.num_layers)
  params = nn.meta.unbox(abstract_params(teacher))

  def targets(params, batch):
    return Targets({19: teacher.apply({"params": params}, batch)})

  frozen = Teacher(targets, (19,), params, wide.widths, 250_002, 512, "none")
  objective = Objective(frozen, student, 64, weights, "one_pass", 19)
  return alone(objective)


@pytest.mark.parametrize("size", STUDENT_SIZES)
def test_the_papers_step(size):
  """Per token, S = 512; D = 1024 and F = 4 D, so a block is 12 D^2 products."""
  weights = {"qq": 1.0, "kk": 1.0, "vv": 1.0}
  found = flops.step_flops(*xlmr_objective(size, weights), batch_of(4, 512))
  tokens, length = 4 * 512, 512
  blocks, attention = 18 * 24 * 1024**2, 18 * 4 * length * 1024
  assert blocks == 452_984_832 and attention == 37_748_736
  assert found.teacher == tokens * (blocks + attention + 6 * 1024**2)
  layers = STUDENT_SIZES[size]["num_layers"]
  width = STUDENT_SIZES[size]["hidden_size"]
  block = 24 * width**2 + 4 * length * width
  assert found.student == 3 * tokens * ((layers - 1) * block + 6 * width**2)
  assert found.relations == 3 * tokens * 2 * length * (1024 + 3 * width)
  assert found.total == found.teacher + found.student + found.relations


def test_only_the_relations_with_weight_count():
  one = flops.step_flops(*xlmr_objective("xs", {"qk": 0.5}), batch_of(2, 64))
  two = flops.step_flops(
    *xlmr_objective("xs", {"qk": 0.5, "vv": 1.0}), batch_of(2, 64)
  )
  assert two.relations == 2 * one.relations > 0
  assert two.teacher == one.teacher


def per_token(block, attention, project, fixed=lambda *_: 0, once=0):
  """Two whole blocks and the projections of a third; multiply-adds doubled."""

  def count(rows, length):
    linear = rows * length * (2 * block + project + once)
    scores_and_mix = 2 * 2 * rows * length**2 * attention
    return 2 * (linear + scores_and_mix + fixed(rows, length))

  return count


def relative(table_rows):
  """Queries and keys of the table, and both scores over 2 T - 1 distances."""
  return lambda rows, length: (
    2 * 2 * (table_rows * D**2 + rows * length * (2 * length - 1) * D)
  )


def bert_like(**more):
  return per_token(4 * D**2 + 2 * D * 96, D, 3 * D**2, **more)


HAND_COUNTS = {
  "bert": bert_like(),
  "xlm_roberta": per_token(4 * 64**2 + 2 * 64 * 128, 64, 3 * 64**2),
  "electra": bert_like(once=32 * D),
  "deberta_v3": bert_like(fixed=relative(16)),
  "deberta_v2_conv": bert_like(fixed=relative(16), once=3 * D**2),
  "ltgbert": per_token(4 * D**2 + 3 * D * 64, D, 3 * D**2, fixed=relative(15)),
  "t5_encoder": bert_like(),
  # Projections are 64 wide, the feed-forward is gated.
  "mt5_encoder": per_token(4 * D * 64 + 3 * D * 80, 64, 3 * D * 64),
  # One of the two blocks is local; its masked pairs count as well.
  "modernbert": per_token(4 * D**2 + 3 * D * 64, D, 3 * D**2),
  # Two of four heads of keys and values: 24 wide, shared by the queries.
  "eurobert": per_token(
    2 * D**2 + 2 * D * 24 + 3 * D * 64, D, D**2 + 2 * D * 24
  ),
}


@pytest.mark.parametrize("name", HAND_COUNTS)
def test_every_family(golden, mesh, name):
  how = dict(dtype=FLOAT32, mesh=mesh)
  teacher = load.load_teacher(str(golden / name), (3,), **how)
  for rows, length in ((2, 16), (3, 20)):
    found = flops.matmul_flops(
      teacher.project, teacher.params, batch_of(rows, length)
    )
    assert found == HAND_COUNTS[name](rows, length)


def square(size=4):
  return jax.ShapeDtypeStruct((size, size), jnp.float32)


ONE = 2 * 4**3


@pytest.mark.parametrize(
  ("function", "expected"),
  [
    (lambda x: x + x, 0),
    (lambda x: jnp.outer(x[0], x[1]), 0),  # no sum, as in RoPE's angles
    (lambda x: (x @ x, jnp.sum(x))[1], 0),  # thrown away
    (jax.checkpoint(jax.jit(lambda x: x @ x)), ONE),
    (jax.vmap(lambda row: row @ jnp.ones((4, 4))), ONE),
    (
      lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, None, 5)[0],
      5 * ONE,
    ),
    (lambda x: jax.lax.fori_loop(0, 5, lambda i, c: c @ x, x), 5 * ONE),
    (
      lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x @ x @ x),
      2 * ONE,
    ),
    # Forward one, the other's value is not asked for; backward two of each.
    (jax.grad(lambda x: jnp.sum(jnp.sin(x @ x) @ x)), 5 * ONE),
    (
      # "SAME" leaves 4 x 4 places; kernel 3 x 3, 5 features in, 7 out.
      lambda x: jax.lax.conv(
        jnp.broadcast_to(x, (2, 5, 4, 4)),
        jnp.ones((7, 5, 3, 3)),
        (1, 1),
        "SAME",
      ),
      2 * (2 * 7 * 16) * (5 * 9),
    ),
  ],
)
def test_what_counts(function, expected):
  assert flops.matmul_flops(function, square()) == expected


def test_kernels_count_for_every_block_of_their_grid():
  """Attention on a TPU is a kernel; it counts as it does elsewhere."""
  heads = jax.ShapeDtypeStruct((2, 4, 256, 64), jnp.float32)
  sizes = {f.name: 128 for f in dataclasses.fields(flash.BlockSizes)}
  blocks = flash.BlockSizes(**sizes | {"block_b": 1})
  found = flops.matmul_flops(
    lambda q, k, v: flash.flash_attention(q, k, v, block_sizes=blocks),
    heads,
    heads,
    heads,
  )
  assert found == 2 * 2 * 2 * 4 * 256**2 * 64


def test_a_loop_of_unknown_length_is_refused():
  def function(x):
    return jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ x, x)

  with pytest.raises(NotImplementedError):
    flops.matmul_flops(function, square())


def test_it_counts_a_run_as_it_is_assembled(tiny, mesh):
  config = get_config(tiny)
  (objective,) = assembly.make_objectives({"student": config}, mesh).values()
  found = flops.step_flops(*alone(objective), batch_of(8, 32))
  tokens = 8 * 32
  # Teacher 32 wide, F = 64, one whole block; student 16 wide, F = 32, one.
  assert found.teacher == tokens * 2 * (4096 + 4096 + 2 * 32 * 32 + 3 * 32**2)
  assert found.student == tokens * 6 * (1024 + 1024 + 2 * 32 * 16 + 3 * 16**2)
  assert found.relations == tokens * 2 * 32 * 3 * (32 + 3 * 16)
