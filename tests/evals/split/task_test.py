"""finetune split and predict with raw text, from the command line."""

import io
import json
import sys

import pytest
import running
import tiny_ner
import tiny_qa
import tiny_split
import tiny_ud
from tiny_split import row

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.evals.common import word_tokens
from time_jax.evals.predict.pipeline import open_network
from time_jax.evals.split import treebank
from time_jax.evals.split.task import Split
from time_jax.evals.ud import conllu

pytest.importorskip("udtools")
TEXT = "  Il va au lac.  L'été mange du pain.\nLes 12-chat vont à Paris !\n\n"
LEARN = (
  "--config.train.epochs=12",
  "--config.train.peak_lr=5e-3",
  "--config.train.encoder_factor=1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run that learns what the patterns are."""
  home = tmp_path_factory.mktemp("split")
  train = tiny_split.write_treebank(home / "fr-train.conllu", 0, 200)
  dev = tiny_split.write_treebank(home / "fr-dev.conllu", 1, 20)
  encoder = tiny_split.write_encoder(home / "encoder")
  code, output = running.run(
    tiny_split.command(encoder, home / "run", train, dev, *LEARN)
  )
  assert code == 0, output
  return home, output


@pytest.fixture
def predict(monkeypatch, capsys):
  """What `predict` writes for a text, and says."""

  def run(text, *flags, code=0):
    data = text if isinstance(text, bytes) else text.encode()
    source = io.TextIOWrapper(io.BytesIO(data))
    monkeypatch.setattr(sys, "stdin", source)
    assert main.main(["predict", *map(str, flags)]) == code
    return capsys.readouterr()

  return run


def read(text):
  return conllu.parse(text.encode().split(b"\n"), "out", trees=False)


def test_it_learns(finished):
  home, output = finished
  scores = json.loads((home / "run" / "seed-0" / "scores.json").read_text())
  best = scores["scores"]["dev"]
  assert best["Tokens"] > 98 and best["Words"] > 98
  # Of 20 sentences: rounding makes a few more or less of them right.
  assert best["Sentences"] > 60
  assert "Sentences" in output
  # What was found is there as a file, with the text that it is of.
  found = read((home / "run" / "seed-0" / "dev.conllu").read_text())
  (gold,) = treebank.read(home / "fr-dev.conllu")
  assert tiny_split.rebuild(found) == gold.text


def test_report_shows_its_scores(finished, capsys, tmp_path):
  words = ["report", str(finished[0] / "run"), f"--out={tmp_path / 'report'}"]
  assert main.main(words) == 0
  table = capsys.readouterr().out.partition("## Raw text")[2]
  assert "| Tokens | Sentences | Words |" in table
  assert table.count("(dev) |") == 3


# Words that are written without spaces, and what other treebanks have.
SCORED = {
  "zh": [
    ("我们", "No"),
    ("在", "No"),
    ("北京大学", "No"),
    ("学习", "No"),
    ("。", "No"),
  ],
  "ja": [
    ("東京", "No"),
    ("タワー", "No"),
    ("へ", "No"),
    ("行く", "No"),
    ("か", "No"),
  ],
  "th": [("ที่", "No"), ("ภาษา", "No"), ("ไทย", "Yes"), ("๒๕", "No")],
  "spaces": [("\xa0a\x85b\u2028c", "Yes"), ("\x0bd\x1fe\xa0", "Yes")],
}


@pytest.mark.parametrize("name", [*SCORED, "range"])
def test_right_labels_score_100(name):
  if name == "range":
    rows = [row("1", "a"), row("2-2", "du"), row("2", "de"), row("3", "b")]
  else:
    rows = [
      row(str(number), form, f"SpaceAfter={after}")
      for number, (form, after) in enumerate(SCORED[name], 1)
    ]
  gold = tiny_split.read("\n".join(["".join(rows)] * 3))
  found = [tiny_split.oracle(passage) for passage in gold]
  scores = Split.__new__(Split).score(gold, found)
  assert scores == {"Tokens": 100, "Sentences": 100, "Words": 100}


def test_classes_that_are_no_scripts(mesh, tmp_path):
  model = tiny_split.write_model(tmp_path / "split", mesh)
  description = json.loads((model / "task.json").read_text())
  description["classes"]["WORDS"][-1] = "?x"
  (model / "task.json").write_text(json.dumps(description))
  with pytest.raises(
    UserError, match=r"task.json: heads .*'\?x' is a class of WORDS, where edit"
  ):
    open_network(model)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("engine", ["jax", "onnxruntime"])
def test_predict(finished, predict, engine):
  if engine == "onnxruntime":
    pytest.importorskip(engine)
    pytest.importorskip("onnx")
  model = finished[0] / "run" / "seed-0" / "model"
  found = read(predict(TEXT, model, f"--engine={engine}").out)
  assert tiny_split.rebuild(found) == TEXT
  words = [" ".join(sentence.column("FORM")) for sentence in found]
  assert words == [
    "Il va à le lac .",
    "L' été mange de le pain .",
    "Les 12 - chat vont à Paris !",
  ]


@pytest.mark.usefixtures("one_process")
def test_other_models_read_raw_text(finished, predict, mesh, tmp_path):
  """Words and spaces stay, and each word is annotated."""
  split = f"--split={finished[0]}/run/seed-0/model"
  trees = tiny_ud.write_model(tmp_path / "ud", mesh)
  found = read(predict(TEXT, trees, split).out)
  assert tiny_split.rebuild(found) == TEXT
  assert [len(sentence.words) for sentence in found] == [6, 7, 8]
  assert all("_" not in sentence.column("UPOS") for sentence in found)
  names = tiny_ner.write_model(tmp_path / "ner", mesh)
  output = predict(TEXT, names, split)
  tagged = [line.split("\t")[0] for line in output.out.split("\n")]
  # Names are annotated on tokens: `au` is one.
  assert tagged[:6] == ["Il", "va", "au", "lac", ".", ""]
  assert tagged[6:12] == ["L'", "été", "mange", "du", "pain", "."]
  error = predict("\n \n", names, split, code=2).err
  assert "is empty; expected text whose paragraphs end with an empty" in error


@pytest.mark.usefixtures("one_process")
def test_windows_are_no_matter_of_the_user(finished, predict, monkeypatch):
  """Those of 192 atoms have more than the 64 tokens that the encoder takes."""
  notes = []
  monkeypatch.setattr(word_tokens, "note", notes.append)
  predict("Il va au lac . " * 50, finished[0] / "run" / "seed-0" / "model")
  assert notes == [] and "are read in parts" not in finished[1]


@pytest.mark.usefixtures("one_process")
def test_what_stands_before_an_error_is_answered(finished, predict):
  split = finished[0] / "run" / "seed-0" / "model"
  whole = predict("Il va au lac.", split).out
  bad = predict(b"Il va au lac.\xff\n\nX.", split, code=2)
  assert bad.out == whole != ""
  assert "input:1: not UTF-8 at byte 14 of the text" in bad.err


@pytest.mark.usefixtures("one_process")
def test_what_cannot_split(finished, predict, mesh, tmp_path):
  split = finished[0] / "run" / "seed-0" / "model"
  answers = tiny_qa.write_model(tmp_path / "qa", mesh)
  error = predict(TEXT, answers, f"--split={split}", code=2).err
  assert "'qa', which does not read sentences" in error
  assert error.endswith("expected one of ud or ner: leave --split out.\n")
  error = predict(TEXT, split, f"--split={split}", code=2).err
  assert "'split', which splits raw text itself; expected" in error
  assert error.endswith("leave --split out.\n")
  names = tiny_ner.write_model(tmp_path / "ner", mesh)
  error = predict(TEXT, names, f"--split={names}", code=2).err
  assert "--split is a model of task 'ner'; expected one of" in error
