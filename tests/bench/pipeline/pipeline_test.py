"""`bench pipeline`: real heads, paired rounds, the same words for spaCy."""

import csv
import json
import re
import shutil
import sys
import types
from typing import ClassVar

import jax
import numpy as np
import pytest
import tiny_ner
import tiny_ud
from exporting import command
from here import Here

pytest.importorskip("udtools")

from time_jax.bench.pipeline import (
  cores,
  encoder_alone,
  gold,
  pipeline,
  random_model,
  rows,
  subjects,
)
from time_jax.core.errors import UserError
from time_jax.evals.common import model_folder
from time_jax.evals.common.onnx_engine import OnnxEngine
from time_jax.evals.predict import engines
from time_jax.evals.predict.pipeline import open_pipeline
from time_jax.evals.ud import conllu, scoring
from time_jax.models import stepwise
from time_jax.parallel import sharding

GOLD = tiny_ud.UD / "ga-dev.conllu.gz"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
  return tiny_ud.write_encoder(tmp_path_factory.mktemp("model") / "encoder")


@pytest.fixture
def one_device(mesh, monkeypatch):
  monkeypatch.setattr(sharding, "make_mesh", lambda **sizes: mesh)
  monkeypatch.setattr(pipeline, "ChildProcess", Here)
  monkeypatch.setattr(subjects, "ChildProcess", Here)


@pytest.fixture(scope="module")
def written(encoder, mesh, tmp_path_factory):
  """What `finetune` writes, but for the training."""
  annotated = gold.read(GOLD, "ud")
  out = tmp_path_factory.mktemp("written") / "model"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sharding, "make_mesh", lambda **sizes: mesh)
    random_model.write(out, "random:2x16x2", str(encoder), annotated)
  return out


@pytest.fixture
def folder(written, one_device, tmp_path):
  return shutil.copytree(written, tmp_path / "model")


def test_models_of_our_own(capsys, folder, tmp_path):
  out = tmp_path / "out"
  output = command(
    capsys,
    *("bench", "pipeline", f"a={folder}", "random:1x24x2", f"--gold={GOLD}"),
    *("--cores=1", "--sentences=3", "--batch_sizes=1,2", "--batches=2"),
    *("--repeats=2", f"--out={out}", f"--json={tmp_path / 'found.json'}"),
  )
  found = json.loads((out / "pipeline.json").read_text())
  assert found == json.loads((tmp_path / "found.json").read_text())
  first, second = found["models"]
  sentences = conllu.read(GOLD)
  predicted = open_pipeline(folder, engine="jax").annotate(sentences)
  assert first["scores"] == scoring.score(sentences, predicted)
  written = [path.name for path in out.glob("*.conllu")]
  assert written == ["a.conllu"]
  assert (out / "a.conllu").read_text() == conllu.to_text(predicted)
  assert second["scores"] is None
  assert second["name"] == second["given"] == "random:1x24x2"
  assert second["shape"]["width"] == 24
  words = sum(len(sentence.words) for sentence in sentences[:3])
  assert found["gold"] == {"path": str(GOLD), "sentences": 3, "words": words}
  for row in found["rows"]:
    assert row["cores"] == 1 and row["peak_bytes"] > 1e7
    assert row["words_s"] == pytest.approx(words / row["file_s"]["p50"])
    assert row["file_s"]["n"] == 2 and row["encoder_s"] > 0
    assert {k: v["n"] for k, v in row["latency_s"].items()} == {"1": 4, "2": 4}
    assert row["first_answer_s"].keys() == {"cold", "warm"}
  assert found["rows"][0]["to_first"] == {"file": 1, "1": 1, "2": 1}
  (one, two) = csv.DictReader((out / "pipeline.csv").read_text().splitlines())
  assert float(one["UPOS"]) == first["scores"]["UPOS"] and not two["UPOS"]
  assert (out / "pipeline.png").read_bytes().startswith(b"\x89PNG")
  table = read_tables(output)
  assert list(table) == ["a", "random:1x24x2"]
  assert table["random:1x24x2"]["LAS"] == "-"
  assert table["a"]["UPOS"] == f"{first['scores']['UPOS']:.2f}"
  assert table["a"]["words/s"] == f"{found['rows'][0]['words_s']:,.0f}"


