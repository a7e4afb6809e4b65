"""`bench inference`: real tokens, paired rounds, engines that agree."""

import json

import exporting
import numpy as np
import pytest
from exporting import command

pytest.importorskip("onnxruntime")

from time_jax.bench import inference, subjects
from time_jax.hf import tokenizer


@pytest.fixture
def model(tiny, tmp_path):
  return exporting.random_model(tmp_path / "model", tiny / "teacher")


def test_batches_are_sentences_and_padding():
  sentences = [np.arange(1, n + 1) for n in (3, 9, 17)]
  for tokens, mask in inference.real_batches(sentences, 4, 5, pad_id=0):
    assert len(tokens) == 4 and tokens.shape[1] in (8, 16, 24)
    for row, shown in zip(tokens, mask, strict=True):
      assert row[shown > 0].tolist() in [ids.tolist() for ids in sentences]
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
  file = tmp_path / "found.json"
  pytest.importorskip("torch")
  output = command(
    capsys,
    *("bench", "inference", f"--models=one={model},two={model}"),
    *(f"--text={text}", f"--tokenizer={model}", "--batch_sizes=1,2"),
    *("--batches=1", "--repeats=2", f"--json={file}"),
  )
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


def test_random_shapes(tiny):
  words = tokenizer.load_tokenizer(tiny / "teacher", 153)
  found = subjects._shape("2x16x2", words)
  assert (found.num_layers, found.hidden_size, found.num_heads) == (2, 16, 2)
  assert found.intermediate_size == 64
  assert subjects._shape("4x384", words) == subjects._shape("xs", words)


def test_engines_that_differ_are_refused(monkeypatch):
  class Liar:
    def __init__(self, value):
      self.value = value

    def call(self, *_):
      return np.full((1, 8, 3), self.value, np.float32)

  batch = np.ones((1, 8), np.int64), np.ones((1, 8), np.int64)
  running = {"jax": (Liar(0.0), ["a"]), "torch": (Liar(0.1), ["a"])}
  with pytest.raises(inference.RunError, match="a: torch differs by 1.0e-01"):
    inference._measure(running, [batch], 1)


@pytest.mark.parametrize(
  ("flag", "expected"),
  [
    ("--models=a", "expected a model"),
    ("--models=x=random:huge", "random:huge is unknown; known: m, s, xs"),
    ("--models=x=random:2x20", "12 attention heads do not divide the width"),
    ("--engines=tea", "--engines: tea unknown; known: jax, torch"),
  ],
)
def test_what_is_refused(capsys, model, tmp_path, flag, expected):
  text = tmp_path / "text.txt"
  text.write_text("abcd\n")
  flags = [f"--models=a={model}", f"--text={text}", f"--tokenizer={model}"]
  output = command(capsys, "bench", "inference", *flags, flag, code=2)
  assert expected in output
