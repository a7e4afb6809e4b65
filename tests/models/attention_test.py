"""Every implementation of attention against the definition."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from meshes import make_mesh

from time_jax.core.arrays import Batch, Qkv
from time_jax.hf import load
from time_jax.models import attention, attention_kernels, dropout
from time_jax.models.attention_operands import Mask, document_mask
from time_jax.models.family import abstract_params
from time_jax.parallel import sharding

B, T, N, H = 4, 13, 4, 6
SEGMENTS = np.array(
  [[1] * T, [1] * 5 + [2] * 8, [1] * 3 + [0] * 10, [0] * T], np.int32
)


def random_qkv(shape, key_heads=N, head_dim=H, dtype=jnp.float32):
  random = np.random.default_rng(0)
  return Qkv(
    *(
      jnp.asarray(random.normal(size=(*shape, heads * head_dim)), dtype)
      for heads in (N, key_heads, key_heads)
    )
  )


def with_matrix(segment_ids):
  ids = jnp.asarray(segment_ids)
  return Mask(ids, document_mask(ids))


def value_and_grad(qkv, segment_ids, **options):
  """Output and gradients, of rows and keys that are real."""
  real = (segment_ids > 0)[..., None]

  def loss(qkv):
    out = attention.attend(qkv, with_matrix(segment_ids), **options)
    out = jnp.where(real, out, 0)
    return jnp.sum(out**2), out

  return jax.jit(jax.grad(loss, has_aux=True))(qkv)


OPTIONS = {
  "plain": {},
  "shared keys": {"num_key_heads": 2},
  "bias of heads": {"bias": (1, 1)},
  "dropout": {"dropout": 0.3},
  "all": {"num_key_heads": 1, "bias": (B, N), "dropout": 0.3, "scale": 0.2},
}


def case(name, repeats=1):
  """Projections, segment ids and options; every row `repeats` times."""
  options = {"num_heads": N} | OPTIONS[name]
  if "bias" in options:
    random = np.random.default_rng(5)
    shape = (*options["bias"], T, T)
    bias = jnp.asarray(random.normal(size=shape), jnp.float32)
    options["bias"] = jnp.concatenate(
      [bias] * (repeats if len(bias) > 1 else 1)
    )
  if "dropout" in options:
    options["dropout"] = dropout.AttentionDropout(
      options["dropout"], jax.random.key(7)
    )
  qkv = random_qkv((B, T), options.get("num_key_heads", N))
  qkv, segment_ids = jax.tree.map(
    lambda x: jnp.concatenate([x] * repeats), (qkv, SEGMENTS)
  )
  return qkv, segment_ids, options


@functools.cache
def defined(name, repeats=1):
  qkv, segment_ids, options = case(name, repeats)
  return value_and_grad(qkv, segment_ids, **options)


def on_mesh(mesh, name, repeats=1):
  qkv, segment_ids, options = case(name, repeats)
  with sharding.use_mesh(mesh):
    rows = sharding.batch_sharding(mesh)
    return value_and_grad(*jax.device_put((qkv, segment_ids), rows), **options)


def assert_close(found, expected):
  close = functools.partial(np.testing.assert_allclose, atol=2e-5)
  jax.tree.map(close, found, expected)


TILES = {
  "a query": 1,
  "queries": 4 * T,
  "heads": 2 * T * T,
  "rows": 2 * T * T * N,
}


# Every tile, with no option and with all; every option, with a tile each.
@pytest.mark.parametrize(
  ("name", "tile"),
  [
    pytest.param(
      *(name, tile),
      marks=()
      if name in ("plain", "all") or tile == "queries"
      else pytest.mark.slow,
    )
    for name in OPTIONS
    for tile in TILES
  ],
)
def test_tiles_are_the_definition(monkeypatch, mesh, name, tile):
  expected = defined(name)
  monkeypatch.setattr(attention, "_TILE", TILES[tile])
  monkeypatch.setattr(attention, "attend_dense", None)
  assert_close(on_mesh(mesh, name), expected)


@pytest.mark.parametrize(
  ("sizes", "name"),
  [
    ((8, 1, 1), "dropout"),
    ((2, 2, 2), "plain"),
    ((2, 2, 2), "bias of heads"),
    ((2, 2, 2), "all"),
    ((1, 2, 4), "dropout"),
  ],
)
def test_meshes_agree(sizes, name):
  assert_close(on_mesh(make_mesh(*sizes), name, 2), defined(name, 2))


@pytest.mark.parametrize(
  ("platform", "name"),
  [("tpu", "bias of heads"), ("tpu", "dropout"), ("cuda", "all")],
)
def test_what_no_kernel_takes_goes_by_tiles(monkeypatch, name, platform):
  expected = defined(name)
  monkeypatch.setattr(attention, "_platform", lambda _: platform)
  monkeypatch.setattr(attention, "_LARGE_TILE", 5 * T)
  monkeypatch.setattr(attention, "attend_dense", None)
  assert_close(on_mesh(make_mesh(2, 2, 2), name), expected)


def test_memory_grows_with_a_tile_only(monkeypatch, mesh):
  length, rows = 256, 8
  x = jax.ShapeDtypeStruct((rows, length, N * H), jnp.float32)
  ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  drop = dropout.AttentionDropout(0.1, jax.random.key(0))

  def temporary(tile):
    monkeypatch.setattr(attention, "_LARGE_TILE", tile)

    def loss(qkv, ids):
      mask = with_matrix(ids)
      return jnp.sum(
        attention.attend(Qkv(*qkv), mask, num_heads=N, dropout=drop) ** 2
      )

    with sharding.use_mesh(mesh):
      compiled = jax.jit(jax.grad(loss)).lower([x] * 3, ids).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  monkeypatch.setattr(attention, "_platform", lambda _: "any")
  dense = temporary(0)
  monkeypatch.setattr(attention, "_platform", lambda _: "tpu")
  row, head, queries = (
    temporary(tile) for tile in (N * length**2, length**2, 64 * length)
  )
  assert dense > 3 * row and row > 1.5 * head and head > 1.2 * queries


def test_rows_without_a_key_give_no_nan():
  nothing = with_matrix(0 * SEGMENTS)
  out = attention.attend(random_qkv((B, T)), nothing, num_heads=N)
  assert bool(jnp.isfinite(out).all())


def test_dropout_drops_its_rate_and_keeps_the_mean():
  words = jax.random.key_data(jax.random.key(3))
  keep = functools.partial(dropout.is_kept, words, 0.1, 501)
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
  documents = np.array([[1] * 100 + [2] * 156, [1] * 200 + [0] * 56], np.int32)
  call = functools.partial(
    attention.attend,
    random_qkv((2, 256), key_heads, 64),
    Mask(jnp.asarray(documents)),
    num_heads=N,
    num_key_heads=key_heads,
  )
  expected = call()
  monkeypatch.setattr(attention, "_platform", lambda _: "tpu")
  with pltpu.force_tpu_interpret_mode():
    result = call()
  real = documents > 0
  np.testing.assert_allclose(result[real], expected[real], atol=2e-5)


WINDOWS = (None, 3, 40)


@functools.cache
def near_case(length):
  """Projections, documents, and what each window makes of them by numpy."""
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
  same = documents[:, None, :, None] == documents[:, None, None, :]
  real = documents[:, None, None, :] > 0
  qkv = random_qkv((2, length), head_dim=8)
  expected = {}
  for window in WINDOWS:
    matrix = jnp.asarray(same & real & (apart <= (window or length)))
    expected[window] = attention.attend(
      qkv, Mask(jnp.asarray(documents), matrix), num_heads=N
    )
  return qkv, documents, expected


@pytest.mark.parametrize("window", WINDOWS)
def test_documents_and_a_window_are_their_mask(monkeypatch, mesh, window):
  qkv, documents, expected = near_case(T)
  mask = Mask(jnp.asarray(documents), window=window)

  def run():
    return jax.jit(lambda qkv: attention.attend(qkv, mask, num_heads=N))(qkv)

  results = [run()]
  with sharding.use_mesh(mesh):
    for tile in (1, 2 * T * T):
      monkeypatch.setattr(attention, "_TILE", tile)
      results.append(run())
    monkeypatch.setattr(attention, "_platform", lambda _: "cuda")
    cudnn = functools.partial(
      attention_kernels.attend_cudnn, implementation="xla"
    )
    monkeypatch.setattr(attention_kernels, "attend_cudnn", cudnn)
    monkeypatch.setattr(attention_kernels, "fits_cudnn", lambda *_: True)
    results.append(run())
  real = documents > 0
  for result in results:
    np.testing.assert_allclose(result[real], expected[window][real], atol=2e-5)


def test_on_a_tpu_the_kernel_takes_what_no_window_cuts(monkeypatch):
  """The window as a scan has it, known as the program runs."""
  qkv, documents, expected = near_case(128)
  monkeypatch.setattr(attention, "_LARGE_TILE", 32 * 128)
  monkeypatch.setattr(attention, "_platform", lambda _: "tpu")

  @jax.jit
  def call(window):
    mask = Mask(jnp.asarray(documents), window=window)
    return attention.attend(qkv, mask, num_heads=N)

  real = documents > 0
  with pltpu.force_tpu_interpret_mode():
    for window, same in ((40, 40), (128, None)):
      np.testing.assert_allclose(
        call(window)[real], expected[same][real], atol=2e-5
      )


def inside(jaxpr):
  """Yields all equations, those inside others included."""
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
  qkv = random_qkv((2, 16), key_heads, 8, jnp.bfloat16)
  documents = np.array([[1] * 5 + [2] * 11, [1] * 9 + [0] * 7], np.int32)
  call = functools.partial(
    attention.attend,
    mask=with_matrix(documents),
    num_heads=N,
    num_key_heads=key_heads,
    scale=0.2,
  )
  expected = call(qkv)
  in_xla = functools.partial(
    attention_kernels.attend_cudnn, implementation="xla"
  )
  dtypes = []

  def spy(settings, operands):
    dtypes.append(operands.qkv.query.dtype)
    return in_xla(settings, operands)

  monkeypatch.setattr(attention, "_platform", lambda _: "cuda")
  monkeypatch.setattr(attention_kernels, "attend_cudnn", spy)
  result = call(qkv)
  assert dtypes == [jnp.bfloat16]
  real = documents > 0
  np.testing.assert_allclose(
    np.asarray(result, np.float32)[real],
    np.asarray(expected, np.float32)[real],
    atol=2e-2,
  )
  # What cuDNN does not take goes by tiles.
  call(jax.tree.map(lambda x: x.astype(jnp.float32), qkv))
  assert len(dtypes) == 1