def read_tables(output):
  """Returns column -> cell of each model, from both tables that are printed."""
  models, header = {}, []
  for line in output.splitlines():
    cells = re.split(r" {2,}", line)
    if cells[0] == "model":
      header = cells
    elif len(cells) == len(header):
      own = models.setdefault(cells[0], {})
      own |= dict(zip(header, cells, strict=True))
  return models


def test_each_engine_has_a_row(capsys, folder, tmp_path):
  pytest.importorskip("onnxruntime")
  file = tmp_path / "found.json"
  output = command(
    capsys,
    *("bench", "pipeline", f"a={folder}", "random:1x24x2", f"--gold={GOLD}"),
    *("--engines=onnxruntime,onnxruntime-int8,jax", "--cores=1"),
    *("--sentences=3", "--batch_sizes=1", "--batches=1", "--repeats=1"),
    f"--json={file}",
  )
  found = json.loads(file.read_text())
  names = ["a/onnxruntime", "a/int8", "a", "random:1x24x2/onnxruntime"]
  assert [row["model"] for row in found["rows"]] == names
  assert [own["name"] for own in found["models"]] == names
  assert found["rows"][0]["to_first"] == {"file": 1, "1": 1}
  assert all(row["over_encoder"] > 0 for row in found["rows"])
  models = dict(zip(names, found["models"], strict=True))
  sentences = conllu.read(GOLD)
  own = open_pipeline(folder, "onnxruntime", int8=True)
  expected = scoring.score(sentences, own.annotate(sentences))
  assert models["a/int8"]["scores"] == expected
  assert models["a"]["scores"] == models["a/onnxruntime"]["scores"]
  cost = models["a/int8"]["against_float32"]
  before, after = (models[name]["scores"]["UPOS"] for name in names[:2])
  assert (
    cost["model"] == "a/onnxruntime"
    and cost["points"]["UPOS"] == after - before
  )
  assert [own["against_float32"] for own in found["models"]].count(None) == 3
  assert (
    f"a/int8 against a/onnxruntime: UPOS {after - before:+.2f}, Lemmas "
    in output
  )
  table = read_tables(output)
  assert list(table) == names
  shown = [(row["engine"], row["dtype"]) for row in table.values()]
  assert shown == [
    ("onnxruntime", "float32"),
    ("onnxruntime", "int8"),
    ("jax", "float32"),
    ("onnxruntime", "float32"),
  ]
  assert table["a/int8"]["UPOS"] == f"{after:.2f}"


def test_another_encoder_is_computed_by_jax(
  capsys, folder, monkeypatch, tmp_path
):
  pytest.importorskip("onnxruntime")
  monkeypatch.setattr(engines, "in_onnx", lambda config: False)
  file = tmp_path / "found.json"
  output = command(
    capsys,
    *("bench", "pipeline", f"a={folder}", f"--gold={GOLD}", "--cores=1"),
    *("--engines=onnxruntime,onnxruntime-int8", "--sentences=1"),
    *("--batch_sizes=1", "--batches=1", "--repeats=1", f"--json={file}"),
  )
  (own,) = json.loads(file.read_text())["models"]
  assert (own["name"], own["engine"]) == ("a", "jax")
  assert "a is computed by JAX: onnxruntime knows no such encoder" in output


def test_the_encoder_alone_has_the_rows_of_the_pipeline(folder, monkeypatch):
  opened, sentences = open_pipeline(folder, engine="jax"), conllu.read(GOLD)[:5]
  seen = []
  real = stepwise.states

  def states(encoder, params, batch):
    seen.append(batch.tokens.shape)
    return real(encoder, params, batch)

  monkeypatch.setattr(stepwise, "states", states)
  opened.annotate(sentences)
  expected = sorted(seen)
  seen.clear()
  encoder_alone.make_pass(opened, folder, sentences, int8=False)()
  assert sorted(seen) == expected and seen


