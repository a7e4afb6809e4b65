"""A student's own seed: of its weights and dropout, and of nothing else."""

import json

import alone
import pytest
import running
import tiny_recipe

from time_jax.cli import main
from time_jax.release import provenance
from time_jax.run import assembly

FLAGS = (
  "--config.train.num_steps=2",
  "--config.train.warmup_steps=1",
  "--config.data.validation=()",
)


@pytest.mark.parametrize(("own", "seed"), [(-1, 21), (0, 0), (5, 5)])
def test_which_seed_counts(tiny, own, seed):
  config = tiny_recipe.get_config(tiny)
  config.student.seed = own
  assert assembly.step_settings(config).seed == seed
  assert not hasattr(assembly.student_config(config, 64), "seed")
  run = json.loads(config.to_json())
  assert provenance._of_config(run, {})["seed"] == seed
  del run["student"]["seed"]  # A run of before.
  assert provenance._of_config(run, {})["seed"] == 21


@pytest.fixture(scope="module")
def of_the_run(tiny, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("of_the_run")
  alone.run(*running.command(tiny, workdir, *FLAGS))
  return workdir


@pytest.mark.usefixtures("one_process", "one_device")
def test_it_is_of_weights_and_dropout_but_not_of_the_text(
  tiny, of_the_run, tmp_path
):
  text = f"--config.data.folder={of_the_run / 'data'}"
  for seed in (21, 5):
    words = running.command(tiny, tmp_path / str(seed), *FLAGS, text)
    assert main.main([*words, f"--config.student.seed={seed}"]) == 0
  first, same, other = (
    running.losses(folder)
    for folder in (of_the_run, tmp_path / "21", tmp_path / "5")
  )
  assert first == same and first.keys() == other.keys() == {1, 2}
  running.assert_same_state(
    running.saved(of_the_run, 2), running.saved(tmp_path / "21", 2)
  )
  for step, (loss, checksum) in other.items():
    assert checksum == first[step][1] and loss != first[step][0]
