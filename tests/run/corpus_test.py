"""Text is prepared by one process at a time, up to the limit it began with."""

import concurrent.futures
import json
import os
import socket
import threading
import time

import pytest
import running
from tiny_recipe import get_config

from time_jax.cli import main
from time_jax.core.storage import lease
from time_jax.parallel import processes
from time_jax.parallel.launcher_env import ProcessSpec
from time_jax.run import corpus


def test_whoever_waits_says_for_whom(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(corpus, "_REPORT_EVERY", 0.05)
  prepared = []

  def prepare():
    with corpus._locked(tmp_path):
      prepared.append(1)

  with corpus._locked(tmp_path):
    other = threading.Thread(target=prepare)
    other.start()
    deadline, said = time.monotonic() + 30, ""
    while not said and time.monotonic() < deadline:
      time.sleep(0.01)
      said = capsys.readouterr().err
    assert not prepared
  other.join(30)
  assert prepared == [1]
  assert "time_jax: waiting for " in said and f"(pid {os.getpid()})" in said
  assert not (tmp_path / "prepare.holder").exists()


def test_text_of_more_steps_is_used_as_it_is(tiny, tmp_path, capsys):
  """Once every recipe's limit was that of 200,000 steps, however few came."""
  longer = f"--config.data.max_tokens={26 * 10**9}"
  steps = f"--config.data.max_tokens={30 * 8 * 32}"
  fewer = "--config.data.max_tokens=512"
  prepare = ["prepare", *running.command(tiny, tmp_path, longer)[1:]]
  assert main.main(prepare) == 0
  manifest = tmp_path / "data" / "manifest.json"
  before = manifest.read_bytes()
  assert main.main([*prepare, steps]) == 0
  told = capsys.readouterr().err
  assert "prepared up to 26,000,000,000 tokens, the steps read at most" in told
  assert manifest.read_bytes() == before
  assert main.main([*prepare, fewer]) == 2  # It is no number of the steps.
  assert "max_tokens was 26000000000, now 512" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["config", "manifest", "plan"])
@pytest.mark.parametrize("limit", [26 * 10**9, 100])
def test_where_the_limit_is_kept(tiny, tmp_path, file, limit):
  config = get_config(tiny)
  config.data.max_tokens = wanted = 30 * 8 * 32
  for path, content in {
    "config.json": {"data": {"max_tokens": limit}},
    "data/manifest.json": {"settings": {"max_tokens": limit}},
    "data/unfinished/plan.json": {"max_tokens": limit},
  }.items():
    if file in path:
      (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / path).write_text(json.dumps(content))
  corpus.keep_limit(config, tmp_path)
  assert config.data.max_tokens == max(limit, wanted)


@pytest.mark.parametrize(("num_steps", "kept"), [(30, True), (29, False)])
def test_a_run_goes_on_with_less_text_than_its_steps_read(
  tiny, tmp_path, num_steps, kept
):
  """As one of before did that was longer than its recipe; no other does."""
  config = get_config(tiny)
  config.data.max_tokens = wanted = 30 * 8 * 32
  train = {"num_steps": num_steps, "global_batch_size": 8}
  record = {"data": {"max_tokens": 100}, "train": train}
  (tmp_path / "config.json").write_text(json.dumps(record))
  corpus.keep_limit(config, tmp_path)
  assert config.data.max_tokens == (100 if kept else wanted)


def test_a_refused_folder_is_prepared_by_nobody(tiny, tmp_path, monkeypatch):
  """The others hear of it from process 0 before they work, and at once."""
  with socket.create_server(("localhost", 0)) as free:
    address = f"localhost:{free.getsockname()[1]}"
  at = threading.local()
  monkeypatch.setattr(processes, "_detect", lambda timeout: at.place)
  monkeypatch.setenv("TIME_JAX_TIMEOUT", "20")

  def prepare(index):
    at.place = ProcessSpec("test", address, 2, index)
    try:
      return corpus.prepare_command(get_config(tiny), tmp_path)
    except Exception as error:
      return str(error)

  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    with lease.hold(tmp_path / lease.RUN, "W"):
      first, other = pool.map(prepare, (0, 1))
    assert "is being written by" in first and other == first
    assert not (tmp_path / "data").exists()
    assert list(pool.map(prepare, (0, 1))) == [0, 0]
