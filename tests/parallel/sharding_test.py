"""The mesh, and what lies where on it."""

import functools

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from meshes import make_mesh

from time_jax.core.errors import UserError
from time_jax.models import bert
from time_jax.models.family import init_params
from time_jax.parallel import sharding
from time_jax.step import optimizer
from time_jax.step.state import StepSettings, abstract_state

MESHES = [(8, 1, 1), (4, 2, 1), (2, 2, 2)]
ADAMW = dict(b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, clip_norm=1.0)


@pytest.mark.parametrize(
  ("asked", "given"),
  [
    ((), (8, 1, 1)),
    ((-1, 2, 1), (4, 2, 1)),
    ((1, -1, 2), (1, 4, 2)),
    ((2, 2, -1), (2, 2, 2)),
    ((2, 4, 1), (2, 4, 1)),
  ],
)
def test_minus_one_fills_the_mesh(asked, given):
  mesh = sharding.make_mesh(*asked)
  assert tuple(mesh.shape.values()) == given
  assert mesh.axis_names == ("data", "fsdp", "tensor")
  assert len(set(mesh.devices.flat)) == 8
  assert sharding.batch_ways(mesh) == given[0] * given[1]


@pytest.mark.parametrize(
  "asked",
  [
    (3, 1, 1),
    (-1, 3, 1),
    (-1, -1, 1),
    (4, 1, 1),
    (16, 1, 1),
    (-1, 0, 1),
    (0, 1, 1),
    (-2, -4, 1),
    (-1, 8, 2),
  ],
)
def test_a_mesh_that_does_not_fit_is_refused(asked):
  words = "mesh data={} fsdp={} tensor={} does not fit 8 device".format(*asked)
  with pytest.raises(UserError, match=words) as caught:
    sharding.make_mesh(*asked)
  assert "the product must be 8 (-1 fills one axis)" in str(caught.value)


def test_a_dimension_is_split_only_into_equal_parts():
  mesh = make_mesh(2, 2, 2)
  rows = ("data", "fsdp")
  assert sharding.split_evenly(mesh, "batch", 8) == (rows, 4)
  assert sharding.split_evenly(mesh, "batch", 6) == (None, 1)
  assert sharding.split_evenly(mesh, "heads", 6) == ("tensor", 2)
  assert sharding.split_evenly(mesh, "length", 7) == (None, 1)


def test_the_compiler_spreads_a_program_over_an_open_mesh_of_many():
  assert sharding.automatic_mesh() is None
  with sharding.use_mesh(make_mesh(1, 1, 1)):
    assert sharding.automatic_mesh() is None
  mesh = make_mesh(4, 1, 1)
  with sharding.use_mesh(mesh):
    assert sharding.automatic_mesh() == mesh.abstract_mesh
    inside = []
    jax.eval_shape(
      jax.shard_map(
        lambda x: inside.append(sharding.automatic_mesh()) or x,
        in_specs=P("data"),
        out_specs=P("data"),
      ),
      jax.ShapeDtypeStruct((4,), jnp.float32),
    )
    assert inside == [None]


def box(shape, *names):
  return nn.LogicallyPartitioned(
    jax.ShapeDtypeStruct(shape, jnp.float32), names
  )


def test_parameters_follow_the_table():
  tree = {
    "in": box((8, 12), "embed", "mlp"),
    "stacked": box((3, 12, 8), "layers", "mlp", "embed"),
    "heads": box((8, 8), "embed", "heads"),
    "table": box((50, 8), "vocab", "embed"),
    "bias": box((12,), "mlp"),
    "step": jax.ShapeDtypeStruct((), jnp.int32),
  }
  found = sharding.param_shardings(tree, make_mesh(2, 2, 2))
  assert {name: layout.spec for name, layout in found.items()} == {
    "in": P("fsdp", "tensor"),
    "stacked": P(None, "tensor", "fsdp"),
    "heads": P("fsdp", "tensor"),
    "table": P(None, "fsdp"),
    "bias": P("tensor"),
    "step": P(),
  }


