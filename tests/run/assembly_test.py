"""What a teacher is asked for, and what is refused before any work."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_recipe

from time_jax.core.arrays import make_batch
from time_jax.core.errors import UserError
from time_jax.run import assembly


@pytest.fixture
def config(golden, tiny):
  """Golden ModernBERT as the teacher, at its last layer, a global one."""
  config = tiny_recipe.get_config(tiny)
  config.teacher.path = str(golden / "modernbert")
  config.teacher.layer = 4
  return config


@pytest.mark.parametrize(
  ("capture", "query"), [("projections", "q"), ("post_rope", "q_rope")]
)
def test_what_is_captured(golden, mesh, config, capture, query):
  config.teacher.capture = capture
  assert assembly.teacher_config(config).widths["query"] == 48
  teacher = assembly.make_teacher(config, (config.teacher.layer,), mesh)
  expected = np.load(golden / "modernbert" / "expected.npz")
  batch = make_batch(expected["input_ids"], expected["attention_mask"])
  found = jax.jit(teacher.project)(teacher.params, batch).query
  real = expected["attention_mask"] > 0
  np.testing.assert_allclose(found[real], expected[query][3][real], atol=1e-4)


def test_heads_that_rope_turns_stay_whole(config):
  config.teacher.capture = "post_rope"
  config.relations.num_heads = 8  # of width 6; the network's own are 12 wide
  with pytest.raises(UserError, match="48 / 8 is no multiple of their width"):
    assembly.teacher_config(config)


def test_keys_narrower_than_queries(golden, config):
  config.teacher.path = str(golden / "eurobert")
  config.teacher.layer = 3
  widths = assembly.teacher_config(config).widths
  assert widths == {"query": 48, "key": 24, "value": 24}
  config.teacher.capture = "post_rope"
  with pytest.raises(UserError, match="expected a divisor of 2"):
    assembly.teacher_config(config)
  config.teacher.capture = "projections"
  config.relations.weights.qk = 1.0
  with pytest.raises(UserError, match="'qk' .* 48 and 24 wide"):
    assembly.teacher_config(config)


def test_a_teacher_without_rope_has_nothing_behind_it(golden, config):
  config.teacher.path = str(golden / "bert")
  config.teacher.layer = 2
  config.teacher.capture = "post_rope"
  with pytest.raises(UserError, match="needs a teacher with rotary positions"):
    assembly.teacher_config(config)


def test_layout_of_relative_positions(golden, mesh, config):
  config.teacher.path = str(golden / "ltgbert_perhead_pos")
  config.teacher.layer = 3
  config.teacher.relative_layout = "per_head"
  assert assembly.teacher_config(config).relative_layout == "per_head"
  teacher = assembly.make_teacher(config, (config.teacher.layer,), mesh)
  folder = golden / "ltgbert_perhead_pos"
  expected = np.load(folder / "expected.npz")
  batch = make_batch(expected["input_ids"], expected["attention_mask"])
  found = jax.jit(teacher.project)(teacher.params, batch).key
  real = expected["attention_mask"] > 0
  np.testing.assert_allclose(found[real], expected["k"][2][real], atol=1e-4)
  config.teacher.path = str(golden / "modernbert")
  with pytest.raises(UserError, match="for LTG-BERT alone"):
    assembly.teacher_config(config)


def test_norbert_splits_by_head(golden, tmp_path):
  """By its architecture, as its config.json names no layout."""
  from time_jax.hf import load

  content = json.loads((golden / "ltgbert" / "config.json").read_text())
  content["architectures"] = ["NorbertForMaskedLM"]
  (tmp_path / "config.json").write_text(json.dumps(content))
  assert load.read_config(tmp_path)[1].relative_layout == "per_head"


def spread(tree):
  return jax.tree.map(
    lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), tree
  )


@pytest.mark.parametrize("name", ["bert", "eurobert"])
def test_an_abstract_teacher_is_the_real_one_without_weights(
  golden, config, name
):
  config.teacher.path = str(golden / name)
  config.teacher.layer = 2
  config.mesh.update(fsdp=2, tensor=2)
  mesh = assembly.make_mesh(config, jax.devices()[:4])
  assert mesh.size == 4
  real = assembly.make_teacher(config, (config.teacher.layer,), mesh)
  bare = assembly.abstract_teacher(config, (2,), mesh)
  assert spread(bare.params) == spread(real.params)
  assert bare.widths == real.widths
  config.teacher.loader = "flax"
  with pytest.raises(UserError, match="cannot be compiled without its weights"):
    assembly.abstract_teacher(config, (2,), mesh)


def test_held_out_batches_matter_where_there_is_held_out_text(config):
  config.eval.global_batch_size = 12
  with pytest.raises(UserError, match=r"eval.global_batch_size=12 .* up is 16"):
    assembly.make_mesh(config)
  config.data.validation = ()
  assert assembly.make_mesh(config).size == 8
  with pytest.raises(UserError, match="does not fit 3 device"):
    config.mesh.fsdp = 2
    assembly.make_mesh(config, jax.devices()[:3])


def test_a_kernel_of_other_devices_is_refused(config):
  config.relations.implementation = "pallas_tpu"
  with pytest.raises(UserError, match="'pallas_tpu' needs a TPU; JAX found"):
    assembly.make_mesh(config)


def test_checks_before_a_run_do_not_start_jax(tiny):
  """Its processes meet behind them, and must be the first to start it."""
  code = (
    "import tiny_recipe\n"
    "from time_jax.parallel import processes\n"
    "from time_jax.run import assembly\n"
    f"assembly.teacher_config(tiny_recipe.get_config({str(tiny)!r}))\n"
    "processes.initialize()\n"
  )
  words = [sys.executable, "-c", f"import sys; sys.path += {sys.path}\n{code}"]
  done = subprocess.run(words, capture_output=True, text=True)
  assert not done.returncode, done.stderr


def test_a_random_teacher_without_its_sizes_is_refused(config):
  config.teacher.path = assembly.RANDOM
  config.teacher.architecture = {
    "model_type": "bert",
    "max_position_embeddings": 512,
  }
  with pytest.raises(UserError, match=r"architecture lacks the key 'vocab_siz"):
    assembly.teacher_config(config)
