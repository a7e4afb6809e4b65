"""Checkpoints and the start of a run, ranked by a criterion of the caller's."""

import json
import shutil

import alone
import pytest
import running
import safetensors.numpy

from time_jax.checkpoint import layout
from time_jax.cli import main
from time_jax.core import notes
from time_jax.core.errors import EXIT_BAD_INPUT, UserError
from time_jax.hf import load
from time_jax.release import provenance
from time_jax.run import choose, saved_student, start

RECORD = {"dev": {"path": "dev.conllu", "sha256": "0f"}}
CRITERION = choose.Criterion(
  name="probe",
  field="mean",
  told="probe score (mean of UPOS on dev.conllu)",
  record=RECORD,
  higher_is_better=True,
  form=".2f",
)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("finished")
  flags = (
    "--config.train.num_steps=20",
    "--config.checkpoint.every=10",
    "--config.checkpoint.keep_every=10",
    "--config.eval.every=20",
  )
  alone.run(*running.command(tiny, workdir, *flags))
  return workdir


@pytest.fixture
def run(finished, tmp_path):
  notes.note.cache_clear()
  return shutil.copytree(finished, tmp_path / "run")


def scorer(scores):
  """Scores by step, those of the start by None; and what was asked for."""
  asked = []

  def score(model, step):
    asked.append((model, step))
    return {"UPOS": scores[step], "mean": scores[step]}

  return score, asked


def choose_by(run, scores):
  score, asked = scorer(scores)
  assert choose.choose_by(run, CRITERION, score) == 0
  return json.loads((run / "choice.json").read_text()), asked


def ranking(text):
  rows = [line.split() for line in text.splitlines()]
  return [row[1] for row in rows if row and row[0].isdecimal()]


def test_the_highest_is_chosen_and_the_start_is_ranked_with_them(run, capsys):
  choice, asked = choose_by(run, {10: 71.5, 20: 70.25, None: 60.0})
  begun = run / "start"
  assert asked == [(str(run), 10), (str(run), 20), (str(begun), None)]
  assert choice == {
    "step": 10,
    "by": "probe",
    "reason": "the highest probe score (mean of UPOS on dev.conllu)",
    "mean": 71.5,
    **RECORD,
    "candidates": {
      "10": {"UPOS": 71.5, "mean": 71.5},
      "20": {"UPOS": 70.25, "mean": 70.25},
    },
    "start": {"UPOS": 60.0, "mean": 60.0},
  }
  output = capsys.readouterr()
  assert ranking(output.out) == ["10", "20", "start"]
  assert " 71.50 " in output.out
  assert (
    "Chosen: step 10 by the highest probe score (mean of UPOS on dev.conllu), "
    f"written to {run}/choice.json." in output.out
  )
  assert "note" not in output.err
  assert load.read_config(begun)[1].num_layers == 2
  assert saved_student.read_student(run).step == 10
  student = saved_student.read_student(run)
  facts = provenance.collect(run, student)
  assert facts["chosen"] == f"the kept checkpoint with {choice['reason']}"


def test_a_start_that_is_better_is_told(run, capsys):
  choice, _ = choose_by(run, {10: 71.0, 20: 72.0, None: 72.5})
  output = capsys.readouterr()
  assert choice["step"] == 20  # A start is no checkpoint.
  assert ranking(output.out) == ["start", "20", "10"]
  assert "no checkpoint scores as well as the student's start, so" in output.err
  assert f"use {run / 'start'}." in output.err


def test_of_equals_the_later_step_wins_and_the_start_last(run, capsys):
  choice, _ = choose_by(run, {10: 72.0, 20: 72.0, None: 72.0})
  output = capsys.readouterr()
  assert choice["step"] == 20
  assert ranking(output.out) == ["20", "10", "start"]
  assert "as well as" not in output.err


def test_a_start_that_cannot_be_made_again_is_left_out(run, capsys):
  config = json.loads((run / "config.json").read_text())
  config["student"]["init_from"] = str(run / "nowhere")
  (run / "config.json").write_text(json.dumps(config))
  choice, asked = choose_by(run, {10: 71.0, 20: 72.0})
  assert choice["step"] == 20 and "start" not in choice
  assert len(asked) == 2
  assert "the student's start is not scored: " in capsys.readouterr().err


def test_a_narrower_start_stays_as_it_was_before_the_run(
  run, capsys, monkeypatch
):
  """It was made of rows that may have changed since; a copy is made again."""
  choose_by(run, {10: 71.0, 20: 72.0, None: 60.0})
  mark = run / "start" / "mark"
  mark.touch()
  monkeypatch.setattr(start, "_wider_teacher", lambda *of: (run, [1, 2]))
  choice, _ = choose_by(run, {10: 71.0, 20: 72.0, None: 60.0})
  assert mark.exists() and choice["start"]["mean"] == 60
  monkeypatch.setattr(start, "_wider_teacher", lambda *of: None)
  choose_by(run, {10: 71.0, 20: 72.0, None: 60.0})
  assert not mark.exists()
  assert "note" not in capsys.readouterr().err


def test_checkpoints_that_vanish_meanwhile(run, capsys):
  def score(model, step):
    del model
    if step == 20:
      shutil.rmtree(layout.folder(run) / "10")
    return {"mean": {10: 80.0, 20: 70.0, None: 60.0}[step]}

  assert choose.choose_by(run, CRITERION, score) == 0
  assert json.loads((run / "choice.json").read_text())["step"] == 20
  assert "left out: step 10" in capsys.readouterr().err


def test_without_checkpoints_there_is_nothing_to_choose(run):
  score, asked = scorer({})
  for folder in layout.step_folders(run):
    shutil.rmtree(folder)
  with pytest.raises(UserError, match="no finished checkpoint"):
    choose.choose_by(run, CRITERION, score)
  assert not asked and not (run / "choice.json").exists()


def test_a_choice_of_an_earlier_version_was_by_relation_loss(run):
  (run / "choice.json").write_text('{"step": 20, "relation_loss": 0.5}')
  reason = choose.read_reason(run)
  assert reason == "the lowest relation loss on held-out text"


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--by=probe"], "--by=probe needs a treebank"),
    (["--by=probe", "--dev=d"], "--by=probe needs a treebank"),
    (["--train=t", "--dev=d"], "--train and --dev are for --by=probe"),
    (["--by=teacher", "--dev=d"], "--train and --dev are for --by=probe"),
    (["--by=las"], "--by"),
    (["--by=probe", "--train=t", "--dev=d"], "no file at t"),
  ],
)
def test_flags_that_do_not_fit(capsys, tmp_path, flags, words):
  code = main.main(["choose", f"--workdir={tmp_path}", *flags])
  assert code == EXIT_BAD_INPUT
  assert words in capsys.readouterr().err


@pytest.mark.parametrize("by", ["loss", "teacher"])
def test_another_teacher_is_refused(run, tiny, capsys, tmp_path, by):
  other = shutil.copytree(tiny / "teacher", tmp_path / "teacher")
  path = other / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  name = "embeddings.LayerNorm.bias"
  tensors[name] = tensors[name] + 1
  safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
  config = json.loads((run / "config.json").read_text())
  config["teacher"]["path"] = str(other)
  (run / "config.json").write_text(json.dumps(config))
  code = main.main(["choose", f"--workdir={run}", f"--by={by}"])
  (line,) = capsys.readouterr().err.splitlines()[-1:]
  assert code == EXIT_BAD_INPUT and not (run / "choice.json").exists()
  assert "teacher weights (SHA-256) was" in line
  assert "put back the files that it was trained with" in line
