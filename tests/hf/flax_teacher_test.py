"""transformers' Flax models as teachers against our own and against PyTorch."""

import importlib.metadata
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from time_jax.core.arrays import Batch, Qkv, make_batch
from time_jax.core.errors import UserError
from time_jax.core.storage import json_file
from time_jax.hf import flax_teacher, load
from time_jax.parallel import sharding

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-4
NUM_LAYERS = 3  # of the two checkpoints that are compared


def _has_flax_models() -> bool:
  try:
    version = importlib.metadata.version("transformers")
  except importlib.metadata.PackageNotFoundError:
    return False
  return int(version.split(".")[0]) < 5


needs_flax_models = pytest.mark.skipif(
  not _has_flax_models(),
  reason="needs transformers 4.x: no other version has Flax models",
)


@pytest.fixture(scope="module", autouse=True)
def precise_matmul():
  with jax.default_matmul_precision("highest"):
    yield


@pytest.fixture(scope="module")
def all_devices():
  return sharding.make_mesh()


@pytest.fixture
def loose_promotion():
  """Flax's LayerNorm mixes bfloat16 and float32 without saying so."""
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture
def bert_copy(tmp_path):
  """A folder with BERT's config and weights, to be spoilt."""
  return _copy("bert", tmp_path / "bert")


def _copy(name, to):
  to.mkdir()
  for file in ("config.json", "model.safetensors"):
    shutil.copyfile(GOLDEN / name / file, to / file)
  return to


def _edit_config(folder, **changes):
  path = folder / "config.json"
  path.write_text(json.dumps(json_file.read_json(path) | changes))


def _edit_weights(folder, edit):
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  edit(tensors)
  safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})


def _load(path, layer, mesh, dtype=jnp.float32):
  return flax_teacher.load_flax_teacher(
    str(path), (layer,), dtype=dtype, mesh=mesh
  )


def _project(teacher, batch):
  return jax.jit(teacher.project)(teacher.params, batch)


def _assert_close(a: Qkv, b: Qkv, real, tolerance=TOLERANCE):
  for name in ("query", "key", "value"):
    x, y = (np.asarray(getattr(q, name), np.float32)[real] for q in (a, b))
    assert np.abs(y).max() > 0.1
    np.testing.assert_allclose(x, y, atol=tolerance, rtol=0, err_msg=name)


def _golden(name, layer):
  """Tokens, segments and PyTorch's projections of a layer, 1-based."""
  want = np.load(GOLDEN / name / "expected.npz")
  qkv = Qkv(*(want[key][layer - 1] for key in "qkv"))
  return make_batch(want["input_ids"], want["attention_mask"]), qkv


def _packed_and_alone():
  """Three documents packed into one row, with a hole, and one row for each."""
  rng = np.random.default_rng(0)
  segments = np.array([[1] * 7 + [2] * 3 + [0] + [2] * 2 + [3] * 5 + [0] * 2])
  tokens = rng.integers(5, 128, segments.shape)
  alone = np.concatenate([np.where(segments == d, 1, 0) for d in (1, 2, 3)])
  return make_batch(tokens, segments), make_batch(
    np.repeat(tokens, 3, axis=0), alone
  )


@needs_flax_models
@pytest.mark.parametrize(
  "layer", [pytest.param(1, marks=pytest.mark.slow), NUM_LAYERS]
)
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_parity(name, layer, mesh):
  """With PyTorch, and on packed rows with our encoder and rows of their own."""
  teacher = _load(GOLDEN / name, layer, mesh)
  project = jax.jit(teacher.project)
  batch, want = _golden(name, layer)
  got = project(teacher.params, batch)
  _assert_close(got, want, batch.segment_ids > 0)

  packed, alone = _packed_and_alone()
  own = load.load_teacher(
    str(GOLDEN / name), (layer,), dtype=jnp.float32, mesh=mesh
  )
  got = project(teacher.params, packed)
  _assert_close(got, _project(own, packed), packed.segment_ids > 0)
  want = project(teacher.params, alone)
  for document in range(3):
    here = packed.segment_ids[0] == document + 1
    _assert_close(
      jax.tree.map(lambda x: x[0], got),
      jax.tree.map(lambda x, row=document: x[row], want),
      here,
      1e-5,
    )


