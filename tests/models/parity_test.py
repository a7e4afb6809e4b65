"""Every family against its upstream implementation, by golden vectors."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from time_jax.core.arrays import make_batch
from time_jax.core.errors import UserError
from time_jax.hf import load
from time_jax.models import deberta, ltg_bert, relative, stepwise

FOLDERS = [
  "bert",
  "roberta",
  "xlm_roberta",
  "electra",
  "deberta_v3",
  "deberta_v2_conv",
  "ltgbert",
  "ltgbert_perhead_pos",
  "t5_encoder",
  "mt5_encoder",
  "modernbert",
  "eurobert",
]
# A network that ends between the first layer and the last is there for those
# whose first block differs from others: taps_test has the layers between.
OWN_FIRST = {"deberta_v2_conv", "modernbert"}
# What the config.json of a checkpoint does not say about it.
OVERRIDES = {"ltgbert_perhead_pos": {"relative_layout": "per_head"}}
FLOAT32 = jnp.dtype("float32")
TOLERANCE = dict(atol=1e-4, rtol=0)


def projections(folder, layer, mesh, **options):
  """A teacher's function from a batch to projections by their letter."""
  options = {"overrides": OVERRIDES.get(folder.name)} | options
  teacher = load.load_teacher(
    str(folder), (layer,), dtype=FLOAT32, mesh=mesh, **options
  )
  compiled = jax.jit(teacher.project)

  def project(batch):
    qkv = compiled(teacher.params, batch)
    for name, width in teacher.widths.items():
      assert getattr(qkv, name).shape[-1] == width
    return {"q": qkv.query, "k": qkv.key, "v": qkv.value}

  return project


def packed_and_alone(ids, mask):
  """Two documents packed in one row, and each in a row of its own.

  Returns:
    Tokens and segment ids of the three rows, and the documents' lengths.
  """
  documents = [ids[i, : mask[i].sum()] for i in (2, 1)]
  lengths = [len(document) for document in documents]
  rows = np.zeros((3, sum(lengths) + 2), np.int32)
  segments = np.zeros_like(rows)
  start = 0
  for number, document in enumerate(documents, 1):
    end = start + len(document)
    rows[0, start:end], segments[0, start:end] = document, number
    rows[number, : len(document)] = document
    segments[number, : len(document)] = 1
    start = end
  return rows, segments, lengths


@pytest.mark.parametrize("name", FOLDERS)
def test_projections(golden, mesh, name):
  """And a packed row gives each document exactly what it gets alone."""
  expected = np.load(golden / name / "expected.npz")
  ids, mask = expected["input_ids"], expected["attention_mask"]
  last = len(expected["q"])
  for layer in range(1, last + 1) if name in OWN_FIRST else (1, last):
    project = projections(golden / name, layer, mesh)
    for key, values in project(make_batch(ids, mask)).items():
      np.testing.assert_allclose(
        values[mask > 0], expected[key][layer - 1][mask > 0], **TOLERANCE
      )
  rows, segments, lengths = packed_and_alone(ids, mask)
  for values in project(make_batch(rows, segments)).values():
    start = 0
    for number, length in enumerate(lengths, 1):
      np.testing.assert_allclose(
        values[0, start : start + length],
        values[number, :length],
        atol=1e-5,
        rtol=0,
      )
      start += length


@pytest.mark.parametrize(
  "name",
  [
    # RoBERTa with another table of words.
    pytest.param(name, marks=pytest.mark.slow if name == "xlm_roberta" else ())
    for name in FOLDERS
  ],
)
def test_hidden_states_of_every_layer(golden, mesh, name):
  expected = np.load(golden / name / "expected.npz")
  encoder, params = load.load_encoder(
    golden / name, dtype=FLOAT32, mesh=mesh, overrides=OVERRIDES.get(name)
  )
  batch = make_batch(expected["input_ids"], expected["attention_mask"])
  real = expected["attention_mask"] > 0
  states = jax.jit(functools.partial(encoder.apply, method="hidden_states"))(
    {"params": params}, batch
  )
  # Upstream's last entry is before ModernBERT's final norm; ours never is.
  np.testing.assert_allclose(
    states[:-1, real], expected["hidden_states"][:-1, real], **TOLERANCE
  )
  np.testing.assert_allclose(
    states[-1][real], expected["last_hidden_state"][real], **TOLERANCE
  )
  # Block by block it is the same network.
  one_by_one = jax.jit(functools.partial(stepwise.states, encoder))(
    stepwise.unstack(params), batch
  )
  np.testing.assert_allclose(
    np.stack(one_by_one)[:, real], states[:, real], atol=1e-5, rtol=0
  )


