"""`predict` of raw text ends soon where nobody wants the rest."""

import contextlib
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types

import pytest
import running
import tiny_ner
import tiny_split

from time_jax.core import errors
from time_jax.data.ahead import run_ahead
from time_jax.evals.predict import predict
from time_jax.evals.predict.formats import FORMATS
from time_jax.evals.split.passage import Passage, Token

# A shell's background job, such as a test run, has its children ignore SIGINT.
PROGRAM = """
import signal
from time_jax import __main__
signal.signal(signal.SIGINT, signal.default_int_handler)
__main__.main()
"""
SOON = 8  # seconds; a block of input takes more, a group of paragraphs one


class Source:
  """A paragraph at each call, and no end."""

  def __init__(self):
    self.numbers = itertools.count()

  def read1(self, size):
    return b"Paragraph %d.\n\n" % next(self.numbers)


def endless(beat):
  """Computes, until a beat ends that."""
  while True:
    beat()
    time.sleep(0.01)


def splitter(most):
  """Something that splits so many groups, and does not come to an end then."""
  calls = itertools.count()

  def annotate(passages, beat):
    if next(calls) >= most:
      endless(beat)
    token = Token(0, 9, ("Paragraph",))
    return [Passage(passage.text, ((token,),)) for passage in passages]

  return types.SimpleNamespace(format=FORMATS["split"], annotate=annotate)


def tagger(most):
  calls = itertools.count()

  def finish(work, beat):
    if next(calls) >= most:
      endless(beat)
    return work

  return types.SimpleNamespace(
    format=FORMATS["ner"], prepare=list, finish=finish
  )


@pytest.mark.parametrize("task", ["split", "ner"])
@pytest.mark.parametrize("splits", [1, 3, 10**9])
def test_no_thread_computes_longer_than_a_batch(task, splits):
  closed, before = threading.Event(), threading.active_count()
  first = splitter(splits)
  last = first if task == "split" else tagger(1)
  results = predict._results(Source(), last, first, closed)
  computed = run_ahead(results, 2, closed=closed)
  with contextlib.closing(computed):
    _, (item,) = next(computed)
    time.sleep(0.3)  # The other threads are at work, or wait.
    start = time.monotonic()
  assert "Paragraph" in FORMATS[task].to_text(
    [item.with_tags(["O"])] if task == "ner" else [item]
  )
  assert time.monotonic() - start < SOON
  assert threading.active_count() == before


@pytest.fixture(scope="module")
def models(mesh, tmp_path_factory):
  """Models of split and ner, and a text that takes them long."""
  pytest.importorskip("onnxruntime")
  home = tmp_path_factory.mktemp("models")
  split = tiny_split.write_model(home / "split", mesh)
  names = tiny_ner.write_model(home / "ner", mesh)
  text = home / "text"
  text.write_text("Il va au bal. L'été mange du pain.\n\n" * 100_000)
  return split, names, text


def seconds_of(process):
  """CPU time, whatever else runs."""
  stat = pathlib.Path(f"/proc/{process.pid}/stat").read_text()
  user, system = stat.rpartition(")")[2].split()[11:13]
  return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def seconds_of_children():
  """CPU time of processes that have ended."""
  times = os.times()
  return times.children_user + times.children_system


@pytest.mark.parametrize(
  ("raw", "interrupt"), [(False, True), (True, True), (True, False)]
)
def test_a_process_ends_soon(models, raw, interrupt):
  split, names, text = models
  words = [str(split)] if raw else [str(names), f"--split={split}"]
  with text.open("rb") as source:
    process = subprocess.Popen(
      [sys.executable, "-c", PROGRAM, "predict", *words],
      cwd=running.ROOT,
      env=running.environment(),
      stdin=source,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
  try:
    process.stdout.readline()
    before = seconds_of_children() + seconds_of(process)
    if interrupt:
      process.send_signal(signal.SIGINT)
      _, said = process.communicate(timeout=200)
      line = said.decode().splitlines()[-1]
      assert line.endswith("; run the same command again to continue.")
      assert process.returncode == errors.EXIT_INTERRUPTED
    else:  # As `head` does.
      process.stdout.close()
      assert process.wait(timeout=200) == errors.EXIT_PIPE
      process.stderr.close()
  finally:
    process.kill()
  assert seconds_of_children() - before < SOON
