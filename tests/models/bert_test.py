"""Our encoder against transformers' PyTorch models, by golden vectors."""

import dataclasses
import json
import re
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from time_jax.core.arrays import make_batch
from time_jax.core.errors import UserError
from time_jax.hf import load, torch_encoder
from time_jax.models import bert
from time_jax.models.family import abstract_params, init_params
from time_jax.release.model_folder import ModelFolder

FLOAT32 = jnp.dtype("float32")
TOLERANCE = dict(atol=1e-4, rtol=0)


def hidden_states(encoder, params, *inputs):
  return jax.jit(
    lambda params: encoder.apply(
      {"params": params}, *inputs, method="hidden_states"
    )
  )(params)


def fresh(encoder):
  return nn.meta.unbox(
    jax.jit(lambda: init_params(encoder, jax.random.key(0)))()
  )


@pytest.mark.parametrize("name", ["bert", "electra"])
def test_token_types(golden, mesh, name):
  expected = np.load(golden / name / "expected.npz")
  encoder, params = load.load_encoder(golden / name, dtype=FLOAT32, mesh=mesh)
  batch = make_batch(expected["input_ids"], expected["attention_mask"])
  real = expected["attention_mask"] > 0
  types = jnp.asarray(expected["token_type_ids_b"])
  assert types.max() == 1
  batch = dataclasses.replace(batch, token_types=types)
  states = hidden_states(encoder, params, batch)
  np.testing.assert_allclose(
    states[-1][real], expected["last_hidden_state_b"][real], **TOLERANCE
  )


def test_left_padding(golden, mesh):
  expected = np.load(golden / "xlm_roberta" / "expected.npz")
  encoder, params = load.load_encoder(
    golden / "xlm_roberta", dtype=FLOAT32, mesh=mesh
  )
  mask = expected["attention_mask_b"]
  assert mask[2, 0] == 0 and mask[2, -1] == 1
  batch = make_batch(expected["input_ids_b"], mask)
  states = hidden_states(encoder, params, batch)
  np.testing.assert_allclose(
    states[-1][mask > 0],
    expected["last_hidden_state_b"][mask > 0],
    **TOLERANCE,
  )


def test_legacy_names(golden, mesh, tmp_path):
  for new, old in (
    ("config.json", "config.json"),
    ("model.safetensors", "model_legacy.safetensors"),
  ):
    shutil.copy(golden / "bert" / old, tmp_path / new)
  encoder, params = load.load_encoder(tmp_path, dtype=FLOAT32, mesh=mesh)
  _, expected = load.load_encoder(golden / "bert", dtype=FLOAT32, mesh=mesh)
  assert isinstance(encoder, bert.Encoder)
  jax.tree.map(np.testing.assert_array_equal, params, expected)


def tiny(**changes):
  sizes = dict(
    vocab_size=50,
    hidden_size=16,
    num_layers=3,
    num_heads=4,
    intermediate_size=32,
  )
  return bert.BertConfig(**sizes | changes)


def test_a_teacher_keeps_and_runs_nothing_above_its_projections():
  encoder = bert.Encoder(tiny(num_layers=24), 2)
  params = abstract_params(encoder)
  assert jax.tree.leaves(params["layers"])[0].shape[0] == 1
  feeds = bert.FAMILY.feeds_projections
  kept = {name for name in params["last"] if feeds(("last", name))}
  assert kept == {"query", "key", "value"}
  # Applying with only these shows that a call reads nothing else.
  real = fresh(encoder)
  part = {
    "embeddings": real["embeddings"],
    "layers": real["layers"],
    "last": {name: real["last"][name] for name in kept},
  }
  batch = make_batch(np.ones((1, 4), int), np.ones((1, 4), int))
  jax.eval_shape(encoder.apply, {"params": part}, batch)


