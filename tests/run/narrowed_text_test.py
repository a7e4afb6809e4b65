"""How much text a start that is made narrower reads."""

import exporting
import numpy as np
import pytest
import running
from exporting import command
from tiny_recipe import get_config

from time_jax.core.errors import UserError
from time_jax.data import prepare
from time_jax.run import corpus, narrowed_start

pytestmark = pytest.mark.usefixtures(
  "one_process", "one_device", "without_torch"
)
ROWS = 20


@pytest.fixture
def prepared(monkeypatch):
  """Manifests of what was prepared, in small shards, in turn."""
  found, real = [], prepare.prepare

  def noted(*args, **more):
    more |= {"shard_text_mb": 0.002, "num_workers": 1}
    found.append(real(*args, **more))
    return found[-1]

  monkeypatch.setattr(prepare, "prepare", noted)
  return found


def test_it_reads_the_first_text_and_is_that_of_the_whole(
  capsys, monkeypatch, prepared, tiny, tmp_path
):
  monkeypatch.setattr(narrowed_start, "_TOKENS", ROWS * 32)
  _, *recipe = running.command(
    tiny,
    tmp_path / "run",
    "--config.student.init_from=teacher:lower",
    "--config.data.packing=none",
  )
  output = command(capsys, "start", *recipe)
  assert "made narrower (the square error" in output
  few = prepared.pop().splits
  assert [*few] == ["train"] and few["train"].rows >= ROWS
  assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["start"]
  given = exporting.tensors(tmp_path / "run" / "start")
  basis = (tmp_path / "run" / "start" / "basis.safetensors").read_bytes()

  # The run prepares its text as if there had been no start.
  command(capsys, "prepare", *recipe)
  whole = prepared.pop()
  assert whole.splits["train"].rows > 2 * few["train"].rows
  assert "validation" in whole.splits and "enough_rows" not in whole.settings
  first, blocks = few["train"].shards, whole.splits["train"].shards
  assert len(blocks) > len(first) > 1
  assert [s.sha256 for s in first] == [s.sha256 for s in blocks[: len(first)]]

  # Of prepared text, a start is the same to the bit.
  command(capsys, "start", *recipe)
  assert prepared.pop().fingerprint == whole.fingerprint and not prepared
  np.testing.assert_equal(exporting.tensors(tmp_path / "run/start"), given)
  again = (tmp_path / "run" / "start" / "basis.safetensors").read_bytes()
  assert again == basis


def test_little_text_is_read_to_its_end(prepared, tiny, tmp_path):
  config = get_config(tiny)
  found = corpus.first_rows(config, tmp_path / "run", 153, 10**6)
  assert not (tmp_path / "run").exists()
  rows = corpus.open_corpus(config, tmp_path / "run", 153).train
  assert len(found) == len(rows) == prepared[0].splits["train"].rows
  every = range(len(rows))
  np.testing.assert_equal(found.__getitems__(every), rows.__getitems__(every))
  config.data.train = ()
  with pytest.raises(UserError, match="data.train is empty; expected text"):
    corpus.first_rows(config, tmp_path / "other", 153, 1)


def test_what_needs_no_text_is_what_it_was(prepared, tiny, tmp_path):
  config = get_config(tiny)
  config.data.synthetic_rows = 9
  assert len(corpus.first_rows(config, tmp_path, 153, 2)) == 9
  assert not prepared
