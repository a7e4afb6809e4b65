"""The tiles of a CPU against the definition; dropout that no mesh changes."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from meshes import make_mesh

from time_jax.core.arrays import Batch
from time_jax.hf import load
from time_jax.models import attention, dropout, layers
from time_jax.models.family import abstract_params
from time_jax.parallel import sharding

B, T, N, H = 4, 13, 4, 6


def inputs(key_heads=N, seed=0):
  random = np.random.default_rng(seed)
  query = jnp.asarray(random.normal(size=(B, T, N * H)), jnp.float32)
  both = random.normal(size=(2, B, T, key_heads * H))
  key, value = jnp.asarray(both, jnp.float32)
  segments = np.array([[1] * T, [1] * 5 + [2] * 8, [1] * 3 + [0] * 10, [0] * T])
  mask = (segments[:, None, :, None] == segments[:, None, None, :]) & (
    segments[:, None, :, None] > 0
  )
  return query, key, value, jnp.asarray(mask)


def value_and_grad(arrays, **options):
  """Output and gradients, of rows and keys that are real."""
  *qkv, mask = arrays
  real = mask.any(axis=-1)[:, 0, :, None]

  def loss(qkv):
    out = attention.attend(*qkv, mask, **options)
    return jnp.sum(jnp.where(real, out, 0) ** 2), jnp.where(real, out, 0)

  return jax.jit(jax.grad(loss, has_aux=True))(qkv)


OPTIONS = {
  "plain": {},
  "scale": {"scale": 1.0},
  "shared keys": {"num_key_heads": 2},
  "bias of heads": {"bias": (1, N)},
  "bias of rows": {"bias": (B, N)},
  "one bias": {"bias": (1, 1)},
  "dropout": {"dropout": 0.3},
  "all": {"num_key_heads": 1, "bias": (B, N), "dropout": 0.3, "scale": 0.2},
}


def options(name):
  found = {"num_heads": N} | OPTIONS[name]
  if "bias" in found:
    random = np.random.default_rng(5)
    shape = (*found["bias"], T, T)
    found["bias"] = jnp.asarray(random.normal(size=shape), jnp.float32)
  if "dropout" in found:
    found["dropout"] = attention.Dropout(found["dropout"], jax.random.key(7))
  return found


TILES = {
  "a query": 1,
  "queries": 4 * T,
  "heads": 2 * T * T,
  "rows": 2 * T * T * N,
}


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("name", OPTIONS)
def test_tiles_are_the_definition(monkeypatch, mesh, name, tile):
  monkeypatch.setattr(attention, "_TILE", TILES[tile])
  chosen = options(name)
  arrays = inputs(chosen.get("num_key_heads", N))
  defined = value_and_grad(arrays, **chosen)
  monkeypatch.setattr(attention, "attend_dense", None)
  with sharding.use_mesh(mesh):
    tiled = value_and_grad(arrays, **chosen)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=2e-5), tiled, defined
  )


@pytest.mark.parametrize("sizes", [(8, 1, 1), (4, 1, 2), (2, 2, 2), (1, 2, 4)])
@pytest.mark.parametrize("name", ["plain", "bias of heads", "dropout", "all"])
def test_meshes_agree(sizes, name):
  chosen, repeats = options(name), 2  # eight rows
  arrays = inputs(chosen.get("num_key_heads", N))
  arrays = [jnp.concatenate([x] * repeats) for x in arrays]
  if chosen.get("bias") is not None and len(chosen["bias"]) > 1:
    chosen["bias"] = jnp.concatenate([chosen["bias"]] * repeats)
  alone = value_and_grad(arrays, **chosen)
  mesh = make_mesh(*sizes)
  with sharding.use_mesh(mesh):
    placed = [jax.device_put(x, sharding.batch_sharding(mesh)) for x in arrays]
    spread = value_and_grad(placed, **chosen)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=2e-5), alone, spread
  )


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("name", ["bias of heads", "dropout", "all"])
def test_what_no_kernel_takes_goes_by_tiles(monkeypatch, name, platform):
  chosen = options(name)
  arrays = inputs(chosen.get("num_key_heads", N))
  defined = value_and_grad(arrays, **chosen)
  monkeypatch.setattr(attention, "_platform", lambda _: platform)
  monkeypatch.setattr(attention, "_LARGE_TILE", 5 * T)
  monkeypatch.setattr(attention, "attend_dense", None)
  mesh = make_mesh(2, 2, 2)
  with sharding.use_mesh(mesh):
    placed = [jax.device_put(x, sharding.batch_sharding(mesh)) for x in arrays]
    tiled = value_and_grad(placed, **chosen)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=2e-5), tiled, defined
  )


def test_memory_grows_with_a_tile_only(monkeypatch, mesh):
  length, rows = 256, 8
  shapes = [jax.ShapeDtypeStruct((rows, length, N * H), jnp.float32)] * 3
  mask = jax.ShapeDtypeStruct((rows, 1, length, length), bool)
  dropout = attention.Dropout(0.1, jax.random.key(0))

  def temporary(tile):
    monkeypatch.setattr(attention, "_LARGE_TILE", tile)

    def loss(qkv, mask):
      out = attention.attend(*qkv, mask, num_heads=N, dropout=dropout)
      return jnp.sum(out**2)

    with sharding.use_mesh(mesh):
      compiled = jax.jit(jax.grad(loss)).lower(shapes, mask).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  monkeypatch.setattr(attention, "_platform", lambda _: "any")
  dense = temporary(0)
  monkeypatch.setattr(attention, "_platform", lambda _: "tpu")
  row, head, queries = (
    temporary(tile) for tile in (N * length**2, length**2, 64 * length)
  )
  assert dense > 3 * row and row > 1.5 * head and head > 1.2 * queries


def test_rows_without_a_key_give_no_nan():
  *qkv, _ = inputs()
  nothing = jnp.zeros((B, 1, T, T), bool)
  out = attention.attend(*qkv, nothing, num_heads=N)
  assert bool(jnp.isfinite(out).all())


def test_dropout_drops_its_rate_and_keeps_the_mean():
  words = jax.random.key_data(jax.random.key(3))
  keep = functools.partial(dropout.kept, words, 0.1, 501)
  places = (0, 0), (0, 0), (1, 0), (0, 1)
  first, again, row, head = (
    jax.vmap(functools.partial(keep, *place))(jnp.arange(501))
    for place in places
  )
  assert bool((first == again).all())
  for other in (row, head):
    assert 0.15 < float((first != other).mean()) < 0.21  # 2 x 0.1 x 0.9
  assert abs(float(first.mean()) - 0.9) < 0.003
  # No row or column is favoured: their means scatter as independent bits do.
  for axis in (0, 1):
    spread = float(first.mean(axis=axis).std())
    assert abs(spread - (0.09 / 501) ** 0.5) < 0.003


@pytest.mark.parametrize("key_heads", [N, 2])
def test_the_flash_kernel_is_the_definition(monkeypatch, key_heads):
  """In interpret mode; at real tokens, the padding of one may see others'."""
  random = np.random.default_rng(1)
  shape = (2, 256, N * 64)
  query = jnp.asarray(random.normal(size=shape), jnp.float32)
  both = random.normal(size=(2, 2, 256, key_heads * 64))
  key, value = jnp.asarray(both, jnp.float32)
  documents = np.array([[1] * 100 + [2] * 156, [1] * 200 + [0] * 56], np.int32)
  mask = layers.document_mask(jnp.asarray(documents))
  call = functools.partial(
    attention.attend,
    num_heads=N,
    num_key_heads=key_heads,
    documents=jnp.asarray(documents),
  )
  expected = call(query, key, value, mask)
  monkeypatch.setattr(attention, "_platform", lambda _: "tpu")
  with pltpu.force_tpu_interpret_mode():
    found = call(query, key, value, mask)
  np.testing.assert_allclose(
    found[documents > 0], expected[documents > 0], atol=2e-5
  )


