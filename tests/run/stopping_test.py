"""Told to stop anywhere: nothing is lost, and no evaluation is left out."""

import pytest
import running
import tiny_ner

from time_jax.cli import main
from time_jax.parallel import processes, watchdog
from time_jax.telemetry import history

FLAGS = (
  "--config.checkpoint.every=2",
  "--config.eval.every=2",
  "--config.train.num_steps=6",
  "--config.train.warmup_steps=1",
)


@pytest.fixture
def distill(monkeypatch, tiny, one_process):
  """Runs; the so-manyeth question whether to stop is answered with yes.

  It returns the exit code, and how many questions there were.
  """

  def run(workdir, *flags, yes=0):
    questions = []

    def preempted():
      questions.append(1)
      return len(questions) == yes

    monkeypatch.setattr(processes, "preempted", preempted)
    words = running.command(tiny, workdir, *FLAGS, *flags)
    return main.main(words), len(questions)

  return run


def evaluations(workdir):
  return dict(history.curve(history.read_metrics(workdir), history.METRIC))


def test_told_to_stop(distill, tmp_path, capsys, monkeypatch):
  whole, beats = tmp_path / "whole", []
  monkeypatch.setattr(watchdog.Watchdog, "beat", lambda self: beats.append(1))
  code, total = distill(whole)
  assert code == 0 and set(evaluations(whole)) == {0, 2, 4, 6}
  # Four evaluations of some batches each, and six steps.
  batches, rest = divmod(total - 6, 4)
  assert batches > 1 and rest == 0
  assert len(beats) == total + 1  # The watchdog hears of every batch.
  for place, number, step in (
    ("in an evaluation", batches + 3, 2),
    ("in the last evaluation", total, 6),
  ):
    run = tmp_path / place
    code, _ = distill(run, yes=number)
    assert code == 42, place
    told = f"Stopped by a signal after step {step}; everything is saved."
    assert told in capsys.readouterr().err, place
    assert step not in evaluations(run), place
    assert distill(run)[0] == 0
    assert evaluations(run) == pytest.approx(evaluations(whole)), place
    running.assert_same_state(running.saved(run, 6), running.saved(whole, 6))
  assert distill(run) == (0, 0)  # Nothing is left to do, or to evaluate.


def test_finetuning_told_to_stop(monkeypatch, tmp_path, capsys, one_process):
  pytest.importorskip("seqeval")
  model = tiny_ner.write_encoder(tmp_path / "encoder")

  def tune(workdir, yes=0):
    questions = []

    def preempted():
      questions.append(1)
      return len(questions) == yes

    monkeypatch.setattr(processes, "preempted", preempted)
    code = main.main(
      tiny_ner.command(model, workdir, "--config.train.epochs=2")
    )
    return code, len(questions)

  whole = tmp_path / "whole"
  code, total = tune(whole)
  assert code == 0 and total % 2 == 0
  seed = "seed-101"
  per_epoch = history.read_metrics(whole / seed)[-1]["step"] // 2
  assert total // 2 > per_epoch  # It asks in evaluations, too.
  expected = running.scores(whole / seed)
  for name, number, step in (
    ("last step", per_epoch, per_epoch),
    ("evaluation", total // 2, per_epoch),
    ("last evaluation", total, 2 * per_epoch),
  ):
    run = tmp_path / name
    assert tune(run, number) == (42, number)
    told = f"Stopped by a signal after step {step}; everything is saved."
    assert told in capsys.readouterr().err, name
    assert tune(run)[0] == 0
    assert running.scores(run / seed) == expected
    for file in ("dev.iob2", "model/heads.safetensors"):
      found = (run / seed / file).read_bytes()
      assert found == (whole / seed / file).read_bytes(), name


def test_moved_to_other_meshes(distill, tmp_path):
  """Amid an epoch; of eight devices in one process."""
  flags = "--config.data.validation=()", "--config.train.peak_lr=1e-3"
  whole, run = tmp_path / "whole", tmp_path / "run"
  assert distill(whole, *flags)[0] == 0
  for sizes, yes in ((4, 2), 3), ((1, 4), 0):
    mesh = [
      f"--config.mesh.{axis}={size}"
      for axis, size in zip(("fsdp", "tensor"), sizes, strict=True)
    ]
    assert distill(run, *flags, *mesh, yes=yes)[0] == (42 if yes else 0)
  found, expected = running.losses(run), running.losses(whole)
  assert found.keys() == expected.keys() == set(range(1, 7))
  for step, (loss, checksum) in expected.items():
    assert found[step][1] == checksum
    assert found[step][0] == pytest.approx(loss, abs=1e-5)
