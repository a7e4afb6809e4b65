"""Looking up rows of a table: on any mesh as on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import make_mesh

from time_jax.bench.aot import collectives, program
from time_jax.models.sharded_embedding import lookup
from time_jax.parallel import sharding

V, D, B, T = 1024, 16, 8, 4


def value_and_grad(table, weights, ids, dtype=jnp.float32):
  def loss(table):
    x = lookup(table, ids, D, dtype)
    return jnp.sum(x * weights, dtype=jnp.float32), x

  (_, x), gradient = jax.value_and_grad(loss, has_aux=True)(table)
  return x, gradient


def inputs(dtype=jnp.float32):
  """Whole numbers: their sums have no order. Some ids come often."""
  random = np.random.default_rng(0)
  ids = random.integers(20, size=(B, T)) * 51
  table = random.integers(-99, 99, size=(V, D))
  weights = random.integers(-9, 9, size=(B, T, D))
  return (
    jnp.asarray(table, jnp.float32),
    jnp.asarray(weights, dtype),
    jnp.asarray(ids, jnp.int32),
  )


def on_mesh(mesh, arrays, dtype):
  rows = sharding.batch_sharding(mesh)
  split = D % mesh.shape["fsdp"] == 0
  columns = NamedSharding(mesh, P(None, "fsdp" if split else None))
  step = jax.jit(
    functools.partial(value_and_grad, dtype=dtype),
    out_shardings=(rows, columns),
  )
  placed = jax.tree.map(jax.device_put, arrays, (columns, rows, rows))
  with sharding.use_mesh(mesh):
    compiled = step.lower(*placed).compile()
    return compiled(*placed), compiled


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
@pytest.mark.parametrize(
  "sizes", [(1, 1, 1), (8, 1, 1), (2, 4, 1), (1, 8, 1), (2, 2, 2), (1, 3, 1)]
)
def test_a_mesh_changes_no_bit(sizes, dtype):
  arrays = inputs(dtype)
  expected = value_and_grad(*arrays, dtype)
  np.testing.assert_array_equal(expected[0], arrays[0][arrays[2]])
  if sizes[1] == 3:  # Divides neither rows nor columns: nothing is split.
    arrays = jax.tree.map(np.asarray, arrays)
    mesh = make_mesh(*sizes)
    with sharding.use_mesh(mesh):
      found = jax.jit(functools.partial(value_and_grad, dtype=dtype))(*arrays)
  else:
    found, _ = on_mesh(make_mesh(*sizes), arrays, dtype)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert found[0].dtype == dtype and found[1].dtype == jnp.float32


def test_columns_are_exchanged_and_never_a_table():
  _, compiled = on_mesh(make_mesh(2, 4, 1), inputs(), jnp.float32)
  found = collectives.collectives(program.read(compiled.as_text()), 8)
  table, rows = V * D * 4, B // 2 * T * D * 4 // 4
  sizes = {(one.kind, one.payload, one.group) for one in found}
  assert sizes == {
    ("all-gather", B // 2 * T * 4, 4),  # ids, of the devices of a copy
    ("all-to-all", rows, 4),  # there and back
    ("all-reduce", table // 4, 2),  # own columns, over the copies
  }


def test_inside_of_a_program_of_one_device():
  """As under pmap: the table is whole, and nothing is exchanged."""
  table, _, ids = inputs()
  mesh = make_mesh(8, 1, 1)
  with sharding.use_mesh(mesh):
    found = jax.jit(
      jax.shard_map(
        functools.partial(lookup, features=D, dtype=jnp.float32),
        in_specs=(P(), P("data")),
        out_specs=P("data"),
      )
    )(table, ids)
  np.testing.assert_array_equal(found, table[ids])
