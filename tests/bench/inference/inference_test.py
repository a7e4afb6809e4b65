"""`bench inference`: real tokens, paired rounds, engines that agree."""

import itertools
import json
import sys
import types
from typing import ClassVar

import exporting
import numpy as np
import pytest
from exporting import command

pytest.importorskip("onnxruntime")

from time_jax.bench.inference import (
  engines,
  inference,
  report,
  sentences,
  spacy_pipeline,
  subjects,
)
from time_jax.bench.inference.energy import Meter
from time_jax.core.errors import UserError
from time_jax.hf import tokenizer


@pytest.fixture
def model(tiny, tmp_path):
  return exporting.random_model(tmp_path / "model", tiny / "teacher")


def test_batches_are_sentences_and_padding():
  known = [np.arange(1, n + 1) for n in (3, 9, 17)]
  chosen = sentences.drawn(3, 4, 5)
  assert len(chosen) == 5 and {i for some in chosen for i in some} == {0, 1, 2}
  for some in chosen:
    tokens, mask = sentences.pad([known[i] for i in some], pad_id=0)
    assert tokens.shape == (4, (8, 16, 24)[max(some)])
    for i, row, shown in zip(some, tokens, mask, strict=True):
      assert row[shown > 0].tolist() == known[i].tolist()
      assert not row[shown == 0].any()


def test_ratios_pair_the_rounds_and_count_real_tokens():
  batch = np.ones((2, 8), np.int64), np.tril(np.ones((2, 8), np.int64))
  times = {
    ("a", "jax"): [[0.4], [0.8], [0.4]],
    ("b", "jax"): [[0.1], [0.2], [0.2]],
    ("b", "torch"): [[0.2], [0.2], [0.2]],
  }
  found = inference._rows(times, 2, [batch])
  rows = {(row["model"], row["engine"]): row for row in found}
  assert rows["b", "jax"]["speed_up"] == pytest.approx(4)
  assert "speed_up" not in rows["b", "torch"]
  assert rows["b", "jax"]["others_over_this"] == {"torch": pytest.approx(1)}
  assert rows["b", "torch"]["tokens_s"] == pytest.approx(3 / 0.2)
  assert rows["b", "torch"]["sentences_s"] == pytest.approx(2 / 0.2)
  assert rows["b", "torch"]["ci95_s"] == pytest.approx([0.2, 0.2])
  # 1 / sqrt(3) of the deviation, times 4.303: a table of Student's t.
  low, high = rows["a", "jax"]["ci95_s"]
  assert (high - low) / 2 == pytest.approx(4.303 * 0.23094 / 3**0.5, rel=1e-3)


def test_all_engines(capsys, model, tmp_path):
  text = tmp_path / "text.txt"
  text.write_text("abcd efgh\n\nefgh abcd efgh abcd\n")
  file, out = tmp_path / "found.json", tmp_path / "out"
  pytest.importorskip("torch")
  output = command(
    capsys,
    *("bench", "inference", f"--models=one={model},two={model}"),
    *(f"--text={text}", f"--tokenizer={model}", "--batch_sizes=1,2"),
    *("--batches=1", "--repeats=2", f"--json={file}", f"--out={out}"),
  )
  assert "No score_latency.png: no --scores." in output
  assert (out / "inference.json").read_text() == file.read_text()
  assert (out / "speedup.png").read_bytes().startswith(b"\x89PNG")
  markdown = (out / "inference.md").read_text()
  assert "## 1 sentence\n" in markdown and "## 2 sentences\n" in markdown
  assert markdown.count("| two, onnxruntime-int8 | ") == 2
  assert "batch 2" in output and "two, onnxruntime" in output
  found = json.loads(file.read_text())
  rows = found["rows"]
  assert [(r["batch_size"], r["model"], r["engine"]) for r in rows] == [
    (size, name, engine)
    for size in (1, 2)
    for name in ("one", "two")
    for engine in ("jax", "torch", "onnxruntime", "onnxruntime-int8")
  ]
  for i in range(0, len(rows), 4):
    weights, same, graph, int8 = (row["file_bytes"] for row in rows[i : i + 4])
    assert weights == same and int8 < graph
  assert [row["error"] is None for row in rows] == [True, True, True, False] * 4
  assert all(row["error"] is None or 0 < row["error"] < 0.5 for row in rows)
  assert all(r["latency_s"]["n"] == 2 for r in rows)


def test_the_tokenizer_of_a_workdir(capsys, tiny, tmp_path):
  """It lies there without a model, beside a config.json of another kind."""
  folder = tmp_path / "run" / "tokenizer"
  table = json.loads((tiny / "teacher" / "config.json").read_text())[
    "vocab_size"
  ]
  tokenizer.save_tokenizer(tiny / "teacher", folder, 64, table)
  (tmp_path / "run" / "config.json").write_text('{"lang": "en"}')
  for place in (folder, folder.parent, tiny / "teacher"):
    spec = tokenizer.load_alone(place)
    assert spec.vocab_size == table and spec.pad_id == 0
  (folder / "config.json").write_text('{"vocab_size": "many"}')
  with pytest.raises(UserError, match="vocab_size is 'many', expected a whole"):
    tokenizer.load_alone(folder)
  with pytest.raises(UserError, match="has no tokenizer; expected"):
    tokenizer.load_alone(tmp_path)