def test_an_axis_that_does_not_divide_is_dropped():
  mesh = make_mesh(1, 4, 2)
  tree = {
    "neither": box((6, 9), "embed", "mlp"),
    "second": box((6, 10), "embed", "mlp"),
    "first": box((12, 9), "embed", "mlp"),
  }
  found = sharding.param_shardings(tree, mesh)
  assert found["neither"].spec == P(None, None)
  assert found["second"].spec == P(None, "tensor")
  assert found["first"].spec == P("fsdp", None)
  for name, layout in found.items():
    placed = sharding.place(np.ones(tree[name].value.shape), layout)
    assert placed.sharding == layout


@pytest.mark.parametrize("sizes", MESHES[1:], ids=str)
def test_moments_lie_where_their_parameters_lie(sizes):
  config = bert.BertConfig(
    vocab_size=50,
    hidden_size=8,
    num_layers=3,
    num_heads=2,
    intermediate_size=12,
    max_positions=16,
  )
  tx = optimizer.make_optimizer(bert.FAMILY.feeds_projections, **ADAMW)
  init = functools.partial(init_params, bert.Encoder(config, 3))
  settings = StepSettings(tx, lambda step: 1.0)
  state = abstract_state(init, settings, make_mesh(*sizes))
  params = flax.traverse_util.flatten_dict(state.params)
  split = {path for path, leaf in params.items() if any(leaf.sharding.spec)}
  assert ("layers", "ffn_in", "kernel") in split
  seen = []
  for keys, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state):
    names = [k.key for k in keys if isinstance(k, jax.tree_util.DictKey)]
    path = next(
      (tuple(names[i:]) for i in range(4) if tuple(names[i:]) in params), None
    )
    if path:
      assert leaf.sharding == params[path].sharding, path
      assert leaf.shape == params[path].shape
      seen.append(path)
  trained = [path for path in params if bert.FAMILY.feeds_projections(path)]
  assert sorted(seen) == sorted(2 * trained)


def rows_of(count, length=5):
  random = np.random.default_rng(count)
  tokens = random.integers(100, size=(count, length)).astype(np.int32)
  lengths = random.integers(0, length + 1, size=(count, 1))
  return tokens, (np.arange(length) < lengths).astype(np.int32)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_a_batch_goes_to_the_devices_and_back(sizes):
  mesh = make_mesh(*sizes)
  tokens, segments = rows_of(16)
  mine = sharding.local_rows(mesh, 16)
  assert mine == list(range(16))
  batch = sharding.global_batch(tokens[mine], segments[mine], mesh, 16)
  np.testing.assert_array_equal(batch.tokens, tokens)
  np.testing.assert_array_equal(batch.segment_ids, segments)
  np.testing.assert_array_equal(
    batch.positions, np.where(segments > 0, np.arange(5), 0)
  )
  ways = sizes[0] * sizes[1]
  for leaf in jax.tree.leaves(batch):
    assert leaf.sharding == sharding.batch_sharding(mesh)
    for shard in leaf.addressable_shards:
      assert shard.data.shape == (16 // ways, 5)


def test_rows_of_a_process_that_holds_some(monkeypatch):
  """Two devices hold the same rows, as where `tensor` crosses processes."""
  held = {0: slice(6, 8), 1: slice(6, 8), 2: slice(2, 4)}

  class Layout:
    def addressable_devices_indices_map(self, shape):
      assert shape == (8,)
      return {device: (rows,) for device, rows in held.items()}

  monkeypatch.setattr(sharding, "batch_sharding", lambda mesh: Layout())
  assert sharding.local_rows(make_mesh(1, 1, 1), 8) == [2, 3, 6, 7]


def test_logical_constraints_mean_the_open_mesh():
  mesh = make_mesh(4, 2, 1)

  @jax.jit
  def pin(x):
    return nn.with_logical_constraint(x, ("batch", "length", "hidden"))

  with sharding.use_mesh(mesh):
    found = pin(jnp.ones((8, 3, 2)))
  assert found.sharding.is_equivalent_to(sharding.batch_sharding(mesh), 3)


def test_replicas_are_whole():
  mesh = make_mesh(2, 2, 2)
  tree = sharding.replicate({"a": np.arange(6.0)}, mesh)
  assert len(tree["a"].addressable_shards) == 8
  for shard in tree["a"].addressable_shards:
    np.testing.assert_array_equal(shard.data, np.arange(6.0))
