"""Eight forced CPU devices, strict promotion, shapes checked as annotated."""

import gc
import json
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
  pathlib.Path(__file__).parents[1] / ".cache" / "xla"
)
# Tests compile much and compute little. Fusions that XLA's own emitters write
# take a third of the time to compile that a test of a step takes in all.
os.environ["XLA_FLAGS"] = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
  " --xla_cpu_use_fusion_emitters=false"
)

import beartype
import beartype.claw
import flax
import jax
import jaxtyping
import numpy as np
import pytest

# Annotated shapes and types are checked while tests run. Not in the modules
# that define pytrees: JAX rebuilds those with whatever it has in hand.
_OF_STEP = ("step.objective", "step.optimizer")
_SHAPES = ("relations", "models", "hf", "data", "starts", *_OF_STEP)
# No shapes are annotated here; types alone are checked many times faster.
_TYPES = ("trim",)
if "FUZZ" not in os.environ:  # There, nothing may stand before the code.
  beartype.claw.beartype_packages(
    [f"time_jax.{name}" for name in _TYPES],
    conf=beartype.BeartypeConf(claw_is_pep526=False),
  )
  jaxtyping.install_import_hook(
    [f"time_jax.{name}" for name in _SHAPES], "beartype.beartype"
  )

# Of what tests make, little is garbage, and looking for it takes its time.
gc.freeze()
gc.set_threshold(50_000, 20, 50)

# Each of a run's many small programs, too: together they take seconds.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


# Files with the longest tests; started last, one would keep a core waiting.
_FIRST = (
  *("members_test", "students_test", "train_step_test", "teacher_cache_test"),
  *("trim_test", "relations_test", "resume_test", "likely_tokens_test"),
  *("every_language_test", "trimmed_student_test"),
)


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: not item.path.name.startswith(_FIRST))


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
  return pathlib.Path(__file__).parent / "golden"


@pytest.fixture
def one_process(monkeypatch):
  """A run in this process."""
  import alone

  alone.stay_alone(monkeypatch)


@pytest.fixture(scope="session")
def mesh() -> jax.sharding.Mesh:
  """One device."""
  from meshes import make_mesh

  return make_mesh(1, 1, 1)


@pytest.fixture
def one_device(mesh, monkeypatch):
  """So that nothing is compiled for, and computed by, eight of them."""
  from time_jax.parallel import sharding

  monkeypatch.setattr(sharding, "make_mesh", lambda **sizes: mesh)


@pytest.fixture
def without_torch(monkeypatch):
  """For what is not about the check in PyTorch, which takes its time."""
  from time_jax.hf import torch_encoder

  monkeypatch.setattr(torch_encoder, "installed", lambda: False)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> pathlib.Path:
  """A folder with `teacher/` (2 layers, random, own tokenizer) and text."""
  from tiny_tokenizers import write_tokenizer

  from time_jax.hf import save
  from time_jax.models import bert
  from time_jax.models.family import init_params

  folder = tmp_path_factory.mktemp("tiny")
  teacher = folder / "teacher"
  teacher.mkdir()
  random = np.random.default_rng(0)
  words = ["".join(random.choice(list("abcdefgh"), 4)) for _ in range(150)]
  vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
  write_tokenizer(teacher, list(dict.fromkeys(vocabulary)))
  config = bert.BertConfig(
    vocab_size=len(dict.fromkeys(vocabulary)),
    hidden_size=32,
    num_layers=3,
    num_heads=4,
    intermediate_size=64,
    max_positions=64,
    initializer_range=0.3,
  )
  encoder = bert.Encoder(config, 3)
  boxed = jax.jit(lambda: init_params(encoder, jax.random.key(1)))()
  params = flax.linen.meta.unbox(boxed)
  save.save_bert(teacher, config, params, {"pad_token_id": 0})

  def text(count):
    lengths = random.integers(3, 60, size=count)
    return [" ".join(random.choice(words, n)) for n in lengths]

  lines = [json.dumps({"text": t}) for t in text(400)]
  (folder / "train.jsonl").write_text("\n".join(lines))
  (folder / "validation.txt").write_text("\n\n".join(text(20)))
  return folder
