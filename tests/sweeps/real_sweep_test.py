"""A sweep of two points whose stages really run."""

import json
import shutil

import pytest
import running
import tiny_ud

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.cli import main
from time_jax.sweeps import grid
from time_jax.sweeps.sweep import sweep_command

REAL = """
from time_jax.sweeps.grid import Sweep

def stages(folder, tokens):
  run = f"{{folder}}/student"
  return [
    ["bench", "inference", "--models=student=random:2x16x2", "--engines=jax",
     "--text={tiny}/validation.txt", "--tokenizer={tiny}/teacher",
     "--batch_sizes=1", "--batches=2", "--repeats=1",
     f"--json={{folder}}/speed.json"],
    ["distill", "--config={root}/tests/support/tiny_recipe.py:{tiny}",
     f"--config.data.max_tokens={{tokens}}", f"--workdir={{run}}",
     "--config.train.num_steps=30"],
    ["choose", f"--workdir={{run}}"],
    [*{finetune}, f"--config.model={{run}}", f"--workdir={{folder}}/ud"],
  ]

def get_sweep():
  return Sweep({{"tokens": (5000, 9000)}}, stages, x="tokens")
"""


@pytest.mark.slow
def test_a_real_grid(tiny, tmp_path):
  words = tiny_ud.command(
    "later",
    "later",
    "--config.train.epochs=1",
    "--config.train.warmup_steps=2",  # of 5
    f"--config.data.test={tiny_ud.UD}/ga-dev.conllu.gz",
  )
  kept = [word for word in words if not word.startswith("--workdir")]
  text = REAL.format(tiny=tiny, root=running.ROOT, finetune=kept)
  (tmp_path / "sweep.py").write_text(text)
  command = ["sweep", f"{tmp_path}/sweep.py", f"--workdir={tmp_path}/run"]
  code, output = running.run(command)
  assert code == 0, output
  lines = output.splitlines()
  for asked in (5000, 9000):
    place = tmp_path / "run" / f"tokens={asked}"
    manifest = json.loads((place / "student/data/manifest.json").read_text())
    tokens = manifest["splits"]["train"]["tokens"]
    assert 0.9 * asked < tokens < 1.1 * asked
    steps = (place / "student" / "metrics.jsonl").read_text().splitlines()
    read = sum(json.loads(line).get("data/tokens", 0) for line in steps)
    # The first point reads all of its text, the second not.
    assert (read > tokens) == (asked == 5000)
    tokens = min(tokens, round(read))
    scores = json.loads((place / "ud" / "scores.json").read_text())["scores"]
    upos = scores["test"]["UPOS"]["mean"]
    speed = json.loads((place / "speed.json").read_text())["rows"][0]
    (line,) = (x for x in lines if f"| tokens={asked} |" in x)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == f"{upos:.2f}"
    assert cells[10] == f"{1000 * speed['latency_s']['p50']:.2f}"
    assert cells[-2:] == [f"{tokens:,}", "done"]
  assert (tmp_path / "run" / "sweep.png").stat().st_size > 1000
  code, again = running.run(command)
  assert code == 0 and "8 of 8 stages done before" in again
  assert again.splitlines()[1:] == lines[9:]


def test_two_points_are_one_run(tiny, tmp_path, monkeypatch, capsys):
  """Each has its student where it would be alone, and is kept from there."""

  def stages(folder, layers):
    flags = (
      f"--config.student.num_layers={layers}",
      "--config.data.validation=()",
      "--config.train.num_steps=4",
      "--config.train.warmup_steps=2",
    )
    return [running.command(tiny, folder / "student", *flags)]

  made = grid.Sweep({"layers": (1, 2)}, stages, x="layers")
  monkeypatch.setattr(grid, "load", lambda _: made)
  for name, value in running.environment().items():
    monkeypatch.setenv(name, value)
  run, kept = tmp_path / "run", tmp_path / "kept"

  def sweep():
    return sweep_command("x", run, main.COMMANDS, results=kept)

  assert sweep() == 0
  head = "joint-1: distill of 2 points in one run (layers=1, layers=2)"
  assert head in capsys.readouterr().out
  for layers in (1, 2):
    student = run / f"layers={layers}" / "student"
    config = json.loads((student / "config.json").read_text())
    assert config["student"]["num_layers"] == layers
    assert running.last_step(student) == 4
    with CheckpointReader(student) as checkpoints:
      assert checkpoints.steps() == [4]
    left = kept / f"layers={layers}"
    assert running.losses(left / "student") == running.losses(student)
    (tokens,) = json.loads((left / "tokens.json").read_text()).values()
    assert tokens > 0
  table = (run / "sweep.csv").read_text()
  shutil.rmtree(run)
  assert sweep() == 0
  output = capsys.readouterr().out
  assert "2 of 2 stages done before" in output
  assert f"From {kept}: layers=1, layers=2" in output
  assert (run / "sweep.csv").read_text() == table


SHAPES = """
from time_jax.sweeps.grid import Sweep

def stages(folder, layers):
  run = f"{{folder}}/student"
  return [
    ["distill", "--config={root}/tests/support/tiny_recipe.py:{tiny}",
     f"--config.student.num_layers={{layers}}", f"--workdir={{run}}",
     "--config.train.num_steps=10", "--config.eval.every=5"],
    ["choose", f"--workdir={{run}}"],
  ]

def get_sweep():
  return Sweep({{"layers": (1, 2, 3)}}, stages, x="layers")
"""


@pytest.mark.slow
def test_shapes_of_one_run(tiny, tmp_path):
  """Each has its student where it would be alone, wherever the sweep lies."""
  text = SHAPES.format(tiny=tiny, root=running.ROOT)
  (tmp_path / "sweep.py").write_text(text)
  command = ["sweep", f"{tmp_path}/sweep.py", f"--workdir={tmp_path}/run"]
  code, output = running.run(command)
  assert code == 0, output
  head = (
    "joint-1: distill of 3 points in one run (layers=1, layers=2, layers=3)"
  )
  assert head in output
  (tmp_path / "run").rename(tmp_path / "moved")
  command[-1] = f"--workdir={tmp_path}/moved"
  code, output = running.run(command)
  assert code == 0 and "6 of 6 stages done before" in output, output
  for layers in (1, 2, 3):
    student = tmp_path / "moved" / f"layers={layers}" / "student"
    config = json.loads((student / "config.json").read_text())
    assert config["student"]["num_layers"] == layers
    choice = json.loads((student / "choice.json").read_text())
    assert choice["step"] in (5, 10)
    assert running.last_step(student) == 10
    (line,) = (x for x in output.splitlines() if f"| layers={layers} |" in x)
    tokens, state = (cell.strip() for cell in line.strip("|").split("|")[-2:])
    assert int(tokens.replace(",", "")) > 1000 and state == "done"