@pytest.mark.parametrize("name", ["modernbert", "eurobert"])
def test_projections_after_rope(golden, mesh, name):
  """The layers before the last one, too, are in taps_test."""
  expected = np.load(golden / name / "expected.npz")
  batch = make_batch(expected["input_ids"], expected["attention_mask"])
  real = expected["attention_mask"] > 0
  last = len(expected["q"])
  found = projections(golden / name, last, mesh, capture="post_rope")(batch)
  for key, source in (("q", "q_rope"), ("k", "k_rope"), ("v", "v")):
    np.testing.assert_allclose(
      found[key][real], expected[source][-1][real], **TOLERANCE
    )


@pytest.mark.parametrize(
  ("name", "other"),
  [
    ("modernbert", "config_v5_form.json"),
    ("eurobert", "config_hub_v4_form.json"),
  ],
)
def test_both_forms_of_a_config(golden, tmp_path, name, other):
  shutil.copy(golden / name / other, tmp_path / "config.json")
  _, found = load.read_config(tmp_path)
  _, expected = load.read_config(golden / name)
  assert found == expected


@pytest.mark.parametrize(
  ("key", "row"),
  [
    ("ltg_p32_m512", lambda d: _ltg(d, 32, 512)),
    ("ltg_p8_m32", lambda d: _ltg(d, 8, 32)),
    ("deberta_p256_m512", lambda d: _deberta(d, 256, 512)),
    ("deberta_p8_m40", lambda d: _deberta(d, 8, 40)),
    ("t5_n32_d128", lambda d: relative.t5_buckets(d, 32, 128)),
    ("t5_n8_d16", lambda d: relative.t5_buckets(d, 8, 16)),
  ],
)
def test_bucket_tables(golden, key, row):
  tables = np.load(golden / "position_buckets" / "buckets.npz")
  kind = "bucket" if key.startswith("t5") else "index"
  found = row(tables[f"{key}_dist"])
  np.testing.assert_array_equal(found, tables[f"{key}_{kind}"])


def _ltg(distances, buckets, longest):
  config = ltg_bert.LtgConfig(9, 8, 1, 2, 8, buckets, longest)
  return config.row_of(distances)


def _deberta(distances, buckets, longest):
  config = deberta.DebertaConfig(9, 8, 1, 2, 8, buckets, longest)
  return config.row_of(distances)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_disentangled_scores_are_their_definition(length):
  random = np.random.default_rng(length)
  query, key = random.normal(size=(2, 3, length, 2, 5)).astype(np.float32)
  table_query, table_key = random.normal(size=(2, 9, 2, 5)).astype(np.float32)

  def row_of(distances):
    return np.clip(np.asarray(distances) + 4, 0, 8)

  found = relative.disentangled_scores(
    *map(jnp.asarray, (query, key, table_query, table_key)), row_of
  )
  for i in range(length):
    for j in range(length):
      row = row_of(i - j)
      expected = np.einsum("bnh,nh->bn", query[:, i], table_key[row])
      expected += np.einsum("bnh,nh->bn", key[:, j], table_query[row])
      np.testing.assert_allclose(found[:, :, i, j], expected, atol=1e-5)


@pytest.mark.parametrize(
  ("content", "words"),
  [
    ({"model_type": "xlm-roberta-xl"}, "not supported: pre-norm"),
    ({"model_type": "umt5"}, "not supported: a table of distances"),
    ({"model_type": "deberta"}, "not supported: DeBERTa v1"),
    ({"architectures": ["GptBertForMaskedLM"]}, "not supported: GPT-BERT"),
    (
      {"architectures": ["NorT5ForConditionalGeneration"]},
      "not supported: NorT5, such as the T5 models of HPLT 3.0, .* HPLT take",
    ),
    ({"architectures": ["NorT5Model"]}, "not supported: NorT5"),
    (
      {"auto_map": {"AutoConfig": "configuration_nort5.NorT5Config"}},
      "not supported: NorT5",
    ),
    ({"model_type": "llama"}, "unknown architecture model_type='llama'"),
    ({}, "architecture model_type=None.*add the model_type"),
  ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path, content, words):
  (tmp_path / "config.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match=words):
    load.read_config(tmp_path)


@pytest.mark.parametrize(
  ("name", "change", "words"),
  [
    ("deberta_v3", {"relative_attention": False}, "relative_attention=False"),
    ("deberta_v3", {"position_buckets": -1}, "no position_buckets"),
    ("modernbert", {"rope_scaling": {"type": "yarn"}}, "rope_type='yarn'"),
    (
      "modernbert",
      {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
      "rope_type='yarn'",
    ),
    ("modernbert", {"layer_types": ["chunked"]}, "layer_types has 1 entries"),
    ("eurobert", {"rope_parameters": {"rope_type": "yarn"}}, "yarn"),
    ("eurobert", {"num_key_value_heads": 3}, "must divide"),
    ("t5_encoder", {"feed_forward_proj": "swish9"}, "'swish9' is unknown"),
    ("ltgbert", {"relative_layout": "round"}, "'round' is unknown"),
  ],
)
def test_variants_without_a_reference_are_refused(golden, name, change, words):
  with pytest.raises(UserError, match=words):
    load.read_config(golden / name, change)
