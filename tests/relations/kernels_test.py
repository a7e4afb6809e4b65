"""The kernels where the reference's cases do not go: lengths, widths, types,
meshes, and the platforms that they are compiled for."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import (
  assert_close,
  assert_close_in_norm,
  loss_of,
  random_qkv,
  random_segments,
  value_and_grad,
)
from jax.sharding import Mesh
from meshes import make_mesh

from time_jax.core.arrays import Qkv
from time_jax.core.errors import UserError
from time_jax.parallel import sharding
from time_jax.relations import loss, pallas_gpu, pallas_tpu

FAST = ("one_pass", "pallas_gpu", "pallas_tpu")
SOME = {"qq": 1.0, "vk": 0.5}


def both(name, shape, widths, num_heads=2, scale=1.0):
  """Returns the loss of ragged rows by one implementation and by definition."""
  inputs = [
    random_qkv(seed, *shape, num_heads * width, scale)
    for seed, width in zip((1, 0), widths, strict=True)
  ]
  segments = random_segments(0, *shape)
  found, expected = (
    value_and_grad(*inputs, segments, SOME, num_heads, implementation)
    for implementation in (name, "dense")
  )
  padding = np.asarray(segments) == 0
  assert padding.any()
  for grad in jax.tree.leaves(found[1]):
    assert not np.asarray(grad)[padding].any()
  return found, expected


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(
  "widths", [pytest.param((6, 16), marks=pytest.mark.slow), (64, 20)], ids=str
)
def test_any_width_of_a_head(name, widths):
  """Also those that no power of two and no register measures."""
  assert_close(*both(name, (2, 70), widths))


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(
  ("length", "num_heads", "scale"),
  [
    (513, 1, 30.0),
    (1100, 2, 1.0),
    pytest.param(pallas_tpu.LONGEST, 1, 1.0, marks=pytest.mark.slow),
  ],
)
def test_long_rows(name, length, num_heads, scale):
  """Beyond one tile: statistics are joined, gradients add up."""
  assert_close(*both(name, (1, length), (12, 16), num_heads, scale))


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(
  ("length", "scale"),
  [(600, 30.0), pytest.param(1100, 1.0, marks=pytest.mark.slow)],
)
def test_long_ragged_rows_in_bfloat16(name, length, scale):
  """Against the definition in float32: rounding, and nothing that adds up."""
  inputs = [
    jax.tree.map(
      lambda x: x.astype(jnp.bfloat16),
      random_qkv(seed, 1, length, width, scale),
    )
    for seed, width in ((1, 24), (0, 64))
  ]
  wide = jax.tree.map(lambda x: x.astype(jnp.float32), inputs)
  segments = random_segments(0, 1, length)
  found = value_and_grad(*inputs, segments, SOME, 2, name)
  expected = value_and_grad(*wide, segments, SOME, 2, "dense")
  assert_close(found, expected, gradient=0.005)
  assert_close_in_norm(found, expected, 0.003)


@pytest.mark.parametrize(
  ("name", "sizes"),
  [
    pytest.param("one_pass", (8, 1, 1), marks=pytest.mark.slow),
    pytest.param("pallas_tpu", (4, 2, 1), marks=pytest.mark.slow),
    *((name, (2, 2, 2)) for name in FAST),
  ],
  ids=str,
)
def test_on_a_mesh(name, sizes):
  mesh = make_mesh(*sizes)
  inputs = random_qkv(1, 8, 20, 24), random_qkv(0, 8, 20, 64)
  segments = random_segments(0, 8, 20)
  expected = value_and_grad(*inputs, segments, SOME, 4, "dense")
  placed = jax.device_put((*inputs, segments), sharding.batch_sharding(mesh))
  with sharding.use_mesh(mesh):
    compiled = value_and_grad.lower(*placed, SOME, 4, name).compile()
    assert_close(compiled(*placed, SOME), expected)
  # Every device has its own rows, and heads where there is an axis for them.
  assert "all-gather" not in compiled.as_text()
  spec = compiled.output_shardings[1].query.spec
  assert spec[0] == ("data", "fsdp")
  assert ("tensor" in spec) == (sizes[2] > 1)


@pytest.mark.parametrize("name", FAST)
def test_a_mesh_changes_no_bit_of_a_gradient(name):
  """Also in bfloat16: rows and heads are whole on their devices."""
  mesh = make_mesh(2, 2, 2)
  inputs = jax.tree.map(
    lambda x: x.astype(jnp.bfloat16),
    (random_qkv(1, 4, 20, 24), random_qkv(0, 4, 20, 64)),
  )
  segments = random_segments(0, 4, 20)
  expected = value_and_grad(*inputs, segments, SOME, 4, name)
  with sharding.use_mesh(mesh):
    found = value_and_grad(*inputs, segments, SOME, 4, name)
  np.testing.assert_allclose(found[0][0], expected[0][0], rtol=1e-6)
  for a, b in zip(*map(jax.tree.leaves, (found[1], expected[1])), strict=True):
    np.testing.assert_array_equal(a, b)


def test_heads_that_the_mesh_does_not_divide():
  mesh = make_mesh(1, 1, 8)
  inputs = random_qkv(1, 3, 20, 24), random_qkv(0, 3, 20, 64)
  segments = random_segments(0, 3, 20)
  with sharding.use_mesh(mesh):
    found = value_and_grad(*inputs, segments, SOME, 4, "pallas_tpu")
  assert_close(found, value_and_grad(*inputs, segments, SOME, 4, "dense"))


@pytest.mark.parametrize("name", ["one_pass", "pallas_tpu"])
def test_under_pmap(name):
  inputs = random_qkv(1, 8, 20, 24), random_qkv(0, 8, 20, 64)
  segments = random_segments(0, 8, 20)

  def total(student, teacher, segments):
    sums = loss.relation_sums(
      teacher,
      student,
      segments,
      num_heads=4,
      relations={"qq": 1.0},
      implementation=name,
    )
    return sums["qq"]

  rows = jax.tree.map(lambda x: x[:, None], (*inputs, segments))
  values, grads = jax.pmap(jax.value_and_grad(total))(*rows)
  value, grad = jax.jit(jax.value_and_grad(total))(*inputs, segments)
  np.testing.assert_allclose(values.sum(), value, rtol=1e-5)
  np.testing.assert_allclose(grads.query[:, 0], grad.query, atol=1e-6)


def lowered(platform, dtype=jnp.bfloat16, shape=(2, 600), widths=(24, 64)):
  student, teacher = (
    Qkv(*[jax.ShapeDtypeStruct((*shape, width), dtype)] * 3) for width in widths
  )
  segments = jax.ShapeDtypeStruct(shape, jnp.int32)
  traced = value_and_grad.trace(student, teacher, segments, SOME, 4, "auto")
  return traced.lower(lowering_platforms=(platform,)).as_text()


def test_auto_is_the_kernel_of_the_platform():
  """Which need not be here: two relations, and a kernel for each."""
  calls = {
    platform: [
      lowered(platform).count(f"stablehlo.custom_call @{call}(")
      for call in ("tpu_custom_call", "__gpu$xla.gpu.triton")
    ]
    for platform in ("cpu", "tpu", "cuda", "rocm")
  }
  assert calls == {
    "cpu": [0, 0],
    "tpu": [2, 0],
    "cuda": [0, 4],
    "rocm": [0, 0],
  }


@pytest.mark.parametrize(
  ("platform", "fitting", "too_much"),
  [
    ("tpu", {}, dict(dtype=jnp.float16)),
    ("tpu", dict(widths=(24, 4 * 128)), dict(widths=(24, 4 * 129))),
    (
      "tpu",
      dict(shape=(1, pallas_tpu.LONGEST)),
      dict(shape=(1, pallas_tpu.LONGEST + 1)),
    ),
    ("cuda", {}, dict(dtype=jnp.float16)),
    ("cuda", dict(widths=(24, 4 * 64)), dict(widths=(24, 4 * 65))),
    # Twice the bytes: a teacher head of 64, as R = 16 gives it at 1024.
    (
      "cuda",
      dict(widths=(24, 4 * 32), dtype=jnp.float32),
      dict(widths=(24, 4 * 64), dtype=jnp.float32),
    ),
  ],
  ids=str,
)
def test_auto_is_one_pass_where_no_kernel_fits(platform, fitting, too_much):
  assert "custom_call @" in lowered(platform, **fitting)
  assert "custom_call @" not in lowered(platform, **too_much)


def test_auto_outlives_triton(monkeypatch):
  monkeypatch.setattr(pallas_gpu, "triton", None)
  jax.clear_caches()
  assert "custom_call @" not in lowered("cuda")
  widths = dict.fromkeys(("query", "key", "value"), 64)
  with pytest.raises(UserError, match="has no Triton; expected 'auto'"):
    loss.check_relations(SOME, widths, "pallas_gpu")


def test_a_kernel_is_accepted_where_it_belongs():
  for platform, name in (("gpu", "pallas_gpu"), ("tpu", "pallas_tpu")):
    loss.check_platform(name, platform)
    loss.check_platform("auto", platform)
    needs = f"needs a {platform.upper()}; JAX found CPU; expected 'auto'"
    with pytest.raises(UserError, match=needs):
      loss.check_platform(name, "cpu")


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 2)], ids=str)
@pytest.mark.parametrize("topology", ["v5e:2x2", "v6e:2x2"])
@pytest.mark.parametrize(
  ("length", "widths"),
  [(512, (6, 16)), (4096, (32, 64)), (pallas_tpu.LONGEST, (6, 16))],
)
def test_compiles_for_a_tpu(monkeypatch, topology, length, widths, sizes):
  """Needs the compiler alone: pip install the libtpu that jax[tpu] names."""
  pytest.importorskip("libtpu")
  from jax.experimental import topologies

  monkeypatch.setitem(os.environ, "TPU_SKIP_MDS_QUERY", "1")
  described = topologies.get_topology_desc(
    platform="tpu", topology_name=topology
  )
  devices = np.array(described.devices[: np.prod(sizes)]).reshape(sizes)
  mesh = Mesh(
    devices, sharding.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3
  )
  layout = sharding.batch_sharding(mesh)
  heads, rows = 8, 4

  def abstract(width, dtype):
    shape = (rows, length, width) if width else (rows, length)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=layout)

  student, teacher = (
    Qkv(*[abstract(heads * width, jnp.bfloat16)] * 3) for width in widths
  )

  def step(student, teacher, segments):
    return loss_of(student, teacher, segments, SOME, heads, "auto")[0]

  with sharding.use_mesh(mesh):
    lowered = jax.jit(jax.value_and_grad(step)).lower(
      student, teacher, abstract(None, jnp.int32)
    )
    compiled = lowered.compile()
  text = compiled.as_text()
  assert text.count('custom_call_target="tpu_custom_call"') == len(SOME)
  assert f"{length},{length}]" not in text
  square = rows * heads * length * length * 4 // int(np.prod(sizes))
  assert compiled.memory_analysis().temp_size_in_bytes < 0.2 * square
