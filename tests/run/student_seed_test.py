"""A student's own seed: of its weights and dropout, and of nothing else."""

import json

import alone
import pytest
import running
import tiny_recipe

from time_jax.release import provenance
from time_jax.run import assembly

FLAGS = (
  "--config.train.num_steps=2",
  "--config.train.warmup_steps=1",
  "--config.data.validation=()",
  "--config.student.num_layers=1",
  "--config.student.dropout=0.1",
)


@pytest.mark.parametrize(("own", "seed"), [(-1, 21), (0, 0), (5, 5)])
def test_which_seed_counts(tiny, own, seed):
  config = tiny_recipe.get_config(tiny)
  config.student.seed = own
  assert assembly.step_settings(config).seed == seed
  assert not hasattr(assembly.student_config(config, 64), "seed")
  run = json.loads(config.to_json())
  assert provenance.of_config(run, {})["seed"] == seed
  del run["student"]["seed"]  # A run of before.
  assert provenance.of_config(run, {})["seed"] == 21


def test_it_is_of_weights_and_dropout_but_not_of_the_text(tiny, tmp_path):
  text = f"--config.data.folder={tmp_path / 'data'}"
  for name, flags in (("run", ()), ("own", ["--config.student.seed=5"])):
    words = running.command(tiny, tmp_path / name, *FLAGS, text)
    alone.run(*words, *flags)
  first, other = (running.losses(tmp_path / name) for name in ("run", "own"))
  assert first.keys() == other.keys() == {1, 2}
  for step, (loss, checksum) in other.items():
    assert checksum == first[step][1] and loss != first[step][0]
