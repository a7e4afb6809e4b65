"""Students to export: random weights with a tokenizer, never trained."""

import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import safetensors.numpy

from time_jax.cli import main
from time_jax.hf import files, save
from time_jax.models import bert
from time_jax.models.family import abstract_params

CLASSES = ("BertModel", "XLMRobertaModel")


def random_model(folder, tokenizer, *, vocab_size=153, **sizes):
  """A BertModel's folder, no parameter of which is a constant."""
  sizes = (
    dict(
      hidden_size=24,
      num_layers=3,
      num_heads=2,
      intermediate_size=40,
      max_positions=64,
    )
    | sizes
  )
  config = bert.BertConfig(vocab_size=vocab_size, **sizes)
  boxed = abstract_params(bert.Encoder(config, config.num_layers))
  random = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: random.normal(scale=0.3, size=x.shape).astype(np.float32),
    nn.meta.unbox(boxed),
  )
  folder.mkdir()
  for path in tokenizer.glob("tokenizer*"):
    shutil.copy(path, folder)
  ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
  save.save_bert(folder, config, params, ids)
  return folder


def command(capsys, *argv, code=0):
  """Output of a command, both kinds."""
  found = main.main([str(word) for word in argv])
  output = capsys.readouterr()
  assert found == code, output.out + output.err
  return output.out + output.err


def quietly(*argv):
  assert main.main([str(word) for word in argv]) == 0


def tensors(folder):
  return safetensors.numpy.load_file(folder / "model.safetensors")


def write_tensors(folder, content):
  path = folder / "model.safetensors"
  content = {name: np.ascontiguousarray(x) for name, x in content.items()}
  safetensors.numpy.save_file(content, path, metadata={"format": "pt"})


def assert_layers(found, teacher, layers):
  """A student's tensors are the teacher's, of its layers with these numbers."""
  for name, tensor in found.items():
    source = name
    if name.startswith("encoder.layer."):
      number, _, rest = name.removeprefix("encoder.layer.").partition(".")
      source = f"encoder.layer.{layers[int(number)] - 1}.{rest}"
    np.testing.assert_array_equal(tensor, teacher[source], err_msg=name)


def rehash(folder):
  """As if the export itself had written the folder as it is now."""
  path = folder / "time_jax.json"
  record = json.loads(path.read_text())
  for name in record["files"]:
    record["files"][name]["sha256"] = files.sha256(folder / name)
  path.write_text(json.dumps(record))
