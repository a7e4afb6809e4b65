"""A teacher that is asked once: runs with a cache are the runs without one."""

import functools
import json
import os
import re

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


@pytest.fixture(autouse=True)
def alone(one_process, one_device):
  """A run in this process, on one device."""


@pytest.fixture
def asked(monkeypatch):
  """Rows that were written, one for each time that the teacher was asked."""
  written, write = [], ProjectionStore.write

  def note(self, indices, arrays):
    written.extend(indices)
    write(self, indices, arrays)

  monkeypatch.setattr(ProjectionStore, "write", note)
  return written


def distill(tiny, workdir, *flags):
  command = running.command(
    tiny,
    workdir,
    f"--config.data.folder={workdir.parent / 'data'}",
    f"--config.train.num_steps={STEPS}",
    "--config.data.max_documents=60",
    "--config.checkpoint.every=24",
    "--config.data.validation=()",
    *flags,
  )
  return main.main(command)


def losses(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [
    {k: v for k, v in row.items() if k.startswith(("train/", "eval/", "data/"))}
    for row in rows
  ]


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_cache_changes_nothing(tiny, tmp_path, asked, capsys, accumulation):
  """Bit by bit: in the first passes, in a later run, and after damage."""
  how = f"--config.train.accumulation={accumulation}"
  cache = f"--config.teacher.cache={tmp_path / 'cache'}"
  assert distill(tiny, tmp_path / "none", how) == 0
  assert not asked
  assert distill(tiny, tmp_path / "first", how, cache) == 0
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
  assert distill(tiny, tmp_path / "later", how, cache) == 0
  assert set(asked) == {5}
  expected = losses(tmp_path / "none")
  assert len(expected) > STEPS
  assert losses(tmp_path / "first") == expected
  assert losses(tmp_path / "later") == expected


def test_rows_beyond_the_limit_are_computed(tiny, tmp_path, asked, capsys):
  how = "--config.train.accumulation=2"
  cache = (
    f"--config.teacher.cache={tmp_path / 'cache'}",
    f"--config.teacher.cache_gb={10.5 * SIZE / 1e9}",
  )
  assert distill(tiny, tmp_path / "first", how, *cache) == 0
  assert "123 kB for the first 10 of " in capsys.readouterr().err
  assert set(asked) == set(range(10))
  asked.clear()
  assert distill(tiny, tmp_path / "later", how, *cache) == 0
  assert not asked
  assert distill(tiny, tmp_path / "none", how) == 0
  expected = losses(tmp_path / "none")
  assert losses(tmp_path / "first") == losses(tmp_path / "later") == expected


def test_the_size_is_told_with_what_a_limit_costs():
  described = functools.partial(teacher_cache._described, count=1000, seq_len=4)
  assert described(kept=1000, size=9216, accumulation=1) == (
    "teacher.cache: 9.22 MB for 1,000 rows (2.3 kB a token), all of them"
  )
  some = "4.61 MB for the first 500 of 1,000 rows (2.3 kB a token)"
  short = described(kept=500, size=9216, accumulation=2)
  assert short == f"teacher.cache: {some}; the rest is computed"
  alone = described(kept=500, size=9216, accumulation=1)
  assert f"{some}; one of them" in alone and "raise train.accumulation" in alone


def test_a_short_cache_gives_one_result_whatever_is_there(tiny, tmp_path):
  """Rows that were computed just now are rounded like those on disk."""
  cache = (
    f"--config.teacher.cache={tmp_path / 'cache'}",
    "--config.teacher.cache_dtype=bfloat16",
  )
  assert distill(tiny, tmp_path / "first", *cache) == 0
  assert distill(tiny, tmp_path / "later", *cache) == 0
  assert distill(tiny, tmp_path / "none") == 0
  first, later, none = (
    losses(tmp_path / name) for name in ("first", "later", "none")
  )
  assert first == later
  gaps = [
    abs(a["train/loss"] - b["train/loss"])
    for a, b in zip(first, none, strict=True)
    if "train/loss" in a
  ]
  assert 0 < max(gaps) < 1e-2


def test_a_disk_that_is_full_leaves_the_run_alone(
  tiny, tmp_path, capsys, monkeypatch
):
  def full(*arguments):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "pwritev", full)
  cache = f"--config.teacher.cache={tmp_path / 'cache'}"
  assert distill(tiny, tmp_path / "full", cache) == 0
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
