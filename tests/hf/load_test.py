"""From folders to parameters: every file layout, every complaint."""

import json
import re
import shutil

import flax
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from meshes import make_mesh

from time_jax.core.arrays import make_batch
from time_jax.core.errors import UserError
from time_jax.core.storage import json_file
from time_jax.hf import load, weight_files
from time_jax.hf.weights import Weights
from time_jax.models.family import abstract_params
from time_jax.parallel import sharding

FLOAT32 = jnp.dtype("float32")
BFLOAT16 = jnp.dtype("bfloat16")
WORDS = "embeddings.word_embeddings.weight"


def flat(params):
  return flax.traverse_util.flatten_dict(params)


def assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for path, leaf in flat(expected).items():
    assert flat(found)[path].dtype == leaf.dtype
    np.testing.assert_array_equal(flat(found)[path], leaf, str(path))


@pytest.fixture(scope="module")
def tensors(golden):
  return safetensors.numpy.load_file(golden / "bert" / "model.safetensors")


@pytest.fixture(scope="module")
def expected(golden, mesh):
  return load.load_encoder(golden / "bert", dtype=FLOAT32, mesh=mesh)[1]


@pytest.fixture
def write(golden, tmp_path):
  """Writes a BERT folder with the given tensors and changes of config."""

  def write(tensors, **config):
    content = json.loads((golden / "bert" / "config.json").read_text())
    content = {k: v for k, v in (content | config).items() if v != "absent"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path

  return write


def names_read(monkeypatch):
  """A list that fills with the names of the tensors that are read."""
  names, original = [], Weights.read_into

  def spy(weights, target, name, index=None):
    names.append(name)
    return original(weights, target, name, index)

  monkeypatch.setattr(Weights, "read_into", spy)
  return names


def encoder_of(folder, mesh, dtype=FLOAT32):
  return load.load_encoder(folder, dtype=dtype, mesh=mesh)[1]


def test_what_lies_where(expected, tensors):
  """Kernels are transposed, and blocks below the last one are stacked."""
  layers = expected["layers"]
  name = "encoder.layer.{}.intermediate.dense.weight"
  assert layers["ffn_in"]["kernel"].shape == (2, 48, 96)
  for i in range(2):
    kernel = layers["ffn_in"]["kernel"][i]
    np.testing.assert_array_equal(kernel, tensors[name.format(i)].T)
  last = expected["last"]["ffn_in"]["kernel"]
  np.testing.assert_array_equal(last, tensors[name.format(2)].T)
  embedding = expected["embeddings"]["word"]["embedding"]
  np.testing.assert_array_equal(embedding, tensors[WORDS])


def test_many_files_equal_one(write, tensors, expected, mesh):
  folder = write(tensors)
  names = sorted(tensors)
  table = {}
  for part, mine in (("a", names[::2]), ("b", names[1::2])):
    file = f"model-{part}.safetensors"
    safetensors.numpy.save_file({n: tensors[n] for n in mine}, folder / file)
    table |= dict.fromkeys(mine, file)
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
  (folder / "model.safetensors").unlink()
  assert_same(encoder_of(folder, mesh), expected)


@pytest.mark.parametrize("prefix", ["bert.", "roberta."])
def test_a_model_with_a_head(write, tensors, expected, mesh, prefix):
  """Its names have a prefix, and it has tensors that nobody needs."""
  named = {prefix + name: tensor for name, tensor in tensors.items()}
  named["cls.predictions.bias"] = np.zeros(128, np.float32)
  named[prefix + "embeddings.position_ids"] = np.arange(40)[None]
  assert_same(encoder_of(write(named), mesh), expected)


def test_a_model_without_pooler(write, tensors, expected, mesh):
  bare = {k: v for k, v in tensors.items() if not k.startswith("pooler")}
  rest = {name: part for name, part in expected.items() if name != "pooler"}
  assert_same(encoder_of(write(bare), mesh), rest)


def test_a_half_precision_file(write, tensors, expected, mesh):
  rounded = {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()}
  folder = write(rounded)
  wanted = jax.tree.map(
    lambda x: np.asarray(x).astype(ml_dtypes.bfloat16), expected
  )
  assert_same(encoder_of(folder, mesh, BFLOAT16), wanted)
  wide = jax.tree.map(lambda x: x.astype(np.float32), wanted)
  assert_same(encoder_of(folder, mesh, FLOAT32), wide)
  # As if rounded on the way in.
  assert_same(encoder_of(write(tensors), mesh, BFLOAT16), wanted)


@pytest.mark.parametrize("sizes", [(1, 2, 4), (2, 4, 1)], ids=str)
def test_weights_go_to_their_shards(golden, expected, sizes):
  mesh = make_mesh(*sizes)
  encoder, params = load.load_encoder(golden / "bert", dtype=FLOAT32, mesh=mesh)
  assert_same(params, expected)
  layout = sharding.param_shardings(abstract_params(encoder), mesh)
  for path, leaf in flat(params).items():
    assert leaf.sharding == flat(layout)[path], path
  kernel = params["layers"]["ffn_in"]["kernel"]
  shard = kernel.addressable_shards[0].data.shape
  assert shard == (2, 48 // sizes[1], 96 // sizes[2])


def test_devices_share_what_is_read(golden, monkeypatch):
  """Eight devices hold two different halves; each row is read once."""
  read = names_read(monkeypatch)
  mesh = make_mesh(4, 2, 1)
  load.load_encoder(golden / "bert", dtype=FLOAT32, mesh=mesh)
  assert read.count("pooler.dense.weight") == 2  # its two halves
  assert read.count("pooler.dense.bias") == 1
  assert read.count("encoder.layer.1.intermediate.dense.weight") == 2


def test_a_pickle(write, tensors, expected, mesh):
  torch = pytest.importorskip("torch")
  folder = write(tensors)
  (folder / "model.safetensors").unlink()
  tensors = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
  torch.save(tensors, folder / "pytorch_model.bin")
  with pytest.raises(UserError, match="pickle only"):
    load.load_teacher(str(folder), (2,), dtype=FLOAT32, mesh=mesh)
  teacher = load.load_teacher(
    str(folder), (3,), dtype=FLOAT32, mesh=mesh, allow_pickle=True
  )
  rest = {name: part for name, part in expected.items() if name != "pooler"}
  rest["last"] = {n: rest["last"][n] for n in ("query", "key", "value")}
  assert_same(teacher.params, rest)
  assert teacher.fingerprint == weight_files.fingerprint(
    folder, allow_pickle=True
  )


def test_quantised_weights_are_refused(write, tensors, mesh):
  kernel = "encoder.layer.2.intermediate.dense.weight"
  folder = write(tensors | {kernel: tensors[kernel].astype(np.int8)})
  with pytest.raises(UserError, match=f"{kernel} is int8, expected one of fl"):
    encoder_of(folder, mesh)


def test_the_prefix_is_that_of_most_names(write, tensors, mesh):
  named = {"roberta." + name: tensor for name, tensor in tensors.items()}
  del named["roberta." + WORDS]
  with pytest.raises(UserError, match=f": roberta.{WORDS} is missing.$"):
    encoder_of(write(named), mesh)


def test_all_problems_in_one_error(write, tensors, mesh):
  spoilt = dict(tensors)
  del spoilt["encoder.layer.0.attention.self.key.bias"]
  del spoilt["embeddings.LayerNorm.weight"]
  kernel = "encoder.layer.2.intermediate.dense.weight"
  spoilt[kernel] = np.ascontiguousarray(tensors[kernel].T)
  spoilt[WORDS] = tensors[WORDS][:-1]
  folder = write(spoilt)
  with pytest.raises(UserError) as caught:
    encoder_of(folder, mesh)
  message = str(caught.value)
  assert message.startswith(f"{folder}: the weights do not fit config.json: ")
  for words in (
    "encoder.layer.0.attention.self.key.bias is missing",
    "embeddings.LayerNorm.weight is missing",
    f"{kernel} has shape (48, 96), expected (96, 48)",
    f"{WORDS} has shape (127, 48), expected (128, 48)",
  ):
    assert words in message
  assert message.count(";") == 3


def test_very_many_problems(write, tensors, mesh):
  with pytest.raises(UserError) as caught:
    encoder_of(write({WORDS: tensors[WORDS]}), mesh)
  assert str(caught.value).count("is missing") == 20
  # 5 of the embeddings and 16 in each block, less the word table; no pooler.
  assert str(caught.value).endswith("; and 32 more.")


def test_nothing_is_read_before_all_is_known(write, tensors, mesh, monkeypatch):
  spoilt = dict(tensors)
  del spoilt["pooler.dense.bias"]
  folder = write(spoilt)

  monkeypatch.setattr(Weights, "read_into", None)
  with pytest.raises(UserError, match="pooler.dense.bias is missing"):
    encoder_of(folder, mesh)


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_a_teacher_keeps_what_it_needs(golden, mesh, dtype, monkeypatch):
  read = names_read(monkeypatch)
  teacher = load.load_teacher(
    str(golden / "bert"), (2,), dtype=dtype, mesh=mesh
  )
  d, f = 48, 96
  embeddings = (128 + 40 + 2) * d + 2 * d
  block = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 4 * d
  numbers = embeddings + block + 3 * (d * d + d)
  assert numbers * dtype.itemsize == sum(
    leaf.nbytes for leaf in jax.tree.leaves(teacher.params)
  )
  assert len(read) == len(set(read)) == 5 + 16 + 6
  assert not any("layer.2." in name or "pooler" in name for name in read)
  assert teacher.widths == {"query": 48, "key": 48, "value": 48}
  assert (teacher.vocab_size, teacher.max_positions) == (128, 40)
  assert teacher.fingerprint == weight_files.fingerprint(golden / "bert")


def test_a_teacher_is_checked_unread(write, tensors, monkeypatch):
  monkeypatch.setattr(Weights, "read_into", None)
  lower = {n: t for n, t in tensors.items() if "layer.2." not in n}
  needed = load.check_teacher(write(lower), (2,))
  assert len(needed) == len(set(needed)) == 5 + 16 + 6
  with pytest.raises(UserError, match="layer.2.attention.self.query.weight is"):
    load.check_teacher(write(lower), (3,))
  with pytest.raises(UserError, match="teacher.layer=4 does not exist"):
    load.check_teacher(write(lower), (4,))


def test_positions_behind_padding_are_not_counted(golden, mesh):
  teacher = load.load_teacher(
    str(golden / "xlm_roberta"), (1,), dtype=FLOAT32, mesh=mesh
  )
  hf_config = json_file.read_json(golden / "xlm_roberta" / "config.json")
  skipped = hf_config["pad_token_id"] + 1
  assert teacher.max_positions == (
    hf_config["max_position_embeddings"] - skipped
  )


@pytest.mark.parametrize("layer", [0, 4, -1])
def test_layers_that_do_not_exist(golden, mesh, layer):
  words = f"teacher.layer={layer} does not exist; .* layers 1 to 3"
  with pytest.raises(UserError, match=words):
    load.load_teacher(str(golden / "bert"), (layer,), dtype=FLOAT32, mesh=mesh)


@pytest.mark.parametrize(
  "key", ["hidden_size", "vocab_size", "max_position_embeddings"]
)
def test_a_config_without_a_key(write, tensors, key):
  folder = write(tensors, **{key: "absent"})
  words = f"{folder}/config.json lacks the key '{key}'"
  with pytest.raises(UserError, match=re.escape(words)):
    load.read_config(folder)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("hidden_size", "wide"),
    ("max_position_embeddings", None),
    ("num_attention_heads", 0),
    ("position_embedding_type", "relative_key"),
  ],
)
def test_a_config_with_a_strange_value(write, tensors, key, value):
  folder = write(tensors, **{key: value})
  with pytest.raises(UserError, match=f"{folder}/config.json") as caught:
    load.read_config(folder)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["gpt2", None, "absent"])
