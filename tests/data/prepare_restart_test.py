"""Preparing goes on from any point, and ends with the same bytes."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import textwrap
import time
import types
from typing import Any

import preparing
import pytest
from preparing import (
  contents,
  make_documents,
  run,
  tiny_tokenizer,
  write_corpus,
)

import time_jax
from time_jax.core import errors
from time_jax.data import prepare, workers
from time_jax.data.manifest import is_prepared
from time_jax.data.shards import RowFormat

ROOT = pathlib.Path(time_jax.__file__).parents[1]


def test_processes_do_not_change_a_byte(tmp_path: pathlib.Path) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", make_documents(200))
  run(tmp_path / "one", corpus)
  run(tmp_path / "two", corpus, num_workers=2)
  assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_finished_folder_is_not_prepared_again(
  tmp_path: pathlib.Path,
) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", make_documents(30))
  first = run(tmp_path / "out", corpus)
  pathlib.Path(corpus).unlink()  # The text is not needed any more.
  assert run(tmp_path / "out", corpus, num_workers=2) == first
  with pytest.raises(errors.UserError, match="seq_len was 16, now 8;"):
    run(tmp_path / "out", corpus, seq_len=8)


def test_a_finished_folder_of_other_text_is_refused(
  tmp_path: pathlib.Path,
) -> None:
  for name in ("a", "b", "v"):
    write_corpus(tmp_path / f"{name}.jsonl", make_documents(30))
  splits = {
    "train": (f"{tmp_path}/[ab].jsonl#text",),
    "validation": (f"{tmp_path}/v.jsonl",),
  }
  out = tmp_path / "out"
  manifest = run(out, splits=splits)
  changed = tmp_path / "b.jsonl"
  size = changed.stat().st_size
  files = manifest.splits["train"].files
  assert [file.path for file in files] == [
    f"{tmp_path}/a.jsonl",
    f"{tmp_path}/b.jsonl",
  ]
  assert files[1].size == size
  before = changed.read_text()
  changed.write_text(before + "\n")
  message = (
    rf"out' .*b\.jsonl' had {size} bytes, now it has {size + 1};.*delete"
  )
  with pytest.raises(errors.UserError, match=message):
    run(out, splits=splits)
  changed.write_text(before)
  assert run(out, splits=splits) == manifest
  # On another host the text may be gone, in part or with its folder.
  changed.unlink()
  assert run(out, splits=splits) == manifest
  (tmp_path / "v.jsonl").write_text("og")
  with pytest.raises(errors.UserError, match=r"v\.jsonl' had"):
    run(out, splits=splits)


def test_text_that_changes_before_the_last_step_is_refused(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", make_documents(30))
  out = tmp_path / "out"
  with monkeypatch.context() as context:
    context.setattr(prepare, "_finish", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      run(out, corpus)
  with open(corpus, "a") as file:
    file.write("\n")
  with pytest.raises(errors.UserError, match=r"a\.jsonl' had .* bytes, now"):
    run(out, corpus)
  assert not is_prepared(out)


def test_text_from_elsewhere_has_no_files(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  hub = types.SimpleNamespace(
    load_dataset=lambda *_, **__: iter([{"text": "og"}])
  )
  monkeypatch.setitem(sys.modules, "datasets", hub)
  manifest = run(tmp_path / "out", "hf:org/name")
  assert manifest.splits["train"].files == ()
  assert run(tmp_path / "out", "hf:org/name") == manifest


def test_a_folder_from_before_there_was_a_limit_of_documents(
  tmp_path: pathlib.Path,
) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", make_documents(30))
  out = tmp_path / "out"
  run(out, corpus)
  path = out / "manifest.json"
  values = json.loads(path.read_text())
  del values["settings"]["max_documents"]
  path.write_text(json.dumps(values))
  assert "max_documents" not in run(out, corpus).settings
  with pytest.raises(errors.UserError, match="max_documents was 0, now 7;"):
    run(out, corpus, max_documents=7)


class Killed(BaseException):
  """Stands for the end of the process."""


def test_a_run_that_ends_at_any_file_operation_is_completed(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", make_documents(80))
  splits = {"train": (corpus,), "validation": (corpus,)}
  settings: dict[str, Any] = {
    "splits": splits,
    "max_tokens": 1000,
    "max_documents": 70,
  }
  run(tmp_path / "whole", **settings)
  whole = contents(tmp_path / "whole")
  replace = pathlib.Path.replace
  left = 0

  def counted(path: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    nonlocal left
    left -= 1
    if left < 0:
      raise Killed
    return replace(path, target)

  monkeypatch.setattr(pathlib.Path, "replace", counted)
  for operations in range(100):
    out = tmp_path / f"killed{operations}"
    left = operations
    try:
      run(out, **settings)
      break
    except Killed:
      assert not is_prepared(out)
    left = sys.maxsize
    run(out, **settings)
    assert contents(out) == whole, f"killed after {operations} operations"
  assert 15 < operations < 99


SCRIPT = """
import pathlib, sys
sys.path.insert(0, {tests!r})
import preparing
if __name__ == "__main__":
  assert not {{"jax", "tensorflow", "torch"}} & set(sys.modules)
  preparing.run(
    pathlib.Path({out!r}), {corpus!r}, num_workers=2, shard_text_mb=0.02
  )
