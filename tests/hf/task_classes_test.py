"""Models with a head: read and written as transformers does, family by family.

These tests run in transformers 4.57 and 5.
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from time_jax.core.errors import UserError
from time_jax.hf import load, save, task_classes, torch_encoder
from time_jax.hf.weights import Weights
from time_jax.models.registry import find_family
from time_jax.release import probe

SIZES = {
  "vocab_size": 60,
  "hidden_size": 16,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 24,
  "max_position_embeddings": 40,
  "pad_token_id": 1,
}
OWN = {
  "electra": {"embedding_size": 8},
  "deberta-v2": {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "position_biased_input": False,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "max_relative_positions": -1,
    "type_vocab_size": 0,
  },
}
FAMILIES = ("bert", "camembert", "deberta-v2", "electra", "roberta")
FAMILIES += ("xlm-roberta",)
LABELS = ("O", "B-PER", "I-PER")
AUTO = {"ner": "TokenClassification", "qa": "QuestionAnswering"}
TASKS = pytest.mark.parametrize("task", AUTO)


def write_torch(folder, family, task):
  """A random model that transformers writes."""
  torch.manual_seed(0)
  labels = {"num_labels": len(LABELS)} if task == "ner" else {}
  sizes = SIZES | OWN.get(family, {}) | labels
  config = transformers.AutoConfig.for_model(family, **sizes)
  loader = getattr(transformers, f"AutoModelFor{AUTO[task]}")
  model = loader.from_config(config).eval()
  for parameter in model.parameters():  # Biases and norms are not trivial.
    torch.nn.init.normal_(parameter, std=0.3)
  model.save_pretrained(folder)
  return model


def read(folder, mesh):
  hf_config = json.loads((folder / "config.json").read_text())
  encoder, params = load.load_encoder(folder, dtype=np.float32, mesh=mesh)
  with Weights(folder) as weights:
    head = task_classes.read_head(weights, hf_config)
  return hf_config, encoder, params, head


@TASKS
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family, task, mesh, tmp_path):
  write_torch(tmp_path, family, task)
  hf_config, encoder, params, head = read(tmp_path, mesh)
  kind = task_classes.of_config(hf_config)
  assert kind == task_classes.find(task, family)
  rows = probe.make_probe(
    vocab_size=60, longest=30, pad_id=1, tokenize=None
  ).batch()
  states = probe.hidden_states(encoder, params, rows)
  real = np.asarray(rows.segment_ids) > 0
  run = torch_encoder.load_torch_with_head(tmp_path, kind, strict=True)
  expected = run(np.asarray(rows.tokens), real)
  assert expected.shape[-1] == (len(LABELS) if task == "ner" else 2)
  logits = head.logits(states[-1])
  np.testing.assert_allclose(logits[real], expected[real], atol=2e-5, rtol=1e-5)


@TASKS
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_what_transformers_writes(
  family, task, mesh, tmp_path
):
  write_torch(tmp_path, family, task)
  hf_config, encoder, params, head = read(tmp_path, mesh)
  kind = task_classes.find(task, family)
  params = {k: v for k, v in params.items() if k != "pooler"}
  names = find_family(hf_config).names
  tensors = task_classes.to_tensors(
    kind, save.to_tensors(params, names, encoder.config.num_layers), head
  )
  expected = safetensors.numpy.load_file(tmp_path / "model.safetensors")
  buffers = {name for name in expected if name.endswith("position_ids")}
  assert set(tensors) == set(expected) - buffers
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(tensor, expected[name], err_msg=name)
  labels = LABELS if task == "ner" else ()
  config = task_classes.make_config(hf_config, kind, labels)
  again = tmp_path / "again"
  again.mkdir()
  (again / "config.json").write_text(json.dumps(config))
  save.write_safetensors(again / "model.safetensors", tensors)
  loader = getattr(transformers, kind.name)
  model, report = loader.from_pretrained(again, output_loading_info=True)
  assert not any(report.values()), report
  assert model.dtype == torch.float32
  if task == "ner":
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id["I-PER"] == 2


def test_a_config_of_another_head_leaves_nothing_behind():
  other = {
    "model_type": "bert",
    "architectures": ["BertForQuestionAnswering"],
    "hidden_size": 8,
    "num_labels": 3,
    "id2label": {"0": "x"},
    "_name_or_path": "/home/someone/model",
    "auto_map": {"AutoModel": "own.Model"},
    "dtype": "bfloat16",
    "torch_dtype": "bfloat16",
  }
  config = task_classes.make_encoder_config(other)
  assert config == {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 8,
    "dtype": "float32",
    "torch_dtype": "float32",
  }
  assert task_classes.of_config(config) is None
  for named in (None, 5, [], "BertForTokenClassification", [["a"]]):
    changed = other | {"architectures": named}
    assert task_classes.of_config(changed) is None


@pytest.mark.parametrize(
  ("task", "model_type"),
  [
    *(("ud", "bert"), ("ner", "modernbert"), ("qa", "t5"), ("ner", "ltgbert")),
    *(("ner", "eurobert"), ("ner", "")),
  ],
)
def test_other_networks_have_no_class(task, model_type):
  assert task_classes.find(task, model_type) is None


def test_a_head_that_is_not_there_is_named(mesh, tmp_path):
  write_torch(tmp_path, "bert", "ner")
  path = tmp_path / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  del tensors["classifier.bias"]
  save.write_safetensors(path, tensors)
  with pytest.raises(UserError, match=r"whose classifier\.bias"):
    read(tmp_path, mesh)
  content = {"model_type": "bert", "architectures": ["BertModel"]}
  with (
    Weights(tmp_path) as weights,
    pytest.raises(UserError, match="one linear"),
  ):
    task_classes.read_head(weights, content)


def test_weights_in_bfloat16_are_read_in_float32(tmp_path):
  write_torch(tmp_path, "bert", "ner")
  path = tmp_path / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  half = {k: v.astype(jnp.bfloat16) for k, v in tensors.items()}
  save.write_safetensors(path, half)
  hf_config = json.loads((tmp_path / "config.json").read_text())
  with Weights(tmp_path) as weights:
    head = task_classes.read_head(weights, hf_config)
  assert head.kernel.dtype == head.bias.dtype == np.float32