def test_an_unknown_architecture(write, tensors, kind):
  folder = write(tensors, model_type=kind, architectures=["GPT2Model"])
  with pytest.raises(UserError, match="unknown architecture") as caught:
    load.read_config(folder)
  assert f"model_type={None if kind == 'absent' else kind!r}" in str(
    caught.value
  )
  assert "['GPT2Model']" in str(caught.value)
  assert "bert, camembert, " in str(caught.value)


def test_a_folder_without_config(golden, tmp_path, mesh):
  shutil.copy(golden / "bert" / "model.safetensors", tmp_path)
  with pytest.raises(UserError, match="config.json is missing"):
    load.load_teacher(str(tmp_path), (1,), dtype=FLOAT32, mesh=mesh)


def random_teacher(golden, seed, mesh, dtype=FLOAT32):
  hf_config = json_file.read_json(golden / "bert" / "config.json")
  return load.random_teacher(hf_config, (1,), seed=seed, dtype=dtype, mesh=mesh)


@pytest.fixture(scope="module")
def random(golden, mesh):
  return random_teacher(golden, 1, mesh)


def test_a_random_teacher_depends_on_its_seed_alone(golden, mesh, random):
  spread = random_teacher(golden, 1, make_mesh(1, 2, 2))
  assert_same(spread.params, random.params)
  kernel = spread.params["last"]["query"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (24, 24)
  other = random_teacher(golden, 2, mesh, BFLOAT16)
  assert other.fingerprint != random.fingerprint == spread.fingerprint
  for path, leaf in flat(other.params).items():
    assert leaf.dtype == BFLOAT16
    same = bool((leaf == flat(random.params)[path].astype(BFLOAT16)).all())
    assert same == (path[-1] in ("bias", "scale")), path


def test_a_random_teacher_is_like_a_real_one(golden, mesh, random):
  real = load.load_teacher(str(golden / "bert"), (1,), dtype=FLOAT32, mesh=mesh)
  shapes = [jax.tree.map(jnp.shape, t.params) for t in (random, real)]
  assert shapes[0] == shapes[1]
  assert random.widths == real.widths
  batch = make_batch(np.ones((2, 8), int), np.ones((2, 8), int))
  found = jax.jit(random.project)(random.params, batch)
  assert found.key.shape == (2, 8, 48)
