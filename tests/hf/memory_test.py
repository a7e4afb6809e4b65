"""A teacher needs little more memory than its weights, and reads only those."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

ROOT = pathlib.Path(__file__).parents[2]
WIDTH, INNER, LAYERS, WORDS = 512, 2048, 8, 20_000
CONFIG = {
  "model_type": "bert",
  "vocab_size": WORDS,
  "hidden_size": WIDTH,
  "num_hidden_layers": LAYERS,
  "num_attention_heads": 8,
  "intermediate_size": INNER,
  "max_position_embeddings": 128,
}

# A fresh process: a peak never goes down. Chunks as small as the file is.
PROGRAM = """
import json, pathlib, sys
import jax, jax.numpy as jnp
from time_jax.parallel import sharding
from time_jax.hf import load, weights

def peak():  # Unlike getrusage's, it does not begin with the parent's.
  status = pathlib.Path("/proc/self/status").read_text()
  return int(status.partition("VmHWM:")[2].split()[0]) * 1024

folder, layer, dtype = sys.argv[1], int(sys.argv[2]), jnp.dtype(sys.argv[3])
mesh = sharding.make_mesh()
weights._CHUNK, weights._MAPPED = 1 << 20, 4 << 20
load.check_teacher(pathlib.Path(folder), (layer,))
(jnp.zeros(1) + 1).block_until_ready()
names, original = [], weights.Weights.read_into

def spy(weights, target, name, index=None):
  names.append(name)
  return original(weights, target, name, index)

weights.Weights.read_into = spy
before = peak()
teacher = load.load_teacher(folder, (layer,), dtype=dtype, mesh=mesh)
kept = sum(leaf.nbytes for leaf in jax.tree.leaves(teacher.params))
print(json.dumps([peak() - before, kept, names]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A BERT of 142 MB."""
  folder = tmp_path_factory.mktemp("big")
  shapes = {
    "embeddings.word_embeddings.weight": (WORDS, WIDTH),
    "embeddings.position_embeddings.weight": (128, WIDTH),
    "embeddings.token_type_embeddings.weight": (2, WIDTH),
    "embeddings.LayerNorm.weight": (WIDTH,),
    "embeddings.LayerNorm.bias": (WIDTH,),
  }
  square = [f"attention.self.{x}" for x in ("query", "key", "value")]
  dense = {name: (WIDTH, WIDTH) for name in [*square, "attention.output.dense"]}
  dense |= {"intermediate.dense": (INNER, WIDTH)}
  dense |= {"output.dense": (WIDTH, INNER)}
  norms = ("attention.output.LayerNorm", "output.LayerNorm")
  dense |= dict.fromkeys(norms, (WIDTH,))
  for layer in range(LAYERS):
    for name, shape in dense.items():
      shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
      shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
  tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
  safetensors.numpy.save_file(tensors, folder / "model.safetensors")
  (folder / "config.json").write_text(json.dumps(CONFIG))
  return folder


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
  ("layer", "dtype"),
  [
    pytest.param(LAYERS, "float32", marks=pytest.mark.slow),
    (5, "bfloat16"),
  ],
)
def test_memory_and_names(folder, layer, dtype):
  """At most what is kept, and a tenth of the file's size."""
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, str(folder), str(layer), dtype],
    capture_output=True,
    text=True,
    check=True,
    cwd=ROOT,
    env={"JAX_PLATFORMS": "cpu", "PATH": ""},
  )
  increase, kept, names = json.loads(done.stdout.splitlines()[-1])
  size = (folder / "model.safetensors").stat().st_size
  assert kept > 0.3 * size
  assert increase <= kept + 0.1 * size
  read = {int(n.split(".")[2]) for n in names if n.startswith("encoder.")}
  assert read == set(range(layer))
  last = [n for n in names if n.startswith(f"encoder.layer.{layer - 1}.")]
  assert len(last) == 6 and all(".attention.self." in n for n in last)
  assert len(names) == len(set(names)) == 5 + 16 * (layer - 1) + 6