@needs_flax_models
def test_describes_itself_as_own_teacher(mesh):
  teacher = _load(GOLDEN / "roberta", 2, mesh)
  own = load.load_teacher(
    str(GOLDEN / "roberta"), (2,), dtype=jnp.float32, mesh=mesh
  )
  assert teacher.widths == own.widths
  assert teacher.vocab_size == own.vocab_size
  assert teacher.max_positions == own.max_positions == 38
  assert teacher.fingerprint == own.fingerprint


@needs_flax_models
@pytest.mark.usefixtures("loose_promotion")
def test_keeps_only_layers_up_to_the_distilled_one(all_devices):
  teacher = _load(GOLDEN / "bert", 2, all_devices, jnp.bfloat16)
  assert set(teacher.params) == {"embeddings", "encoder"}
  assert set(teacher.params["encoder"]["layer"]) == {"0", "1"}
  for leaf in jax.tree.leaves(teacher.params):
    assert leaf.dtype == jnp.bfloat16
    assert leaf.sharding.is_fully_replicated
    assert leaf.sharding.mesh == all_devices


@needs_flax_models
@pytest.mark.usefixtures("loose_promotion")
def test_bfloat16_is_near(mesh):
  batch, want = _golden("bert", 3)
  got = _project(_load(GOLDEN / "bert", 3, mesh, jnp.bfloat16), batch)
  assert got.query.dtype == jnp.bfloat16
  real = batch.segment_ids > 0
  error = np.asarray(got.value, np.float32)[real] - want.value[real]
  assert np.sqrt(np.mean(error**2)) < 0.03 * np.std(want.value[real])


@needs_flax_models
def test_is_deterministic(mesh):
  batch, _ = _golden("bert", 3)  # config.json has dropout 0.1
  teacher = _load(GOLDEN / "bert", 3, mesh)
  jax.tree.map(
    np.testing.assert_array_equal,
    _project(teacher, batch),
    _project(teacher, batch),
  )


@needs_flax_models
def test_reads_legacy_names(mesh, tmp_path):
  folder = _copy("bert", tmp_path / "bert")
  shutil.copyfile(
    GOLDEN / "bert" / "model_legacy.safetensors", folder / "model.safetensors"
  )
  batch, want = _golden("bert", 3)
  got = _project(_load(folder, 3, mesh), batch)
  _assert_close(got, want, batch.segment_ids > 0)


@needs_flax_models
@pytest.mark.parametrize("rows", [1, 3])
def test_sharded_rows_equal_single_ones(all_devices, rows):
  teacher = _load(GOLDEN / "bert", 3, all_devices)
  batch, want = _golden("bert", 3)
  ways = sharding.batch_ways(all_devices)
  tokens = np.tile(batch.tokens[:1], (rows * ways, 1))
  segments = np.tile(batch.segment_ids[:1], (rows * ways, 1))
  with sharding.use_mesh(all_devices):
    got = _project(
      teacher, sharding.global_batch(tokens, segments, all_devices, rows * ways)
    )
  np.testing.assert_allclose(got.query[-1], want.query[0], atol=TOLERANCE)


# There are no golden values of these two here: the reference is transformers'
# complete Flax model on unpacked rows, with random weights.
@needs_flax_models
@pytest.mark.parametrize("name", ["Electra", "RobertaPreLayerNorm"])
def test_other_classes_equal_their_own_call(name, mesh, tmp_path):
  transformers = pytest.importorskip("transformers")
  pad = 1 if name.startswith("Roberta") else 0
  shape = dict(
    vocab_size=128,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=32,
    max_position_embeddings=40,
    pad_token_id=pad,
  )
  shape |= {"embedding_size": 8} if name == "Electra" else {}
  config = getattr(transformers, f"{name}Config")(
    **shape, initializer_range=0.3
  )
  model = getattr(transformers, f"Flax{name}Model")(config, seed=1)
  _save_as_pytorch(config, model, tmp_path)

  _, batch = _packed_and_alone()
  real = batch.segment_ids > 0
  offset = pad + 1 if pad else 0
  _, state = model.module.apply(
    {"params": model.params},
    batch.tokens,
    real.astype(np.int32),
    np.zeros_like(batch.tokens),
    batch.positions + offset,
    capture_intermediates=True,
    mutable=["intermediates"],
  )
  block = state["intermediates"]["encoder"]["layer"]["1"]["attention"]["self"]
  parts = (block[p]["__call__"][0] for p in ("query", "key", "value"))
  teacher = _load(tmp_path, 2, mesh)
  assert teacher.max_positions == 40 - offset
  _assert_close(_project(teacher, batch), Qkv(*parts), real)


