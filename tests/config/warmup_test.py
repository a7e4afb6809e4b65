"""A warm-up as long as the run: refused where typed, else shortened."""

import json

import pytest
from tiny_recipe import get_config

from time_jax.config import finetune, warmup
from time_jax.core.errors import UserError
from time_jax.evals.common import finetuning


def test_a_warmup_that_fits_stays(capsys):
  assert warmup.fitting(11, 12, typed=["train.warmup_steps"]) == 11
  assert warmup.fitting(0, 1) == 0
  assert not capsys.readouterr().err


def test_one_that_was_typed_is_refused():
  for steps in (12, 999):
    with pytest.raises(UserError) as caught:
      warmup.fitting(steps, 12, typed=["train.warmup_steps"])
    assert str(caught.value) == (
      f"train.warmup_steps={steps} is not shorter than the run, which has 12 "
      "steps; expected fewer, such as --config.train.warmup_steps=1."
    )


def test_that_of_one_of_several_students_is_named(tmp_path, capsys):
  train = get_config("nowhere").train
  train.num_steps, train.warmup_steps = 12, 99
  with pytest.raises(UserError) as caught:
    warmup.fit(train, tmp_path, ["train.warmup_steps"], "students.xs.")
  assert str(caught.value) == (
    "students.xs.train.warmup_steps=99 is not shorter than the run, which has "
    "12 steps; expected fewer, such as "
    "--config.students.xs.train.warmup_steps=1."
  )
  warmup.fit(train, tmp_path, (), "students.xs.")
  told = capsys.readouterr().err
  assert "students.xs.train.warmup_steps=99 of the recipe is" in told
  assert train.warmup_steps == 1


def test_one_of_the_recipe_is_shortened(capsys):
  assert warmup.fitting(4000, 100, typed=["train.num_steps"]) == 10
  assert capsys.readouterr().err == (
    "time_jax: note: train.warmup_steps=4000 of the recipe is shortened to 10, "
    "a tenth of the 100 steps of this run.\n"
  )


@pytest.mark.parametrize("within", ["", "run"])
def test_a_run_that_began_with_it_goes_on(tmp_path, within):
  content = {"train": {"num_steps": 4, "warmup_steps": 5, "b1": 0.9}}
  path, nothing = tmp_path / "record.json", tmp_path / "nothing.json"
  asked = {"num_steps": 4, "warmup_steps": 5}
  assert not warmup.is_recorded([nothing, path], asked)
  path.write_text(json.dumps({within: content} if within else content))
  assert warmup.is_recorded([nothing, path], asked)
  assert not warmup.is_recorded([path], asked | {"num_steps": 5})
  for damaged in ("{", "3", json.dumps({"train": 3})):
    path.write_text(damaged)
    assert not warmup.is_recorded([path], asked)


def test_a_run_of_an_earlier_version_keeps_its_schedule(tmp_path, capsys):
  config = get_config("nowhere")
  config.train.num_steps = 4
  (tmp_path / "config.json").write_text(config.to_json())
  warmup.fit(config.train, tmp_path, ["train.warmup_steps"])
  assert config.train.warmup_steps == 5 and not capsys.readouterr().err
  warmup.fit(config.train, tmp_path / "other", ["train.num_steps"])
  assert config.train.warmup_steps == 0


@pytest.mark.parametrize("kept_in", ["scores.json", "checkpoints/8/metadata"])
def test_finetuning_that_began_with_it_goes_on(tmp_path, kept_in):
  config = finetune.ud_config()
  config.seeds, config.train.epochs = (0, 1), 2
  folder = tmp_path / "seed-1" / kept_in
  path = folder / "metadata" if "checkpoints" in kept_in else folder
  path.parent.mkdir(parents=True)
  assert not finetuning._is_begun(config, tmp_path)
  path.write_text(json.dumps({"run": config.to_dict()}))
  assert finetuning._is_begun(config, tmp_path)
  config.train.epochs = 3
  assert not finetuning._is_begun(config, tmp_path)
