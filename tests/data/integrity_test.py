"""Damage to prepared rows is found, all of it at once, before training."""

import errno
import pathlib

import pytest
from preparing import make_documents, run, write_corpus

from time_jax.core.errors import EXIT_PREEMPTED, UserError, exit_status
from time_jax.data.integrity import check_rows


def test_every_damaged_file_is_named(tmp_path: pathlib.Path) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", make_documents(200))
  out = tmp_path / "out"
  manifest = run(out, corpus)
  shards = manifest.splits["train"].shards
  assert check_rows(out, manifest) == sum(shard.size for shard in shards)
  assert len(shards) > 4
  flipped, cut, gone, *_ = (
    out / "time_rows" / "1.0.0" / shard.name for shard in shards
  )
  data = bytearray(flipped.read_bytes())
  data[len(data) // 2] ^= 1
  flipped.write_bytes(data)
  cut.write_bytes(cut.read_bytes()[:-1])
  gone.unlink()
  features = out / "time_rows" / "1.0.0" / "features.json"
  features.write_text(features.read_text().replace('"16"', '"17"'))
  with pytest.raises(UserError) as error:
    check_rows(out, manifest)
  assert str(error.value).count(".array_record-") == 3
  for words in (
    "dataset_info.json or features.json has other content",
    f"{flipped.name} has other content",
    f"{cut.name} has {shards[1].size - 1:,} bytes instead of",
    f"{gone.name} cannot be read (No such file or directory)",
  ):
    assert words in str(error.value)


def test_storage_that_is_gone_is_no_damage(tmp_path, monkeypatch) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", make_documents(20))
  manifest = run(tmp_path / "out", corpus)
  shard = manifest.splits["train"].shards[0].name
  open_file = pathlib.Path.open

  def lost(path, *args, **kwargs):
    if path.name == shard:
      raise OSError(errno.ESTALE, "Stale file handle")
    return open_file(path, *args, **kwargs)

  monkeypatch.setattr(pathlib.Path, "open", lost)
  with pytest.raises(OSError, match="Stale") as error:
    check_rows(tmp_path / "out", manifest)
  assert exit_status(error.value) == (
    EXIT_PREEMPTED,
    f"lost storage: {error.value}; start it again.",
  )