def _save_as_pytorch(config, model, folder):
  """Writes a Flax model as PyTorch would name and turn its tensors."""
  tensors = {}
  for path, leaf in jax.tree.leaves_with_path(model.params):
    *stem, end = [key.key for key in path]
    end = "bias" if end == "bias" else "weight"
    array = np.asarray(leaf)
    turned = array.T if path[-1].key == "kernel" else array
    name = ".".join([model.base_model_prefix, *stem, end])
    tensors[name] = np.ascontiguousarray(turned)
  config.save_pretrained(folder)
  safetensors.numpy.save_file(tensors, folder / "model.safetensors")


@needs_flax_models
def test_missing_tensors_are_all_named(bert_copy, mesh):
  gone = ["encoder.layer.0.output.dense.weight", "embeddings.LayerNorm.bias"]

  def edit(tensors):
    for name in gone:
      del tensors[name]

  _edit_weights(bert_copy, edit)
  with pytest.raises(UserError, match="missing") as error:
    _load(bert_copy, 2, mesh)
  assert all(f"{name} is missing" in str(error.value) for name in gone)


@needs_flax_models
def test_wrong_shape_is_named(bert_copy, mesh):
  _edit_config(bert_copy, intermediate_size=64)
  with pytest.raises(
    UserError,
    match=r"0.intermediate.dense.weight has shape \(96, 48\), expected \(64,",
  ):
    _load(bert_copy, 1, mesh)


@needs_flax_models
def test_tensor_above_the_layer_may_be_missing(bert_copy, mesh):
  _edit_weights(
    bert_copy,
    lambda tensors: [tensors.pop(n) for n in list(tensors) if ".2." in n],
  )
  batch, want = _golden("bert", 2)
  got = _project(_load(bert_copy, 2, mesh), batch)
  _assert_close(got, want, batch.segment_ids > 0)


@needs_flax_models
@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"position_embedding_type": "relative_key"}, "'relative_key' is ignored"),
    ({"is_decoder": True}, "causal"),
    ({"hidden_act": "unheard"}, "cannot build FlaxBertModel.*unheard"),
  ],
)
def test_unusable_config(bert_copy, mesh, changes, message):
  _edit_config(bert_copy, **changes)
  with pytest.raises(UserError, match=message):
    _load(bert_copy, 1, mesh)


@needs_flax_models
@pytest.mark.parametrize("layer", [0, NUM_LAYERS + 1])
def test_layer_that_is_not_there(layer, mesh):
  with pytest.raises(UserError, match="1 to 3"):
    _load(GOLDEN / "bert", layer, mesh)


@pytest.mark.parametrize("model_type", [None, "t5", "xlm-roberta"])
def test_unknown_model_type_lists_the_known(bert_copy, mesh, model_type):
  _edit_config(bert_copy, model_type=model_type)
  with pytest.raises(UserError, match="known: bert, electra, roberta"):
    _load(bert_copy, 1, mesh)


def test_transformers_5_is_refused(monkeypatch, mesh):
  monkeypatch.setattr(importlib.metadata, "version", lambda _: "5.23.0")
  with pytest.raises(UserError, match=r"5\.23\.0.*<5.*teacher\.loader=own"):
    _load(GOLDEN / "bert", 1, mesh)


def test_transformers_not_installed(monkeypatch, mesh):
  def absent(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "version", absent)
  with pytest.raises(UserError, match="no transformers is installed.*<5"):
    _load(GOLDEN / "bert", 1, mesh)


def test_module_without_transformers_models(monkeypatch, mesh):
  monkeypatch.setattr(importlib.metadata, "version", lambda _: "4.57.6")
  monkeypatch.setattr(importlib, "import_module", lambda _: object())
  with pytest.raises(UserError, match="cannot provide FlaxBertModel"):
    _load(GOLDEN / "bert", 1, mesh)


@needs_flax_models
def test_projections_do_not_see_other_documents(mesh):
  teacher = _load(GOLDEN / "bert", 3, mesh)
  batch, _ = _packed_and_alone()
  first = batch.segment_ids == 1
  other = Batch(
    np.where(first, batch.tokens, (batch.tokens + 1) % 128),
    batch.segment_ids,
    batch.positions,
  )
  a, b = _project(teacher, batch), _project(teacher, other)
  np.testing.assert_array_equal(a.query[first], b.query[first])