"""


def parent_if_alive(stat: pathlib.Path) -> int | None:
  try:
    state, parent, *_ = stat.read_text().rpartition(")")[2].split()
  except OSError:  # It has ended.
    return None
  return None if state == "Z" else int(parent)


def children(pid: int) -> list[pathlib.Path]:
  stats = pathlib.Path("/proc").glob("[0-9]*/stat")
  return [stat for stat in stats if parent_if_alive(stat) == pid]


def identity(path: pathlib.Path) -> tuple[int, int]:
  """Stays the same when a file is moved, but not when it is made again."""
  return path.stat().st_ino, path.stat().st_mtime_ns


def test_kill_9_then_rerun_gives_the_same_bytes(tmp_path: pathlib.Path) -> None:
  documents = make_documents(2000, words=60)
  corpus = write_corpus(tmp_path / "a.jsonl", documents)
  out = tmp_path / "killed"
  script = tmp_path / "script.py"
  tests = str(pathlib.Path(preparing.__file__).parent)
  script.write_text(
    textwrap.dedent(SCRIPT).format(tests=tests, out=str(out), corpus=corpus)
  )
  command = [sys.executable, str(script)]
  environment = os.environ | {"PYTHONPATH": str(ROOT)}
  process = subprocess.Popen(command, env=environment)
  while len(list(out.glob("unfinished/*.json"))) < 5:
    assert process.poll() is None, "it ended before it could be killed"
    time.sleep(0.002)
  workers = children(process.pid)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not is_prepared(out)
  deadline = time.monotonic() + 10
  while any(parent_if_alive(worker) is not None for worker in workers):
    assert time.monotonic() < deadline, "workers outlive the run"
    time.sleep(0.02)
  with pytest.raises(errors.UserError, match="packing was 'pack', now 'none'"):
    run(out, corpus, shard_text_mb=0.02, packing="none")
  counted = out.glob("unfinished/train-*.json")
  finished = {identity(path.with_suffix(".record")) for path in counted}
  assert len(finished) >= 4
  run(out, corpus, shard_text_mb=0.02)
  run(tmp_path / "whole", corpus, shard_text_mb=0.02)
  assert contents(out) == contents(tmp_path / "whole")
  assert finished <= {identity(path) for path in out.rglob("*.array_record*")}


@pytest.mark.parametrize("rows", [2**63, True, None])
def test_damaged_counts_are_made_again(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, rows: Any
) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", make_documents(30))
  with monkeypatch.context() as context:
    context.setattr(prepare, "_finish", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      run(tmp_path / "out", corpus)
  (tmp_path / "out" / "unfinished" / "manifest.json").unlink()
  counts = tmp_path / "out" / "unfinished" / "train-00000.json"
  values = json.loads(counts.read_text())
  counts.write_text(json.dumps(values | {"rows": rows}))
  run(tmp_path / "out", corpus)
  run(tmp_path / "whole", corpus)
  assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_changed_text_is_noticed_on_a_restart(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  documents = make_documents(80)
  corpus = write_corpus(tmp_path / "a.jsonl", documents)
  with monkeypatch.context() as context:
    context.setattr(prepare, "_finish", lambda folder: 1 / 0)
    context.setattr(prepare, "_split_manifest", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      run(tmp_path / "out", corpus)
  write_corpus(tmp_path / "a.jsonl", ["yz", *documents[1:]])
  with pytest.raises(errors.UserError, match="train-00000 is not what it was"):
    run(tmp_path / "out", corpus)


def test_max_tokens_does_not_depend_on_what_was_begun(
  tmp_path: pathlib.Path,
) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", make_documents(120))
  run(tmp_path / "one", corpus, max_tokens=500)
  run(tmp_path / "two", corpus, max_tokens=500, num_workers=2)
  assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_too_many_bad_records_lose_nothing(tmp_path: pathlib.Path) -> None:
  documents = make_documents(150)
  corpus = pathlib.Path(write_corpus(tmp_path / "a.jsonl", documents))
  corpus.write_text(corpus.read_text() + "\n{\n{\n{")
  out = tmp_path / "out"
  with pytest.raises(errors.UserError, match=r"a\.jsonl:153: .*=2"):
    run(out, str(corpus), max_bad_records=2)
  finished = list(out.glob("unfinished/*.record"))
  assert len(finished) >= 2
  # The limit is no part of the plan: a higher one goes on.
  manifest = run(out, str(corpus), max_bad_records=3)
  assert manifest.splits["train"].bad_records == 3
  assert manifest.splits["train"].documents == 150


def test_a_folder_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", ["og"])
  with pytest.raises(errors.UserError, match=r"cannot write to .*Not a dir"):
    run(pathlib.Path(corpus) / "out", corpus)
  with pytest.raises(errors.UserError, match="expected a path on a file"):
    prepare.prepare(
      "gs://bucket/x", {"train": [corpus]}, RowFormat(tiny_tokenizer())
    )


def test_a_full_disk_loses_nothing(tmp_path: pathlib.Path) -> None:
  documents = [*make_documents(60), " ".join(make_documents(5000)), "og"]
  corpus = write_corpus(tmp_path / "a.jsonl", documents)
  out = tmp_path / "out"
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (140_000, hard))
  try:
    with pytest.raises(errors.UserError, match=r"cannot write to .*too large"):
      run(out, corpus)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert list(out.glob("unfinished/*.record"))
  run(out, corpus)
  run(tmp_path / "whole", corpus)
  assert contents(out) == contents(tmp_path / "whole")


def killed_by_the_system(block: object) -> None:
  os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_reported(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  corpus = write_corpus(tmp_path / "a.jsonl", ["og"])
  monkeypatch.setattr(workers, "_write_in_worker", killed_by_the_system)
  with pytest.raises(errors.UserError, match=r"worker process .* ended early"):
    run(tmp_path / "out", corpus, num_workers=2)


def test_a_mistyped_source_can_be_corrected(tmp_path: pathlib.Path) -> None:
  text = tmp_path / "text.jsonl"
  text.write_text("")
  with pytest.raises(errors.UserError):
    run(tmp_path / "rows", str(text))
  right = write_corpus(tmp_path / "right.jsonl", make_documents(5))
  assert run(tmp_path / "rows", right).splits["train"].documents == 5
