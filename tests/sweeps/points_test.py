"""The commands of points are checked before any of them runs."""

import pytest
import running

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.sweeps import grid
from time_jax.sweeps.points import make_points
from time_jax.sweeps.sweep import sweep_command


def test_a_typed_warmup_of_a_point_that_is_begun(tiny, tmp_path):
  """A run of an earlier version, which did not refuse it, is let go on."""

  def stages(folder, steps):
    recipe = f"--config={running.ROOT}/tests/support/tiny_recipe.py:{tiny}"
    warm = "--config.train.num_steps=4", f"--config.train.warmup_steps={steps}"
    return [["distill", recipe, *warm, f"--workdir={folder}/student"]]

  sweep = grid.Sweep({"steps": (5,)}, stages, x="steps")
  with pytest.raises(UserError, match="warmup_steps=5 is not shorter than"):
    make_points(sweep, tmp_path, main.COMMANDS)
  record = tmp_path / "steps=5" / "student" / "config.json"
  record.parent.mkdir(parents=True)
  record.write_text('{"train": {"num_steps": 4, "warmup_steps": 5}}')
  (point,) = make_points(sweep, tmp_path, main.COMMANDS)
  assert point.stages[0].values.config.train.warmup_steps == 5


@pytest.mark.parametrize(
  ("field", "message"),
  [
    ("seed=8", "a=1 and 1 more: --config.seed is set by the sweep itself; "),
    ("train.num_stps=3", "unknown config field 'train.num_stps'"),
    ("train.peak_lr=-1", "2 of 2 points cannot be run, so none was."),
    ("train.peak_lr=many", "--config.train.peak_lr=many: expected a number"),
  ],
)
def test_fields_that_cannot_be(tiny, tmp_path, field, message):
  def stages(folder, a):
    recipe = f"--config={running.ROOT}/tests/support/tiny_recipe.py:{tiny}"
    return [["distill", recipe, f"--config.seed={a}", f"--workdir={folder}"]]

  found = grid.Sweep({"a": (1, 2)}, stages, x="a")
  assert len(make_points(found, tmp_path, main.COMMANDS)) == 2
  with pytest.raises(UserError) as caught:
    found = grid.with_fields(found, [f"--config.{field}"])
    make_points(found, tmp_path, main.COMMANDS)
  assert message in str(caught.value)


def test_fields_that_no_stage_takes(tmp_path):
  file = tmp_path / "scored.py"
  file.write_text(
    "from time_jax.sweeps.grid import Sweep\n"
    "def get_sweep():\n"
    "  return Sweep({'a': (1,)}, lambda folder, a: "
    "[['choose', f'--workdir={folder}']])\n"
  )
  with pytest.raises(UserError, match="takes --config.seed=1; expected one"):
    fields = ["--config.seed=1"]
    sweep_command(str(file), tmp_path / "run", main.COMMANDS, fields)
  assert not (tmp_path / "run").exists()
