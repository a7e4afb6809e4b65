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
from here import Here

pytest.importorskip("onnxruntime")

from time_jax.bench.common.child_process import ChildProcess
from time_jax.bench.common.energy import Meter
from time_jax.bench.inference import (
  engines,
  inference,
  sentences,
  tables,
)
from time_jax.core.errors import RunError, UserError
from time_jax.hf import tokenizer
from time_jax.parallel import sharding


@pytest.fixture
def model(tiny, tmp_path):
  return exporting.random_model(tmp_path / "model", tiny / "teacher")


def batch(rows=2, length=8):
  """Sentences of 1, 2, 3 ... tokens."""
  mask = np.tril(np.ones((rows, length), np.int64))
  tokens = np.ones((rows, length), np.int64)
  return sentences.SentenceBatch(["word"] * rows, tokens, mask)


def test_batches_are_sentences_and_padding():
  known = {str(n): np.arange(1, n + 1) for n in (3, 9, 17)}
  drawn = sentences.draw(list(known.items()), 4, 5, pad_id=0)
  assert len(drawn) == 5
  assert {text for some in drawn for text in some.texts} == set(known)
  assert [some.texts for some in drawn] == [
    some.texts for some in sentences.draw(list(known.items()), 4, 5, pad_id=0)
  ]
  for some in drawn:
    length = -(-max(map(int, some.texts)) // 8) * 8
    assert some.tokens.shape == some.mask.shape == (4, length)
    for text, row, real in zip(some.texts, some.tokens, some.mask, strict=True):
      assert row[real > 0].tolist() == known[text].tolist()
      assert not row[real == 0].any()


def test_ratios_pair_the_rounds_and_count_real_tokens():
  times = {
    ("a", "jax"): [[0.4], [0.8], [0.4]],
    ("b", "jax"): [[0.1], [0.2], [0.2]],
    ("b", "torch"): [[0.2], [0.2], [0.2]],
  }
  rows = {pair: inference._speed(pair, times, [batch()]) for pair in times}
  assert rows["b", "jax"]["speed_up"] == pytest.approx(4)
  assert "speed_up" not in rows["b", "torch"]
  assert rows["b", "jax"]["others_over_this"] == {"torch": pytest.approx(1)}
  assert rows["b", "torch"]["tokens_s"] == pytest.approx(3 / 0.2)
  assert rows["b", "torch"]["sentences_s"] == pytest.approx(2 / 0.2)
  assert rows["b", "torch"]["ci95_s"] == pytest.approx([0.2, 0.2])
  # 1 / sqrt(3) of the deviation, times 4.303: a table of Student's t.
  low, high = rows["a", "jax"]["ci95_s"]
  assert (high - low) / 2 == pytest.approx(4.303 * 0.23094 / 3**0.5, rel=1e-3)


def test_all_engines(capsys, mesh, model, monkeypatch, tmp_path):
  """One of them in a process of its own, as all are outside of tests."""

  def process(make, name, *arguments):
    kind = ChildProcess if name == "jax" else Here
    return kind(make, name, *arguments)

  monkeypatch.setattr(inference, "ChildProcess", process)
  monkeypatch.setattr(sharding, "make_mesh", lambda **sizes: mesh)
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
  engine._encode, engine.platform = {"a": lambda *_: None}, "cpu"

  def start():
    before = next(clock)
    return lambda: float(next(clock) - before)

  engine._meter = Meter("fake", start)  # a joule a second
  found = engine.energy("a", [batch()], at_least=5)
  # Looks at 1 and 9, twice through in between; the meter is read around them.
  assert (found["seconds"], found["joules"]) == (8 / 2, 10 / 2)
  engine._meter = Meter("not measurable here: broken")
  assert "joules" not in engine.energy("a", [batch()], at_least=5)


def test_energy_and_chips_are_a_sentence_and_a_token(monkeypatch):
  class Told:
    def call(self, *_):
      return {"platform": "tpu", "chips": 4, "method": "x", "joules": 6.0}

  monkeypatch.setattr(inference, "file_bytes", lambda engine, files: 7)
  running = {"jax": (Told(), ["a"])}
  some = row()
  some |= inference._size_and_energy(some, running, {"a": None}, [batch()])
  energy = some["energy"]
  assert energy["joules_per_sentence"] == 3 and energy["joules_per_token"] == 2
  assert energy["chip_seconds_per_sentence"] == pytest.approx(4 / 500)
  assert energy["chip_seconds_per_token"] == pytest.approx(4 / 5000)
  text = tables.as_text([some], [batch()])
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
  process = Here(engines.SpacyPipeline, "da_core")
  assert process.call("describe") == "spacy:da_core-3.8.0"
  running = {"spacy": (process, ["da_core"])}
  assert not inference.check_agreement(running, batch())
  times = inference.time_rounds(running, [batch()], 2)
  assert read == ["word", "word"] * 3
  some = inference._speed(("da_core", "spacy"), times, [batch()])
  some |= inference._size_and_energy(some, running, {}, [batch()])
  text = tables.as_text([some | {"error": None}], [batch()])
  assert "da_core, spacy" in text
  with pytest.raises(UserError, match="spaCy has no such pipeline"):
    engines.SpacyPipeline("da_other")


def test_engines_that_differ_are_refused():
  class Liar:
    def __init__(self, value):
      self.value = value

    def call(self, *_):
      return np.full((2, 8, 3), self.value, np.float32)

  running = {"jax": (Liar(0.0), ["a"]), "torch": (Liar(0.1), ["a"])}
  with pytest.raises(RunError, match="a: torch differs by 1.0e-01"):
    inference.check_agreement(running, batch())


@pytest.mark.parametrize(
  ("flag", "expected"),
  [
    ("--models=a", "expected a model"),
    ("--models=x=random:huge", "random:huge is unknown; known: m, s, xs"),
    ("--models=x=random:2x20", "12 attention heads do not divide the width"),
    ("--engines=tea", "--engines: tea unknown; known: jax, torch"),
    ("--spacy=da_core", "da_core needs spaCy, which is not installed"),
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
