"""Told to stop anywhere: nothing is lost, and no evaluation is left out."""

import meshes
import pytest
import running
import tiny_ner
import tree_names

from time_jax.cli import main
from time_jax.parallel import processes, sharding, watchdog
from time_jax.telemetry import history

FLAGS = (
  "--config.checkpoint.every=2",
  "--config.eval.every=2",
  "--config.train.num_steps=4",
  "--config.train.warmup_steps=1",
  # Low enough that what rounding differs by between meshes does not grow.
  "--config.train.peak_lr=1e-3",
  "--config.student.num_layers=1",
)


@pytest.fixture
def distill(monkeypatch, tiny, one_process):
  """Runs; the so-manyeth question whether to stop is answered with yes.

  It returns the exit code, and how many questions there were. A run has as many
  devices as its mesh needs.
  """
  monkeypatch.setattr(
    sharding,
    "make_mesh",
    lambda fsdp, tensor, **_: meshes.make_mesh(1, fsdp, tensor),
  )

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
  assert code == 0 and set(evaluations(whole)) == {0, 2, 4}
  # Three evaluations of some batches each, and four steps.
  batches, rest = divmod(total - 4, 3)
  assert batches > 1 and rest == 0
  assert len(beats) == total + 1  # The watchdog hears of every batch.
  for place, number, step, mesh in (
    ("in an evaluation", batches + 3, 2, ("--config.mesh.fsdp=4",)),
    ("in the last evaluation", total, 4, ()),
  ):
    run = tmp_path / place
    code, _ = distill(run, *mesh, yes=number)
    assert code == 42, place
    told = f"Stopped by a signal after step {step}; everything is saved."
    assert told in capsys.readouterr().err, place
    assert step not in evaluations(run), place
    assert distill(run)[0] == 0  # On one device.
    assert evaluations(run) == pytest.approx(evaluations(whole), 1e-5), place
    found, expected = running.losses(run), running.losses(whole)
    assert found.keys() == expected.keys() == set(range(1, 5))
    for i, (loss, checksum) in expected.items():
      assert found[i] == (pytest.approx(loss, abs=1e-5), checksum)
  running.assert_same_state(running.saved(run, 4), running.saved(whole, 4))
  assert distill(run) == (0, 0)  # Nothing is left to do, or to evaluate.


@pytest.mark.usefixtures("one_process", "one_device")
def test_finetuning_told_to_stop(monkeypatch, tmp_path, capsys):
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
  (*_, last) = (whole / seed / "checkpoints").glob("[0-9]*")
  assert tree_names.saved_names(last) == {
    "params": tree_names.MODEL,
    "averaged": tree_names.MODEL,
    "rest": tree_names.OPTIMIZER | {"step"},
  }
  per_epoch = history.read_metrics(whole / seed)[-1]["step"] // 2
  assert total // 2 > per_epoch  # It asks in evaluations, too.
  expected = running.scores(whole / seed)
  run, number = tmp_path / "in an evaluation", total // 2
  assert tune(run, number) == (42, number)
  told = f"Stopped by a signal after step {per_epoch}; everything is saved."
  assert told in capsys.readouterr().err
  assert tune(run)[0] == 0
  assert running.scores(run / seed) == expected
  for file in ("dev.iob2", "model/model.safetensors"):
    found = (run / seed / file).read_bytes()
    assert found == (whole / seed / file).read_bytes()