def test_the_encoder_alone_in_onnxruntime(folder, monkeypatch):
  pytest.importorskip("onnxruntime")
  opened = open_pipeline(folder, engine="onnxruntime")
  sentences = conllu.read(GOLD)[:5]
  found = []
  real = OnnxEngine.start

  def start(engine, program, row):
    found.append((row, real(engine, program, row)))
    return found[-1][1]

  monkeypatch.setattr(OnnxEngine, "start", start)
  encoder_alone.make_pass(opened, folder, sentences, int8=False)()
  assert all(state.outputs.done() for _, state in found)
  network = opened.network
  batches = [host.batch for _, host in network.prepare(sentences).batches]
  _, params = model_folder.read_model(folder, network.mesh)
  assert len(found) == len(batches)
  for batch, (row, state) in zip(batches, found, strict=True):
    np.testing.assert_array_equal(row.tokens, batch.tokens)
    encoder = network.opened.encoder
    expected = stepwise.last_state(encoder, params["encoder"], batch)
    real_tokens = batch.segment_ids > 0
    np.testing.assert_allclose(
      np.asarray(state)[real_tokens],
      jax.device_get(expected)[real_tokens],
      atol=1e-5,
    )


def test_onnxruntime_that_is_missing(capsys, folder, monkeypatch):
  monkeypatch.setattr(subjects, "make_subjects", None)  # It is not reached.
  monkeypatch.setitem(sys.modules, "onnxruntime", None)
  start = ["bench", "pipeline", f"a={folder}", f"--gold={GOLD}", "--cores=1"]
  for engine in ("onnxruntime", "onnxruntime-int8"):
    output = command(capsys, *start, f"--engines=jax,{engine}", code=2)
    assert "onnxruntime is not installed, and ONNX needs it: pip" in output


def test_names_of_people(capsys, one_device, tmp_path):
  pytest.importorskip("seqeval")
  file = tiny_ner.NER / "da-dev.iob2"
  encoder = tiny_ner.write_encoder(tmp_path / "encoder")
  out = tmp_path / "model"
  annotated = gold.read(file, "ner")
  random_model.write(out, "random:1x16x2", str(encoder), annotated)
  words = ["bench", "pipeline", f"a={out}", f"--gold={file}", "--cores=1"]
  output = command(
    capsys, *words, "--sentences=2", "--batches=1", "--repeats=1"
  )
  row = read_tables(output)["a"]
  assert row["dtype"] == "float32" and float(row["precision"]) <= 100
  output = command(capsys, *words, "--spacy=da_core", code=2)
  assert "--spacy=da_core is scored on treebanks alone" in output


def test_numbers_of_a_row():
  items = gold.read(GOLD, "ud").items[:4]
  sample = rows.Sample(items, {1: [[0], [1]]})
  words = sample.counts["words"]

  def rounds(*seconds):
    return [
      {"file": s, "batches": {1: [s / 10, s / 20]}, "encoder": s / own}
      for s, own in zip(seconds, (2, 2, 4), strict=True)
    ]

  times = {"slow": rounds(4, 8, 40), "fast": rounds(1, 1, 2)}
  row = rows.speed("fast", times, sample)
  assert (row["words_s"], row["sentences_s"]) == (words, 4)
  # The median of 4, 8 and 20, each of one round.
  assert row["to_first"] == pytest.approx({"file": 8, "1": 8})
  assert row["over_encoder"] == 2 and row["encoder_s"] == 0.5
  # Of 0.1 and 0.05, the same again, 0.2 and 0.1.
  assert row["latency_s"]["1"]["p50"] == pytest.approx(0.1)
  assert row["latency_s"]["1"]["n"] == 6
  times["fast"][1]["encoder"] = None
  assert rows.speed("fast", times, sample)["over_encoder"] is None
  energy = {"platform": "cpu", "method": "m", "joules": 12.0, "seconds": 1.0}
  each = rows.energy_of_each(energy, sample)
  assert each["joules_per_sentence"] == 3
  assert each["joules_per_word"] == 12 / words
  assert "joules_per_word" not in rows.energy_of_each({"method": "-"}, sample)


def test_threads_of_a_core_come_last(monkeypatch, tmp_path):
  monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
  assert cores.choose(3, tmp_path) == [0, 1, 2]
  for core, siblings in enumerate(("0-1", "0-1", "2-3", "2-3")):
    place = tmp_path / f"cpu{core}" / "topology"
    place.mkdir(parents=True)
    (place / "thread_siblings_list").write_text(siblings)
  assert cores.choose(3, tmp_path) == [0, 2, 1]
  with pytest.raises(UserError, match="--cores=5, but this process may use 4"):
    cores.choose(5, tmp_path)