WINDOWS = (None, 3, 40, 256)


@functools.cache
def near_case(length):
  """Projections, documents, and the mask of each window."""
  random = np.random.default_rng(2)
  query, key, value = jnp.asarray(
    random.normal(size=(3, 2, length, N * 8)), jnp.float32
  )
  cut, used = length // 3, 3 * length // 4
  documents = np.array(
    [
      [1] * cut + [2] * (length - cut),
      [1] * used + [0] * (length - used),
    ],
    np.int32,
  )
  place = np.arange(length)
  apart = np.abs(place[:, None] - place[None])
  whole = np.asarray(layers.document_mask(jnp.asarray(documents)))
  masks = {
    window: jnp.asarray(whole & (apart <= (window or length)))
    for window in WINDOWS
  }
  return (query, key, value), documents, masks


@pytest.mark.parametrize("tile", [1, 4 * T, 2 * T * T, 2 * T * T * N])
@pytest.mark.parametrize("window", WINDOWS)
def test_documents_and_a_window_are_their_mask(monkeypatch, mesh, window, tile):
  qkv, documents, masks = near_case(T)
  expected = attention.attend(*qkv, masks[window], num_heads=N)
  near = functools.partial(
    attention.attend,
    *(*qkv, None),
    num_heads=N,
    documents=jnp.asarray(documents),
  )
  found = [near(window=window)]
  monkeypatch.setattr(attention, "_TILE", tile)
  with sharding.use_mesh(mesh):
    found.append(near(window=window))
  monkeypatch.setattr(attention, "_platform", lambda _: "cuda")
  in_xla = functools.partial(attention._attend_cudnn, implementation="xla")
  monkeypatch.setattr(attention, "_attend_cudnn", in_xla)
  monkeypatch.setattr(attention, "_fits_cudnn", lambda *_: True)
  with sharding.use_mesh(mesh):
    found.append(near(window=window))
  real = documents > 0
  for one in found:
    np.testing.assert_allclose(one[real], expected[real], atol=2e-5)


