"""A teacher that is asked once: runs with a cache are the runs without one."""

import functools
import json
import os
import re

import alone
import pytest
import running

from time_jax.cli import main
from time_jax.config.distill import check_config, default_config
from time_jax.core.errors import UserError
from time_jax.data.projection_store import ProjectionStore
from time_jax.parallel import host_collectives
from time_jax.run import teacher_cache

STEPS = 24  # of 8 rows, which is several passes over the text
SIZE = 32 * 3 * 32 * 4 + 8  # bytes of a record: 32 tokens, 32 wide


pytestmark = pytest.mark.usefixtures("one_process", "one_device")


@pytest.fixture
def asked(monkeypatch):
  """Rows that were written, one for each time that the teacher was asked."""
  written, write = [], ProjectionStore.write

  def note(self, indices, arrays):
    written.extend(indices)
    write(self, indices, arrays)

  monkeypatch.setattr(ProjectionStore, "write", note)
  return written


@pytest.fixture(scope="module")
def command(tiny, tmp_path_factory):
  """Workdir and flags -> words of a run; all runs have the same rows."""
  rows = tmp_path_factory.mktemp("rows")
  return lambda workdir, *flags: running.command(
    tiny,
    workdir,
    f"--config.data.folder={rows}",
    f"--config.train.num_steps={STEPS}",
    "--config.data.max_documents=60",
    "--config.checkpoint.every=24",
    "--config.data.validation=()",
    "--config.student.num_layers=1",
    *flags,
  )


@pytest.fixture(scope="module")
def without(command, tmp_path_factory):
  """Number of micro-batches -> losses of a run without a cache."""

  @functools.cache
  def run(accumulation):
    workdir = tmp_path_factory.mktemp("without")
    how = f"--config.train.accumulation={accumulation}"
    alone.run(*command(workdir, how))
    return losses(workdir)

  return run


def losses(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [
    {k: v for k, v in row.items() if k.startswith(("train/", "eval/", "data/"))}
    for row in rows
  ]


def test_a_cache_changes_nothing(command, without, tmp_path, asked, capsys):
  """Bit by bit: in the first passes, in a later run, and after damage."""
  flags = (
    "--config.train.accumulation=4",
    f"--config.teacher.cache={tmp_path / 'cache'}",
  )
  assert len(without(4)) > STEPS
  assert not asked
  assert main.main(command(tmp_path / "first", *flags)) == 0
  count = len(set(asked))
  assert set(asked) == set(range(count))
  told = f"for {count} rows (384 B a token), all of them"
  assert capsys.readouterr().err.count(told) == 1
  # Batches that were read before a row was written miss it once more.
  assert count * 2 < STEPS * 8 > len(asked)
  asked.clear()
  (path,) = (tmp_path / "cache").glob("*/rows.bin")
  assert path.stat().st_size == count * SIZE
  with path.open("r+b") as file:
    file.seek(5 * SIZE + 100)
    file.write(b"damage")
  assert main.main(command(tmp_path / "later", *flags)) == 0
  assert set(asked) == {5}
  assert losses(tmp_path / "first") == losses(tmp_path / "later") == without(4)


@pytest.mark.slow  # Steps of some known rows are in cached_targets_test.
def test_rows_beyond_the_limit_are_computed(
  command, without, tmp_path, asked, capsys
):
  flags = (
    "--config.train.accumulation=4",
    f"--config.teacher.cache={tmp_path / 'cache'}",
    f"--config.teacher.cache_gb={10.5 * SIZE / 1e9}",
  )
  assert main.main(command(tmp_path / "first", *flags)) == 0
  assert "123 kB for the first 10 of " in capsys.readouterr().err
  assert set(asked) == set(range(10))
  asked.clear()
  assert main.main(command(tmp_path / "later", *flags)) == 0
  assert not asked
  assert losses(tmp_path / "first") == losses(tmp_path / "later") == without(4)


def test_the_size_is_told_with_what_a_limit_costs():
  described = functools.partial(teacher_cache._described, count=1000, seq_len=4)
  assert described(kept=1000, size=9216, accumulation=1) == (
    "teacher.cache: 9.22 MB for 1,000 rows (2.3 kB a token), all of them"
  )
  some = "4.61 MB for the first 500 of 1,000 rows (2.3 kB a token)"
  short = described(kept=500, size=9216, accumulation=2)
  assert short == f"teacher.cache: {some}; the rest is computed"
  once = described(kept=500, size=9216, accumulation=1)
  assert f"{some}; one of them" in once and "raise train.accumulation" in once


@pytest.mark.slow  # Targets of that type are in cached_targets_test.
def test_a_short_cache_gives_one_result_whatever_is_there(
  command, without, tmp_path
):
  """Rows that were computed just now are rounded like those on disk."""
  cache = (
    f"--config.teacher.cache={tmp_path / 'cache'}",
    "--config.teacher.cache_dtype=bfloat16",
  )
  assert main.main(command(tmp_path / "first", *cache)) == 0
  assert main.main(command(tmp_path / "later", *cache)) == 0
  first, later = (losses(tmp_path / name) for name in ("first", "later"))
  assert first == later
  gaps = [
    abs(a["train/loss"] - b["train/loss"])
    for a, b in zip(first, without(1), strict=True)
    if "train/loss" in a
  ]
  assert 0 < max(gaps) < 1e-2


def test_a_disk_that_is_full_leaves_the_run_alone(
  command, tmp_path, capsys, monkeypatch
):
  def full(*arguments):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "pwritev", full)
  flags = (
    "--config.train.accumulation=4",  # The program of other runs.
    f"--config.teacher.cache={tmp_path / 'cache'}",
  )
  assert main.main(command(tmp_path / "full", *flags)) == 0
  text = capsys.readouterr().err
  assert text.count("rows.bin cannot be written: No space left on device") == 1


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (
      {"cache_dtype": "bfloat16"},
      "cache_dtype='bfloat16' has no effect without",
    ),
    (
      {"cache_gb": 2.5},
      "teacher.cache_gb=2.5 has no effect without teacher.cache",
    ),
    (
      {"cache": "x", "cache_gb": -1.0},
      "cache_gb=-1.0, expected a number",
    ),
    ({"cache": "x", "cache_dtype": "float16"}, "expected one of , float32"),
    (
      {"cache": "x", "cache_dtype": "float32"},
      "no more than teacher.dtype=",
    ),
  ],
  ids=str,
)
def test_what_makes_no_sense_is_refused(fields, message):
  config = default_config()
  config.teacher.update(fields)
  with pytest.raises(UserError, match=re.escape(message)):
    check_config(config)


def test_processes_that_hold_the_same_rows_are_refused(mesh, monkeypatch):
  """What one finds of a row, the other may not."""
  config = default_config()
  config.teacher.cache = "cache"
  monkeypatch.setattr(host_collectives, "all_gather", lambda text: [text] * 2)
  with pytest.raises(UserError, match=r"hold the same rows .* mesh[.]tensor"):
    teacher_cache.open_cache(config, None, None, mesh)
