"""A student of every family's golden checkpoint: distil, resume, export."""

import json
import shutil

import numpy as np
import pytest
import running
import tiny_tokenizers
import transformers

from time_jax.cli import main
from time_jax.models.registry import FAMILIES

# Golden checkpoint -> its kind of tokenizer and what it puts around a text.
TEACHERS = {
  "xlm_roberta": ("unigram", ("[CLS]", "[SEP]")),
  "electra": ("wordpiece", ("[CLS]", "[SEP]")),
  "deberta_v3": ("unigram", ("[CLS]", "[SEP]")),
  "ltgbert": ("wordpiece", ("[CLS]", "[SEP]")),
  "t5_encoder": ("unigram", ("", "[SEP]")),
  "mt5_encoder": ("unigram", ("", "[SEP]")),
  "modernbert": ("byte_bpe", ("[CLS]", "[SEP]")),
  "eurobert": ("byte_bpe", ("[CLS]", "")),
}


# Unlike the rest; the others differ in what parity_test covers.
QUICK = ("ltgbert",)


pytestmark = pytest.mark.usefixtures("one_process", "one_device")


def teacher(folder, golden, name):
  """A golden checkpoint with a tokenizer of its 128 ids."""
  kind, ends = TEACHERS[name]
  shutil.copytree(golden / name, folder)
  texts = tiny_tokenizers.documents("en")
  tiny_tokenizers.save(tiny_tokenizers.KINDS[kind](texts, 128), folder, ends)
  return folder


def distil(workdir, teacher_folder):
  text = tiny_tokenizers.TEXT / "en.jsonl.gz"
  return main.main(
    [
      "distill",
      f"--config={running.ROOT}/tests/support/tiny_recipe.py:{teacher_folder.parent}",
      f"--workdir={workdir}",
      f"--config.teacher.path={teacher_folder}",
      "--config.teacher.layer=3",
      f"--config.data.train=('{text}',)",
      "--config.data.validation=()",
      "--config.train.num_steps=20",
      "--config.train.global_batch_size=16",
      "--config.train.peak_lr=2e-2",
    ]
  )


def test_every_family_is_here(golden):
  configs = [
    json.loads((golden / name / "config.json").read_text()) for name in TEACHERS
  ]
  families = {id(FAMILIES[c.get("model_type", "ltgbert")]) for c in configs}
  assert families == {id(family) for family in FAMILIES.values()}


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in TEACHERS
  ],
)
def test_distil_resume_export(golden, tmp_path, name):
  folder = teacher(tmp_path / "teacher", golden, name)

  whole, resumed = tmp_path / "whole", tmp_path / "resumed"
  assert distil(whole, folder) == 0
  losses = [loss for loss, _ in running.losses(whole).values()]
  assert len(losses) == 20
  assert np.mean(losses[-5:]) < 0.92 * np.mean(losses[:5])

  # As if the run had been killed behind its first checkpoint.
  shutil.copytree(whole, resumed)
  shutil.rmtree(resumed / "checkpoints" / "20")
  assert distil(resumed, folder) == 0
  running.assert_same_state(
    running.saved(whole, 20), running.saved(resumed, 20)
  )
  assert running.losses(resumed) == running.losses(whole)

  assert main.main(["export", f"--workdir={resumed}"]) == 0
  model, report = transformers.AutoModel.from_pretrained(
    resumed / "export", output_loading_info=True, local_files_only=True
  )
  assert not any(report.values()), report
  rows = json.loads((folder / "config.json").read_text())["vocab_size"]
  assert model.config.vocab_size == rows