def test_on_a_tpu_the_kernel_takes_what_no_window_cuts(monkeypatch):
  """The window as a scan has it, known as the program runs."""
  qkv, documents, masks = near_case(128)
  real = documents > 0
  expected = [
    attention.attend(*qkv, masks[window], num_heads=N) for window in (40, None)
  ]
  monkeypatch.setattr(attention, "_LARGE_TILE", 32 * 128)
  monkeypatch.setattr(attention, "_platform", lambda _: "tpu")

  @jax.jit
  def call(window):
    ids = jnp.asarray(documents)
    return attention.attend(
      *qkv, None, num_heads=N, documents=ids, window=window
    )

  with pltpu.force_tpu_interpret_mode():
    found = [call(window) for window in (40, 128)]
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one[real], other[real], atol=2e-5)


def inside(jaxpr):
  """All equations, those within others included."""
  for equation in jaxpr.eqns:
    yield equation
    for value in jax.tree.leaves(
      equation.params, is_leaf=lambda x: hasattr(x, "eqns")
    ):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from inside(inner)


@pytest.mark.parametrize("name", ["modernbert", "eurobert"])
def test_long_documents_have_no_matrix_of_all_tokens_on_a_tpu(
  monkeypatch, mesh, golden, name
):
  """Neither scores nor masks; the kernel is there for all that it takes."""
  length = 2048
  family, config = load.read_config(golden / name)
  encoder = family.encoder(config, config.num_layers)
  params = flax.linen.meta.unbox(abstract_params(encoder))
  batch = Batch(*[jax.ShapeDtypeStruct((8, length), jnp.int32)] * 3)
  monkeypatch.setattr(attention, "_platform", lambda _: "tpu")
  monkeypatch.setattr(attention, "_LARGE_TILE", 64 * length)
  with sharding.use_mesh(mesh):
    traced = jax.make_jaxpr(
      lambda params, batch: encoder.apply(
        {"params": params}, batch, method="hidden_states"
      )
    )(params, batch)
  shapes, kernels = set(), 0
  for equation in inside(traced.jaxpr):
    shapes |= {getattr(v.aval, "shape", ()) for v in equation.outvars}
    kernels += equation.primitive.name == "pallas_call"
  assert (8, length, config.hidden_size) in shapes
  assert not [shape for shape in shapes if shape.count(length) > 1]
  assert kernels >= 1


@pytest.mark.parametrize("key_heads", [N, 2])
def test_the_call_of_cudnn_is_the_definition(monkeypatch, key_heads):
  """The same call in XLA; cuDNN itself needs its GPU."""
  random = np.random.default_rng(1)
  query = jnp.asarray(random.normal(size=(2, 16, N * 8)), jnp.bfloat16)
  both = random.normal(size=(2, 2, 16, key_heads * 8))
  key, value = jnp.asarray(both, jnp.bfloat16)
  documents = jnp.asarray([[1] * 5 + [2] * 11, [1] * 9 + [0] * 7])
  mask = layers.document_mask(documents)
  call = functools.partial(
    attention.attend, num_heads=N, num_key_heads=key_heads, scale=0.2
  )
  expected = call(query, key, value, mask)
  in_xla = functools.partial(attention._attend_cudnn, implementation="xla")
  asked = []

  def spy(form, arrays):
    asked.append(arrays["query"].dtype)
    return in_xla(form, arrays)

  monkeypatch.setattr(attention, "_platform", lambda _: "cuda")
  monkeypatch.setattr(attention, "_attend_cudnn", spy)
  found = call(query, key, value, mask)
  assert asked == [jnp.bfloat16]
  real = np.asarray(documents) > 0
  np.testing.assert_allclose(
    np.asarray(found, np.float32)[real],
    np.asarray(expected, np.float32)[real],
    atol=2e-2,
  )
  # What cuDNN does not take goes by tiles.
  wide = [x.astype(jnp.float32) for x in (query, key, value)]
  call(*wide, mask)
  assert len(asked) == 1
