"""What is read from a program's text is what the program does."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import make_mesh

from time_jax.bench.aot import collectives, program
from time_jax.bench.aot.traffic import traffic

TEXTS = pathlib.Path(__file__).parent / "hlo"
LOOPS = (TEXTS / "loops.txt").read_text()
KNOWN = ', backend_config={"known_trip_count":{"n":"7"}}'


def read(replicas="replica_groups={{0,1},{2,3}}", trips=KNOWN):
  return program.read(
    LOOPS.replace("REPLICAS", replicas).replace("TRIPS", trips)
  )


def test_loops_multiply():
  found = read()
  assert found.times["inner_body"] == 7 * (5 - 2)
  assert found.unknown_loops == 0
  (exchange,) = collectives.collectives(found, 4)
  assert exchange.times == 21 and exchange.group == 2
  assert exchange.payload == 8 * 128 * 4
  assert exchange.sent == 21 * 8 * 128 * 4 * 2 * 1 / 2
  (total,) = collectives.totals([exchange, exchange])
  assert (total.kind, total.count) == ("all-reduce", 42)


def test_a_loop_of_unknown_length_is_said():
  found = read(trips="")
  assert found.times["inner_body"] == 3
  assert found.unknown_loops == 1


@pytest.mark.parametrize(
  ("groups", "size"),
  [
    ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
    ("replica_groups=[2,4]<=[4,2]T(1,0)", 4),
    ("replica_groups={}", 8),
    ("replica_groups=mesh['x'=2,'y'=4] {'y'}", 4),
    (
      "replica_groups=mesh['x'=2,'y'=2,'z'=2], device_ids=([4,2]T(1,0)) "
      "{'x','z'}",
      4,
    ),
    ("replica_groups=mesh['x'=8] {'x':(1)4}", 4),
  ],
)
def test_groups(groups, size):
  (exchange,) = collectives.collectives(read(groups), 8)
  assert exchange.group == size


def test_a_group_of_one_exchanges_nothing():
  assert not collectives.collectives(read("replica_groups={{0},{1}}"), 2)


def test_kernels_and_places():
  found = read()
  assert program.kernels(found) == {"Dice": 7, "sweep_tile": 1}
  (kernel,) = (
    i for i, _, _ in found.executed() if i.scope.endswith("pallas_call")
  )
  assert kernel.shapes == (program.Shape("f32", (8, 128), on_chip=True),)
  assert kernel not in program.largest(found, 9)


CHAIN = (TEXTS / "chain.txt").read_text()


def test_the_ways_in_which_a_tpu_spells_collectives():
  found = collectives.collectives(program.read(CHAIN), 4)
  assert sorted((one.kind, one.payload) for one in found) == [
    ("all-gather", 16 * 8 * 2),  # in two links of one chain
    ("all-gather", 16 * 8 * 2),  # started and done
    ("reduce-scatter", 16 * 8 * 4),
  ]
  assert {one.sent for one in found} == {192.0, 384.0}


BESIDE = (TEXTS / "beside.txt").read_text()


def test_collectives_that_run_beside_the_program():
  """As tpu7x starts them, and as XLA writes what it has no short form for."""
  text = program.read(BESIDE)
  found = collectives.totals(collectives.collectives(text, 8))
  part, whole = 3 * 8 * 32 * 4, 3 * 4 * 8 * 32 * 4
  assert {one.kind: (one.count, one.payload) for one in found} == {
    "all-gather": (3, whole),
    "all-reduce": (3, whole),
    "reduce-scatter": (3, whole),
    "collective-permute": (3, part),
  }
  assert collectives.unreached(text, 8) == 0 and not program.kernels(text)
  # Each exchange reads and writes once, wherever it stands.
  few = 3 * (9 + 8)  # the loop's comparison, and what a permutation waits by
  assert traffic(text) == 4 * (whole + part) + few


def test_exchanges_that_nothing_runs_are_told():
  text = program.read(BESIDE.replace(" call-start(", " newly-started("))
  kinds = {one.kind for one in collectives.collectives(text, 8)}
  assert "all-gather" not in kinds
  assert collectives.unreached(text, 8) == 1


def test_collectives_of_a_real_program():
  """Gathering a matrix in every round of a scan, then a sum over devices."""
  mesh = make_mesh(2, 2, 1)
  whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("fsdp"))
  rows = NamedSharding(mesh, P(("data", "fsdp")))

  def f(w, x):
    def body(x, w):
      return jnp.tanh(x @ jax.lax.with_sharding_constraint(w, whole)), None

    return jnp.sum(jax.lax.scan(body, x, jnp.stack([w] * 6))[0])

  w = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=split)
  x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=rows)
  text = program.read(jax.jit(f).lower(w, x).compile().as_text())
  found = collectives.totals(collectives.collectives(text, 4))
  kinds = {one.kind: one for one in found}
  assert kinds["all-reduce"].payload == 4
  assert kinds["all-reduce"].sent == 2 * 4 * 3 / 4
  # However the compiler orders it, each device gets the half that it lacks.
  gathered = kinds["all-gather"]
  assert gathered.payload in (64 * 64 * 4, 6 * 64 * 64 * 4)
  assert gathered.sent == gathered.payload / 2


def traffic_of(f, *shapes):
  arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  compiled = jax.jit(f).lower(*arguments).compile()
  return traffic(program.read(compiled.as_text())), compiled


def test_traffic_without_loops_is_what_xla_counts():
  def f(x, w):
    return jnp.tanh(x @ w)[:4] + 1

  found, compiled = traffic_of(f, (64, 32), (32, 128))
  assert found == pytest.approx(
    compiled.cost_analysis()["bytes accessed"], rel=0.05
  )


def test_traffic_of_a_loop():
  """Each round reads its own slice of the stack, and not all of it."""

  def f(w, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), x), x, w)

  once, _ = traffic_of(f, (1, 64, 64), (8, 64))
  found, _ = traffic_of(f, (10, 64, 64), (8, 64))
  sliced = 10 * 64 * 64 * 4
  assert sliced <= found < 5 * sliced < 10 * sliced
  assert found > 5 * once / 2


def test_sizes_of_types():
  for text, size in (
    ("f32[2,3]", 24),
    ("bf16[2,3]", 12),
    ("pred[5]", 5),
    ("s4[4]", 2),
    ("f8e4m3fn[3]", 3),
    ("f32[]", 4),
    ("token[]", 0),
    ("c64[2]", 16),
  ):
    (shape,) = program._read_shapes(text)
    assert (str(shape), shape.size) == (text, size)


def test_copies_beside_the_computation():
  text = """