@pytest.mark.parametrize(
  ("words", "expected"),
  [
    ("a=none", "none holds no task.json; expected the folder of a fine-tuned"),
    ("a", "'a': expected NAME=FOLDER or random:SHAPE"),
    ("random:xs random:xs", "random:xs is given twice"),
    ("random:xs", "all models are random, so that none has a tokenizer"),
    ("random:xs --engines=jax,jax", "--engines: jax is given twice"),
    ("random:xs --engines=int8", "expected one of jax, onnxruntime"),
    ("random:xs --cores=999", "--cores=999, but this process may use"),
  ],
)
def test_what_is_refused(capsys, one_device, words, expected):
  start = ["bench", "pipeline", f"--gold={GOLD}", "--cores=1"]
  output = command(capsys, *start, *words.split(), code=2)
  assert expected in output


def test_models_of_two_tasks(capsys, tmp_path):
  for task in ("ud", "qa"):
    (tmp_path / task).mkdir()
    description = {"task": task, "heads": {}, "classes": {}, "buckets": [8]}
    (tmp_path / task / "task.json").write_text(json.dumps(description))
  words = ["bench", "pipeline", f"--gold={GOLD}", "--cores=1"]
  ud, qa = f"a={tmp_path}/ud", f"b={tmp_path}/qa"
  output = command(capsys, *words, ud, qa, code=2)
  assert f"models of one task expected, not {tmp_path}/ud of ud, " in output
  output = command(capsys, *words, qa, code=2)
  assert "the models are of task 'qa', whose input is not words" in output


class Token(types.SimpleNamespace):
  """A noun of spaCy."""

  pos_, tag_, morph, lemma_ = "NOUN", "NN", "", "word"


class OneNounAfterTheOther:
  """A pipeline of spaCy that takes the first word for the root."""

  meta: ClassVar = {"lang": "ga", "name": "core", "version": "1.0"}
  pipe_names: ClassVar = ["parser"]
  vocab = None
  labels: ClassVar = ["ROOT", "nsubj", "obl:arg"]

  def get_pipe(self, name):
    assert name == "parser"
    return self

  def pipe(self, docs):
    for words, starts in docs:
      assert starts == [True] + [False] * (len(words) - 1)
      own = [Token(i=i, dep_="nsubj") for i in range(len(words))]
      for token in own:
        token.head = own[0]
      yield own


def test_spacy_beside_ours_on_one_core(capsys, folder, monkeypatch, tmp_path):
  loaded = {"ga_core": OneNounAfterTheOther}
  fake = types.SimpleNamespace(load=lambda name: loaded[name]())
  monkeypatch.setitem(sys.modules, "spacy", fake)
  tokens = types.SimpleNamespace(
    Doc=lambda vocab, words, sent_starts: (words, sent_starts)
  )
  monkeypatch.setitem(sys.modules, "spacy.tokens", tokens)
  monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: {0, 1})
  file = tmp_path / "found.json"
  command(
    capsys,
    *("bench", "pipeline", f"a={folder}", "--spacy=ga_core"),
    *(f"--gold={GOLD}", "--sentences=2", "--batches=1", "--repeats=1"),
    *("--batch_sizes=1", f"--json={file}"),
  )
  found = json.loads(file.read_text())
  pairs = [(row["model"], row["cores"]) for row in found["rows"]]
  assert pairs == [("a", 1), ("ga_core", 1), ("a", 2)]
  assert found["rows"][1]["over_encoder"] is None
  own = found["models"][1]
  assert own["fingerprint"] == "spacy:ga_core-1.0"
  assert (own["engine"], own["dtype"]) == ("spacy", "float32")
  upos = [tag for s in conllu.read(GOLD) for tag in s.column("UPOS")]
  right = 100 * upos.count("NOUN") / len(upos)
  assert own["scores"]["UPOS"] == pytest.approx(right)
  assert own["scores"].keys() == {"UPOS", "Lemmas", "UAS", "LAS"}