def test_fresh_weights_are_orthodox():
  config = tiny(hidden_size=256, intermediate_size=512, vocab_size=2000)
  encoder = bert.Encoder(config, 3)
  params = fresh(encoder)
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = path[-1].key
    if name in ("kernel", "embedding") and leaf.size > 10_000:
      assert abs(float(leaf.std()) - 0.02) < 0.002
      assert abs(float(leaf.mean())) < 0.002
    elif name == "bias":
      assert bool((leaf == 0).all())
    elif name == "scale":
      assert bool((leaf == 1).all())
  # Stacked layers are not copies of each other.
  kernels = params["layers"]["query"]["kernel"]
  assert not bool((kernels[0] == kernels[1]).all())


def test_dropout_needs_its_key_and_changes_with_it():
  encoder = bert.Encoder(tiny(dropout=0.5, attention_dropout=0.5), 3)
  params = fresh(encoder)
  batch = make_batch(np.ones((2, 6), int), np.ones((2, 6), int))

  @jax.jit
  def run(seed):
    return encoder.apply(
      {"params": params},
      batch,
      deterministic=False,
      rngs={"dropout": jax.random.key(seed)},
    ).value

  assert bool((run(0) == run(0)).all())
  assert not bool((run(0) == run(1)).all())


@pytest.mark.parametrize("layers", [1, 2])
def test_shallow_encoders(layers):
  encoder = bert.Encoder(tiny(num_layers=layers), layers)
  params = fresh(encoder)
  assert ("layers" in params) == (layers > 1)
  batch = make_batch(np.ones((1, 4), int), np.ones((1, 4), int))
  states = hidden_states(encoder, params, batch)
  assert states.shape == (layers + 1, 1, 4, 16)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"num_heads": 5}, "num_heads=5 must divide hidden_size=16"),
    ({"activation": "swish9"}, "activation 'swish9' is unknown"),
  ],
)
def test_impossible_shapes_are_refused(change, words):
  with pytest.raises(UserError, match=words):
    tiny(**change)


def test_relative_positions_are_refused():
  hf = {"model_type": "bert", "position_embedding_type": "relative_key"}
  with pytest.raises(UserError, match="relative_key"):
    bert.parse_config(hf)


@pytest.fixture
def roberta(golden, tmp_path):
  """A RoBERTa of 40 positions whose config can be changed."""
  folder = shutil.copytree(golden / "roberta", tmp_path / "roberta")

  def change(**settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder

  return change


def test_positions_from_the_first_row(roberta, mesh):
  """Of a padding id of -1, as transformers understands it."""
  pytest.importorskip("torch")
  folder = roberta(pad_token_id=-1)
  encoder, params = load.load_encoder(folder, dtype=FLOAT32, mesh=mesh)
  config = encoder.config
  assert (config.position_offset, config.max_positions) == (0, 40)
  tokens, mask = np.arange(40)[None] % 9 + 5, np.ones((1, 40), bool)
  expected = torch_encoder.load_torch(folder, strict=False)(tokens, mask)
  found = hidden_states(encoder, params, make_batch(tokens, mask))
  np.testing.assert_allclose(found, expected, **TOLERANCE)
  # The id is none that a row could be filled up with.
  opened = ModelFolder(folder)
  assert np.asarray(opened.batch.tokens).min() >= 0


@pytest.mark.parametrize("pad", [None, -2, 39, 500, "1", 1.0, True, [1]])
def test_a_padding_id_that_positions_cannot_be_counted_from(roberta, pad):
  words = f"config.json: pad_token_id={re.escape(repr(pad))}, from which"
  with pytest.raises(UserError, match=words):
    load.read_config(roberta(pad_token_id=pad))


def test_sizes_are_whole_numbers(roberta):
  """Not 1.0 either, which here the check of annotations would meet first."""
  words = "config.json: num_token_types=True; expected a whole number."
  with pytest.raises(UserError, match=words):
    load.read_config(roberta(type_vocab_size=True))
