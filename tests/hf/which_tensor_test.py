"""Which tensor counts where files of a model say it twice, or tie names."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from time_jax.core.errors import UserError
from time_jax.hf import load
from time_jax.hf.weights import Weights
from time_jax.trim import trimmed_weights

INDEX = "model.safetensors.index.json"
WORDS = "embeddings.word_embeddings.weight"
FLOAT32 = jnp.dtype("float32")


@pytest.fixture
def copy(golden, tmp_path):
  """BERT's config, without weights."""
  shutil.copyfile(golden / "bert" / "config.json", tmp_path / "config.json")
  return tmp_path


@pytest.fixture
def tensors(golden):
  return safetensors.numpy.load_file(golden / "bert" / "model.safetensors")


def save(folder, name, tensors):
  safetensors.numpy.save_file(tensors, folder / name, {"format": "pt"})


def write_index(folder, places):
  text = json.dumps({"metadata": {}, "weight_map": places})
  (folder / INDEX).write_text(text)


@pytest.mark.parametrize("stale", ["a.safetensors", "z.safetensors"])
def test_the_index_decides_between_two_files(copy, tensors, stale, capsys):
  """Whichever of the two has the later name."""
  save(copy, "m.safetensors", tensors)
  save(copy, stale, {WORDS: 0 * tensors[WORDS], "other": tensors[WORDS]})
  places = dict.fromkeys(tensors, "m.safetensors") | {"other": stale}
  write_index(copy, places)
  with Weights(copy) as found:
    assert set(found) == set(places)
    np.testing.assert_array_equal(found.read(WORDS), tensors[WORDS])
    assert found.names_in(copy / stale) == ["other"]
  assert capsys.readouterr().err == (
    f"time_jax: note: {copy / stale} holds {WORDS}, too; what counts is in "
    "m.safetensors, as the index says.\n"
  )


def test_a_tensor_that_is_not_where_the_index_has_it(copy, tensors):
  save(copy, "a.safetensors", tensors)
  save(copy, "b.safetensors", {"other": tensors[WORDS]})
  places = dict.fromkeys(tensors, "a.safetensors")
  write_index(copy, places | {WORDS: "b.safetensors"})
  words = f"{WORDS} is missing from b.safetensors, where the index has it"
  with pytest.raises(UserError, match=words):
    load.check_teacher(copy, (2,))
  # transformers counts what an index does not name as missing, too.
  write_index(copy, {k: v for k, v in places.items() if k != WORDS})
  with pytest.raises(UserError, match=f"{WORDS} is missing[.]"):
    load.check_teacher(copy, (2,))


@pytest.mark.parametrize(
  "index",
  [
    '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
    '{"weight_map": {"a": "model.safetensors", "b": "more.safetensors"}}',
    "{",
  ],
)
def test_a_whole_file_beside_an_index_counts(copy, tensors, index, capsys):
  save(copy, "model.safetensors", tensors)
  (copy / INDEX).write_text(index)
  with Weights(copy) as found:
    assert set(found) == set(tensors)
    assert found.files.ignored_index == INDEX
  (line,) = capsys.readouterr().err.splitlines()
  assert line == (
    f"time_jax: note: {copy} holds model.safetensors and {INDEX}; the whole "
    "file counts, as in transformers, and the index is not read."
  )


def test_an_index_of_a_single_file_is_not_worth_a_note(copy, tensors, capsys):
  save(copy, "model.safetensors", tensors)
  write_index(copy, dict.fromkeys(tensors, "model.safetensors"))
  with Weights(copy) as found:
    assert set(found) == set(tensors) and not found.files.ignored_index
  assert not capsys.readouterr().err


SIZES = {
  "vocab_size": 40,
  "hidden_size": 16,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 24,
  "max_position_embeddings": 20,
}


def tied(name):
  """A tiny model of transformers with an output layer tied to its input."""
  import transformers

  sizes = dict(SIZES)
  if name == "ModernBert":
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes |= {"cls_token_id": 1, "sep_token_id": 2}
  if name == "DebertaV2":
    sizes |= {"relative_attention": True, "position_biased_input": False}
    sizes |= {"position_buckets": 256, "pos_att_type": ["p2c", "c2p"]}
    sizes |= {"norm_rel_ebd": "layer_norm", "share_att_key": True}
    sizes |= {"max_position_embeddings": 512, "type_vocab_size": 0}
  if name == "T5":
    config = transformers.T5Config(
      vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2
    )
    return transformers.T5ForConditionalGeneration(config)
  config = getattr(transformers, f"{name}Config")(**sizes)
  return getattr(transformers, f"{name}ForMaskedLM")(config)


FAMILIES = ["Bert", "Roberta", "XLMRoberta", "DebertaV2", "ModernBert", "T5"]


@pytest.mark.parametrize("name", FAMILIES)
def test_tied_weights_as_save_model_leaves_them_out(tmp_path, mesh, name):
  """The file holds one of them, its header the names of the others."""
  pytest.importorskip("torch")
  import safetensors.torch

  model = tied(name)
  plain, short = tmp_path / "plain", tmp_path / "short"
  for folder in (plain, short):
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
  states = {k: v.numpy().copy() for k, v in model.state_dict().items()}
  safetensors.numpy.save_file(states, plain / "model.safetensors")
  safetensors.torch.save_model(model, str(short / "model.safetensors"))
  stored = safetensors.numpy.load_file(short / "model.safetensors")
  assert len(stored) < len(states)
  with Weights(short) as found:
    assert set(found) == set(states)
    for key, value in states.items():
      np.testing.assert_array_equal(found.read(key), value)
  assert load.check_teacher(short, (2,)) == load.check_teacher(plain, (2,))


def test_tied_weights_stay_when_rows_are_taken_away(tmp_path, copy, tensors):
  """Both names are written: not every reader knows what was tied."""
  path = copy / "model.safetensors"
  tensors["cls.decoder.weight"] = tensors.pop(WORDS)
  safetensors.numpy.save_file(tensors, path, {WORDS: "cls.decoder.weight"})
  out = tmp_path / "out"
  out.mkdir()
  table = load.read_config(copy)[0].names
  with Weights(copy) as found:
    num_rows, width = tensors["cls.decoder.weight"].shape
    tables = trimmed_weights.vocabulary_tables(found, table, num_rows, width)
    assert {WORDS, "cls.decoder.weight"} <= tables
    trimmed_weights.write_weights(found, out, tables, [0, 3, 5])
  written = safetensors.numpy.load_file(out / "model.safetensors")
  expected = tensors["cls.decoder.weight"][[0, 3, 5]]
  for name in (WORDS, "cls.decoder.weight"):
    np.testing.assert_array_equal(written[name], expected)


def test_a_header_that_ties_to_nothing(copy, tensors):
  """Names of what is not there stay missing; what is there is not replaced."""
  remarks = {"a": "b", "b": "a", "c": "nothing", WORDS: "pooler.dense.bias"}
  safetensors.numpy.save_file(tensors, copy / "model.safetensors", remarks)
  with Weights(copy) as found:
    assert set(found) == set(tensors)
    np.testing.assert_array_equal(found.read(WORDS), tensors[WORDS])
