"""Several layers of one pass: each as upstream's network has it.

parity_test has the same of networks that end at a layer.
"""

import functools
import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes import make_mesh

from time_jax.core.arrays import Targets, make_batch
from time_jax.core.storage import json_file
from time_jax.hf import load
from time_jax.models import bert, taps
from time_jax.models.family import abstract_params
from time_jax.parallel.sharding import batch_sharding, use_mesh

FAMILIES = {
  "bert": {},
  "deberta_v3": {},
  "deberta_v2_conv": {},  # The first block has a convolution.
  "ltgbert": {},
  "t5_encoder": {},
  "modernbert": {},  # The first block has no norm, and blocks differ.
  "eurobert": {},
  "modernbert post_rope": {"capture": "post_rope"},
  "eurobert post_rope": {"capture": "post_rope"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_layer_is_that_of_the_reference(golden, mesh, family):
  folder = pathlib.Path(golden, family.split()[0])
  how = dict(dtype=jnp.dtype("float32"), mesh=mesh, **FAMILIES[family])
  expected = np.load(folder / "expected.npz")
  mask = expected["attention_mask"]
  batch, real = make_batch(expected["input_ids"], mask), mask > 0
  last = len(expected["q"])
  assert last >= 3
  whole = load.load_teacher(str(folder), range(1, last + 1), **how)
  ends = load.load_teacher(str(folder), (last, 1), **how)
  found = jax.jit(whole.targets)(whole.params, batch)
  at_ends = jax.jit(ends.targets)(ends.params, batch)
  found, at_ends = found.projections, at_ends.projections
  assert whole.layers == tuple(found) == tuple(range(1, last + 1))
  assert ends.layers == tuple(at_ends) == (1, last)
  rope = "_rope" if FAMILIES[family] else ""
  names = {"query": f"q{rope}", "key": f"k{rope}", "value": "v"}
  for layer, qkv in (*found.items(), *at_ends.items()):
    for part, name in names.items():
      np.testing.assert_allclose(
        getattr(qkv, part)[real],
        expected[name][layer - 1][real],
        atol=1e-4,
        rtol=0,
      )
  close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=0)
  jax.tree.map(close, at_ends, {layer: found[layer] for layer in (1, last)})


def test_a_mesh_computes_the_same_and_splits_what_is_noted(golden, mesh):
  hf_config = json_file.read_json(golden / "bert" / "config.json")
  hf_config |= {"num_hidden_layers": 9}  # More than are unrolled.
  width = hf_config["hidden_size"]
  wanted, rows, length = (1, 4, 9), 8, 16
  batch = make_batch(*np.ones((2, rows, length), int))
  found = []
  for place in (mesh, make_mesh(2, 2, 2)):
    teacher = load.random_teacher(
      hf_config, wanted, seed=3, dtype=jnp.dtype("float32"), mesh=place
    )
    placed = jax.device_put(batch, batch_sharding(place))
    with use_mesh(place):
      lowered = jax.jit(teacher.targets).lower(teacher.params, placed)
    compiled = lowered.compile()
    found.append(compiled(teacher.params, placed))
  close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=0)
  jax.tree.map(close, *found)
  noted = f"f32[{len(wanted)},{{}},{length},{width}]"
  program = compiled.as_text()
  assert noted.format(rows // 4) in program
  assert noted.format(rows) not in program
  # It would be so here without being asked for; elsewhere that is not certain.
  shape = f"tensor<{len(wanted)}x{rows}x{length}x{width}xf32>"
  asked = re.findall(f"sharding_constraint.*{shape}", lowered.as_text())
  assert len(asked) == 1 and '"data"' in asked[0] and '"fsdp"' in asked[0]


@pytest.mark.parametrize(
  "family", [name for name in FAMILIES if "post" not in name]
)
def test_states_are_those_of_the_reference(golden, mesh, family):
  """The last one is behind a final norm, others are not."""
  folder, how = golden / family, dict(dtype=jnp.dtype("float32"), mesh=mesh)
  expected = np.load(folder / "expected.npz")
  mask = expected["attention_mask"]
  batch, real = make_batch(expected["input_ids"], mask), mask > 0
  wanted = [*expected["hidden_states"][:-1], expected["last_hidden_state"]]
  last = len(wanted) - 1
  for layers, states in (((2,), range(1, last + 1)), ((1,), (last - 1, 1))):
    teacher = load.load_teacher(str(folder), layers, states=states, **how)
    assert teacher.layers == layers and teacher.states == (*sorted(states),)
    assert teacher.hidden_size == wanted[last].shape[-1]
    found = jax.jit(teacher.targets)(teacher.params, batch)
    assert found.projections.keys() == set(layers)
    assert found.states.keys() == set(states)
    for layer, state in found.states.items():
      np.testing.assert_allclose(
        state[real], wanted[layer][real], atol=1e-4, rtol=0
      )
    unneeded = {"pooler"} if last in states else {"pooler", "final_norm"}
    assert not unneeded & teacher.params.keys()


def test_a_first_block_is_whole_though_nothing_above_it_is_wanted(golden, mesh):
  """It has a convolution only where another block follows."""
  folder, how = golden / "deberta_v2_conv", dict(dtype="float32", mesh=mesh)
  expected = np.load(folder / "expected.npz")
  mask = expected["attention_mask"]
  batch = make_batch(expected["input_ids"], mask)
  teacher = load.load_teacher(str(folder), (1,), states=(1,), **how)
  found = jax.jit(teacher.targets)(teacher.params, batch).states[1]
  wanted = expected["hidden_states"][1]
  np.testing.assert_allclose(found[mask > 0], wanted[mask > 0], atol=1e-4)


@pytest.mark.parametrize("capture", ["projections", "post_rope"])
def test_a_teacher_of_one_layer_is_its_encoder_alone(golden, mesh, capture):
  folder = golden / "modernbert"
  dtype = jnp.dtype("float32")
  family, config = load.read_config(folder)
  encoder = family.encoder(config, 3, dtype)
  method = {"projections": "__call__", "post_rope": "rotated_projections"}
  teacher = load.load_teacher(
    str(folder), (3, 3), dtype=dtype, mesh=mesh, capture=capture
  )
  batch = make_batch(*np.ones((2, 4, 16), int))

  def alone(params, batch):
    qkv = encoder.apply({"params": params}, batch, method=method[capture])
    return Targets({3: qkv})

  of_teacher = jax.make_jaxpr(teacher.targets)(teacher.params, batch)
  assert str(of_teacher) == str(jax.make_jaxpr(alone)(teacher.params, batch))


def test_states_that_nobody_wants_are_not_kept():
  depth, rows, length, width = 12, 8, 64, 32
  config = bert.BertConfig(64, width, depth, 2, 32)
  encoder = bert.Encoder(config, depth)
  batch = make_batch(*np.ones((2, rows, length), int))
  params = nn.meta.unbox(abstract_params(encoder))

  def temporaries(*layers):
    project = functools.partial(taps.project, encoder, layers=layers)
    compiled = jax.jit(project).lower(params, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  def before(params, batch):
    return encoder.apply({"params": params}, batch)

  plain = jax.jit(before).lower(params, batch).compile()
  plain = plain.memory_analysis().temp_size_in_bytes
  state = rows * length * width * 4
  one, two = temporaries(depth), temporaries(3, depth)
  assert one <= plain
  assert two - one <= 4 * state
  assert temporaries(*range(1, depth + 1)) - one >= 6 * state