ENTRY %main (a: f32[100]) -> f32[100] {
  %a = f32[100]{0} parameter(0)
  %c = (f32[100]{0:S(1)}, f32[100]{0}, u32[]{:S(2)}) copy-start(%a)
  %d = f32[100]{0:S(1)} copy-done(%c)
  %e = ((f32[100]{0}), f32[10]{0}, s32[]) slice-start(%a), slice={[0:10]}
  ROOT %f = f32[10]{0} slice-done(%e)
}
"""
  # To fast memory: 400 bytes are read. From memory to memory: 40 each way.
  assert traffic(program.read(text)) == 400 + 80


def test_in_place_updates_write_the_update_alone():
  text = """
%update (p: f32[50,10], q: f32[1,10], i: s32[]) -> f32[50,10] {
  %p = f32[50,10]{1,0} parameter(0)
  %q = f32[1,10]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %u = f32[50,10]{1,0} dynamic-update-slice(%p, %q, %i, %i)
}

ENTRY %main (a: f32[50,10], b: f32[1,10], n: s32[]) -> f32[50,10] {
  %a = f32[50,10]{1,0} parameter(0)
  %b = f32[1,10]{1,0} parameter(1)
  %n = s32[] parameter(2)
  ROOT %r = f32[50,10]{1,0} fusion(%a, %b, %n), kind=kLoop, calls=%update
}
"""
  # Reads the update and the index, writes the update.
  assert traffic(program.read(text)) == 40 + 4 + 40
