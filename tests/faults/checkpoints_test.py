"""Checkpoints that are damaged, and disks that are full."""

import shutil

import pytest
import spoiling
import tiny_ner

from time_jax.cli import main

WAYS = ["truncate", "flip", "half_delete", "empty", "delete_metadata"]


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_newest_checkpoint(
  undisturbed, recovered, note, tmp_path, way
):
  run = tmp_path / "run"
  shutil.copytree(undisturbed(), run)
  spoiling.WAYS[way](run / "checkpoints" / "40")
  # As if it had been killed right then.
  rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
  (run / "metrics.jsonl").write_text("".join(rows[:-4]))
  seconds, output = recovered()
  assert "time_jax: the checkpoint of step 40 is damaged: " in output
  assert f"moved to {run}/damaged/40; the run continues after step" in output
  assert "continuing after step 30" in output
  note(f"newest checkpoint: {way}", "went on from 30, exact", 0, seconds)


def test_a_damaged_checkpoint_of_several_processes(
  undisturbed, recovered, command, note, tmp_path
):
  """All agree on what process 0 found, also where there are no checksums."""
  run = tmp_path / "run"
  shutil.copytree(undisturbed(2), run)
  spoiling.flip(run / "checkpoints" / "40")
  (run / "checkpoints" / "30" / "sha256.json").unlink()
  seconds, output = recovered(2)
  assert output.count("is damaged: ") == 1
  assert "continuing after step 30" in output
  note("newest checkpoint of 2 processes: flip", "exact", 0, seconds)


@pytest.mark.parametrize("way", WAYS)
def test_commands_that_read_it(undisturbed, capsys, tmp_path, way, one_process):
  run = tmp_path / "run"
  shutil.copytree(undisturbed(), run)
  shutil.rmtree(run / "checkpoints" / "30")
  spoiling.WAYS[way](folder := run / "checkpoints" / "40")
  before = {p: p.stat().st_size for p in run.rglob("checkpoints/**/*")}
  finetune = tiny_ner.command(run, tmp_path / "tuned")
  commands = [[name, f"--workdir={run}"] for name in ("export", "choose")]
  for command in (*commands, finetune):
    assert main.main(command) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"time_jax: error: the checkpoint {folder} cannot")
    assert "Move that folder away to go back to the one before." in line
  assert main.main(["status", str(run)]) == 0
  text = capsys.readouterr().out
  if way != "flip":  # It compares sizes only.
    assert "the newest of step 40, which is damaged: " in text
  after = {p: p.stat().st_size for p in run.rglob("checkpoints/**/*")}
  assert after == before