def test_random_shapes(tiny):
  words = tokenizer.load_tokenizer(tiny / "teacher", 153)
  found = subjects._shape("2x16x2", words)
  assert (found.num_layers, found.hidden_size, found.num_heads) == (2, 16, 2)
  assert found.intermediate_size == 64
  assert subjects._shape("4x384", words) == subjects._shape("xs", words)


def row(**changes):
  seconds = dict.fromkeys(("p50", "p90", "p99"), 0.002)
  return {
    "model": "a",
    "engine": "jax",
    "batch_size": 1,
    "latency_s": seconds,
    "ci95_s": None,
    "sentences_s": 500.0,
    "tokens_s": 5000.0,
    "speed_up": 1.0,
    "error": None,
    "file_bytes": 2_000_000,
    "energy": None,
  } | changes


def test_energy_is_of_once_through_the_batches(monkeypatch):
  clock = itertools.count()  # a second a look
  monkeypatch.setattr(engines.time, "perf_counter", lambda: next(clock))
  engine = engines.Engine.__new__(engines.Engine)
  engine._runs, engine.platform = {"a": lambda tokens, mask: tokens}, "cpu"

  def start():
    before = next(clock)
    return lambda: float(next(clock) - before)

  engine._meter = Meter("fake", start)  # a joule a second
  batch = np.ones((1, 8), np.int64), np.ones((1, 8), np.int64)
  found = engine.energy("a", [batch], at_least=5)
  # Looks at 1 and 9, twice through in between; the meter is read around them.
  assert (found["seconds"], found["joules"]) == (8 / 2, 10 / 2)
  engine._meter = Meter("not measurable here: broken")
  assert "joules" not in engine.energy("a", [batch], at_least=5)


def test_energy_and_chips_are_a_sentence_and_a_token():
  mask = np.tril(np.ones((2, 8), np.int64))
  batches = [(np.ones((2, 8), np.int64), mask)]

  class Told:
    def call(self, *_):
      return {"platform": "tpu", "chips": 4, "method": "x", "joules": 6.0}

  rows = [row()]
  some = types.SimpleNamespace(name="a")
  sizes = {"jax": lambda *_: 7}
  monkeypatch = pytest.MonkeyPatch()
  with monkeypatch.context() as patched:
    patched.setattr(inference, "size_of", lambda engine, _: sizes[engine]())
    inference._complete(rows, {"jax": (Told(), ["a"])}, [some], batches, {})
  found = rows[0]["energy"]
  assert found["joules_per_sentence"] == 3 and found["joules_per_token"] == 2
  assert found["chip_seconds_per_sentence"] == pytest.approx(4 / 500)
  assert found["chip_seconds_per_token"] == pytest.approx(4 / 5000)
  text = report.as_text(1, rows, batches)
  assert " 3 " in text and "8 chip-ms a sentence, 800 chip-us a token" in text


def test_spacy_reads_the_same_sentences(monkeypatch):
  read = []

  class Pipeline:
    meta: ClassVar = {"lang": "da", "name": "core", "version": "3.8.0"}

    def pipe(self, texts, batch_size):
      assert batch_size == len(texts)
      read.extend(texts)
      return iter(texts)

  def load(name):
    if name != "da_core":
      raise OSError("[E050] no such model")
    return Pipeline()

  fake = types.SimpleNamespace(load=load)
  monkeypatch.setitem(sys.modules, "spacy", fake)
  made = spacy_pipeline.Pipeline("da_core")
  assert made.about() == "spacy:da_core-3.8.0"

  class Here:
    """A worker in this process."""

    def call(self, method, *arguments):
      return getattr(made, method)(*arguments)

  batch = np.ones((2, 8), np.int64), np.ones((2, 8), np.int64)
  running = {"spacy": (Here(), ["da_core"])}
  times, errors = inference._measure(running, [batch], [["one", "two"]], 2)
  assert read == ["one", "two"] * 3 and not errors
  rows = inference._rows(times, 2, [batch])
  inference._complete(rows, running, [], [batch], errors)
  assert "da_core, spacy" in report.as_text(2, rows, [batch])
  with pytest.raises(UserError, match="spaCy has no such pipeline"):
    spacy_pipeline.Pipeline("da_other")


def test_engines_that_differ_are_refused(monkeypatch):
  class Liar:
    def __init__(self, value):
      self.value = value

    def call(self, *_):
      return np.full((1, 8, 3), self.value, np.float32)

  batch = np.ones((1, 8), np.int64), np.ones((1, 8), np.int64)
  running = {"jax": (Liar(0.0), ["a"]), "torch": (Liar(0.1), ["a"])}
  with pytest.raises(inference.RunError, match="a: torch differs by 1.0e-01"):
    inference._measure(running, [batch], [["a"]], 1)


@pytest.mark.parametrize(
  ("flag", "expected"),
  [
    ("--models=a", "expected a model"),
    ("--models=x=random:huge", "random:huge is unknown; known: m, s, xs"),
    ("--models=x=random:2x20", "12 attention heads do not divide the width"),
    ("--engines=tea", "--engines: tea unknown; known: jax, torch"),
    ("--spacy=da_core", "--spacy=da_core needs spaCy, which is not installed"),
    ("--scores=none", "none"),
  ],
)
def test_what_is_refused(capsys, monkeypatch, model, tmp_path, flag, expected):
  monkeypatch.setitem(sys.modules, "spacy", None)
  text = tmp_path / "text.txt"
  text.write_text("abcd\n")
  flags = [f"--models=a={model}", f"--text={text}", f"--tokenizer={model}"]
  output = command(capsys, "bench", "inference", *flags, flag, code=2)
  assert expected in output
