"""Text is prepared by one process at a time."""

import os
import threading
import time

from time_jax import corpus


def test_whoever_waits_says_for_whom(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(corpus, "_SAY_EVERY", 0.05)
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
