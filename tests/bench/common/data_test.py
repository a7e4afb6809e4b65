"""The data's speed is measured on the text of a recipe."""

import json

import pytest
import running

from time_jax.bench.common import data
from time_jax.cli import main
from time_jax.core.errors import UserError


def test_the_table(tiny, capsys, tmp_path, monkeypatch):
  # Processes of their own would take their time to start.
  prepare = data.prepare.prepare

  def alone(*args, **kwargs):
    return prepare(*args, **kwargs, num_workers=1)

  monkeypatch.setattr(data.prepare, "prepare", alone)
  file = tmp_path / "data.json"
  words = ["--megabytes=1", "--repeats=2", f"--json={file}"]
  recipe = f"--config={running.ROOT}/tests/support/tiny_recipe.py:{tiny}"
  assert main.main(["bench", "data", recipe, *words]) == 0
  title, header, *rows = capsys.readouterr().out.splitlines()
  assert "1 MB of text, median of 2" in title
  assert header.split() == ["part", "s", "tokens/s", "MB/s", "of", "bare"]
  assert [row[:14].strip() for row in rows] == list(
    (data.BARE, data.PREPARE, data.LOADER)
  )
  content = json.loads(file.read_text())
  assert 1e6 <= content["text_bytes"] < 1.1e6
  for found in content["results"].values():
    assert len(found["rounds"]) == 2 and found["seconds"] > 0
  # Prepared rows hold what the bare tokenizer finds, and what goes around it.
  bare, prepared = (
    content["results"][part]["tokens_per_second"]
    * content["results"][part]["seconds"]
    for part in (data.BARE, data.PREPARE)
  )
  assert bare * 0.99 <= prepared <= bare * 1.5


def test_no_text_at_all(tmp_path):
  file = tmp_path / "empty.txt"
  file.write_text("\n\n")
  with pytest.raises(UserError, match=r"no (text|document)"):
    list(data.some_text((str(file),), 10))
