"""finetune qa and predict, from the command line, on samples of SQuAD."""

import collections
import io
import json
import os
import pathlib
import re
import signal
import statistics
import string
import sys

import numpy as np
import pytest
import running
import tiny_qa

from time_jax.cli import main
from time_jax.evals.common.text_lines import read_bytes
from time_jax.evals.qa import scoring, squad, task
from time_jax.evals.qa.squad import Answer
from time_jax.evals.qa.windows import Window
from time_jax.parallel import sharding
from time_jax.report import per_item

LEARN = (
  "--config.train.epochs=20",
  "--config.train.patience=20",
  "--config.train.peak_lr=3e-2",
  "--config.train.encoder_factor=0.3",
  "--config.train.dropout=0",
  "--config.train.encoder_dropout=0",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return tiny_qa.write_encoder(tmp_path_factory.mktemp("model") / "encoder")


@pytest.fixture(scope="module")
def handful(tmp_path_factory):
  """Two questions each about three paragraphs."""
  content = json.loads((tiny_qa.QA / "en-train.json").read_text())
  content["data"] = content["data"][:3]
  for article in content["data"]:
    (paragraph,) = article["paragraphs"]
    paragraph["qas"] = paragraph["qas"][:2]
    first, second = (row["answers"][0]["text"] for row in paragraph["qas"])
    assert first != second
  path = tmp_path_factory.mktemp("handful") / "six.json"
  path.write_text(json.dumps(content))
  return path


def learn(model, handful, workdir, *flags):
  test = f"--config.data.test={tiny_qa.QA}/en-dev.json"
  files = (f"--config.data.train={handful}", f"--config.data.dev={handful}")
  return tiny_qa.command(model, workdir, *files, test, *LEARN, *flags)


@pytest.fixture(scope="module")
def finished(model, handful, tmp_path_factory):
  """Two seeds that learn the training file by heart, which is dev, too."""
  workdir = tmp_path_factory.mktemp("finished")
  code, output = running.run(
    learn(model, handful, workdir, "--config.seeds=(0,4)")
  )
  assert code == 0, output
  return workdir, output


def by_hand(path, answers):
  """F1 and EM of {id: text}, as SQuAD v1.1 defines them."""

  def plain(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

  def f1(found, gold):
    found, gold = plain(found).split(), plain(gold).split()
    same = sum(
      (collections.Counter(found) & collections.Counter(gold)).values()
    )
    if not same:
      return 0
    precision, recall = same / len(found), same / len(gold)
    return 2 * precision * recall / (precision + recall)

  values = collections.defaultdict(list)
  for article in json.loads(read_bytes(path, ""))["data"]:
    for paragraph in article["paragraphs"]:
      for row in paragraph["qas"]:
        golds = [answer["text"] for answer in row["answers"]]
        found = answers[row["id"]]
        values["F1"].append(max(f1(found, gold) for gold in golds))
        values["EM"].append(max(plain(found) == plain(gold) for gold in golds))
  return {name: 100 * statistics.fmean(some) for name, some in values.items()}


# QUESTIONS=FILE tests a whole file in the layout of SQuAD, too.
FILES = [
  *(tiny_qa.QA / "en-train.json", tiny_qa.QA / "en-dev.json"),
  *map(pathlib.Path, filter(None, [os.environ.get("QUESTIONS")])),
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_gold_wrong_and_partial_answers_score_as_defined(path):
  gold = squad.read(path)
  found, cuts = [], set()
  for i, question in enumerate(gold):
    text = question.answers[-1].text
    words = text.split()
    changed = (
      text,
      f"The {text.upper()}!",
      " ".join(words[:-1]),
      f"{text} {question.context[:20]}",
      gold[i - 1].answers[0].text,
    )[i % 5]
    cuts.add(i % 5)
    found.append(question.with_answer(Answer(changed, 0)))
  assert cuts == set(range(5))
  answers = {question.id: question.answers[0].text for question in found}
  values = scoring.score(gold, found, "en")
  assert values == pytest.approx(by_hand(path, answers))
  assert 20 < values["EM"] < values["F1"] < 80
  right = [q.with_answer(q.answers[0]) for q in gold]
  assert scoring.score(gold, right, "en") == {"F1": 100, "EM": 100}
  wrong = [q.with_answer(Answer("zyzzyva", 0)) for q in gold]
  assert scoring.score(gold, wrong, "en") == {"F1": 0, "EM": 0}


@pytest.mark.usefixtures("one_process")
def test_a_short_run_is_scored_and_predicts(
  model, handful, mesh, capsys, monkeypatch, tmp_path
):
  # One device, so that little is compiled.
  monkeypatch.setattr(sharding, "make_mesh", lambda **sizes: mesh)
  flags = ("--config.train.epochs=3", "--config.data.test=")
  assert main.main(learn(model, handful, tmp_path, *flags)) == 0
  folder = tmp_path / "seed-0"
  answers = json.loads((folder / "dev.json").read_text())
  scores = json.loads((folder / "scores.json").read_text())["scores"]
  items = per_item.read(folder, "dev")
  for metric, value in scores["dev"].items():
    found = items[metric]
    assert 100 * sum(found.right) / sum(found.whole) == value
  assert scores["dev"] == pytest.approx(by_hand(handful, answers))
  capsys.readouterr()
  content = json.loads(handful.read_text())
  long = {"id": "long", "question": "Who " * 600}
  content["data"][0]["paragraphs"][0]["qas"].insert(0, long)
  source = io.TextIOWrapper(io.BytesIO(json.dumps(content).encode()))
  monkeypatch.setattr(sys, "stdin", source)
  assert main.main(["predict", str(folder / "model")]) == 0
  output = capsys.readouterr()
  first, *rows = map(json.loads, output.out.splitlines())
  assert first == {"id": "long", "answer": "", "start": 0, "score": 0.0}
  assert "note: input: question long: its " in output.err
  assert {row["id"]: row["answer"] for row in rows} == answers


@pytest.mark.slow
def test_scores_are_those_of_the_written_files(finished, handful):
  workdir, output = finished
  summary = json.loads((workdir / "scores.json").read_text())
  golds = {"dev": handful, "test": tiny_qa.QA / "en-dev.json"}
  for split, path in golds.items():
    values = []
    for seed in (0, 4):
      folder = workdir / f"seed-{seed}"
      answers = json.loads((folder / f"{split}.json").read_text())
      scores = json.loads((folder / "scores.json").read_text())["scores"]
      assert scores[split] == pytest.approx(by_hand(path, answers))
      values.append(scores[split]["F1"])
    assert summary["scores"][split]["F1"]["values"] == values
    (line,) = (x for x in output.splitlines() if x.startswith(split))
    assert line.split()[1] == f"{statistics.fmean(values):.2f}"
  assert "Scores by the definition of SQuAD v1.1, in percent: " in output
  assert f"{workdir}/seed-0/model < questions.json > answers.jsonl" in output


@pytest.mark.slow
def test_what_was_learned_by_heart_is_right(finished):
  scores = json.loads((finished[0] / "scores.json").read_text())["scores"]
  assert scores["dev"]["EM"]["mean"] == 100, finished[1]


@pytest.mark.usefixtures("one_process")
@pytest.mark.slow
def test_predict_on_squad_and_on_lines(finished, handful, capsys, monkeypatch):
  folder = finished[0] / "seed-0" / "model"

  def predict(text, code=0):
    source = io.TextIOWrapper(io.BytesIO(text.encode()))
    monkeypatch.setattr(sys, "stdin", source)
    assert main.main(["predict", str(folder)]) == code
    return capsys.readouterr()

  output = predict(handful.read_text())
  rows = [json.loads(line) for line in output.out.splitlines()]
  expected = json.loads((finished[0] / "seed-0" / "dev.json").read_text())
  assert {row["id"]: row["answer"] for row in rows} == expected
  assert "6 questions in " in output.err
  questions = squad.read(handful)
  for row, question in zip(rows, questions, strict=True):
    stop = row["start"] + len(row["answer"])
    assert question.context[row["start"] : stop] == row["answer"]
    assert 0.1 < row["score"] <= 1
  lines = [
    {"id": q.id, "question": q.text, "context": q.context} for q in questions
  ]
  lines.append({"id": "none", "question": "Who?", "context": ""})
  again = predict("\n".join(map(json.dumps, lines))).out.splitlines()
  assert again[:-1] == output.out.splitlines()
  empty = {"id": "none", "answer": "", "start": 0, "score": 0.0}
  assert json.loads(again[-1]) == empty
  assert "the input is empty; expected questions in the" in predict("", 2).err
  assert "input: no JSON: " in predict("Who?", 2).err


@pytest.mark.slow
def test_killed_and_started_again_ends_bit_equal(
  finished, model, handful, tmp_path
):
  arguments = learn(model, handful, tmp_path, "--config.seeds=(0,)")
  process = running.start(arguments)
  code, output = running.stop_at(process, tmp_path / "seed-0", 8)
  assert code == -signal.SIGKILL, output
  code, output = running.run(arguments)
  assert code == 0, output
  whole, again = finished[0] / "seed-0", tmp_path / "seed-0"
  for name in ("test.json", "model/model.safetensors"):
    assert (again / name).read_bytes() == (whole / name).read_bytes(), name
  assert running.scores(again) == running.scores(whole)


@pytest.mark.usefixtures("one_process")
def test_bad_settings_and_files(model, capsys, tmp_path):
  def error(*flags, **files):
    arguments = tiny_qa.command(model, tmp_path / "run", *flags, **files)
    assert main.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line

  line = error("--config.data.overlap=0", "--config.data.longest_answer=0")
  assert "data.overlap=0, expected a whole number from 1 to" in line
  assert "data.longest_answer=0, expected a whole number from 1 to" in line
  assert "no file at" in error(train="nothing")
  assert "unknown language 'klingon'" in error("--config.lang=klingon")
  # Of dev, too, before anything is trained.
  line = error("--config.data.longest=20", train="en-dev", dev="en-train")
  assert "en-dev.json: question 57" in line
  assert "leave no room for the context in a window of 20" in line
  assert not (tmp_path / "run" / "seed-0").exists()


def test_answers_that_teach_nothing_are_noted_with_what_helps(capsys):
  questions = squad.read(tiny_qa.QA / "en-dev.json")[:4]
  spans = np.array([[0, len(questions[0].context)]])
  none = spans[:0]
  windows = [
    Window(i, none, none, 1, some, (0, 9))
    for i, some in ((0, spans), (0, none), (1, none), (2, spans), (3, none))
  ]
  targets = [(0, 0), (0, 0), (5, 6), (0, 0), (0, 0)]
  task.note_lost(windows, targets, questions)
  cut, unknown = capsys.readouterr().err.splitlines()
  assert f"question {questions[0].id}: its answer is whole in no window" in cut
  assert "(2 such questions in this file); raise data.overlap or" in cut
  assert (
    f"question {questions[3].id}: the tokenizer has no token for" in unknown
  )
  assert repr(questions[3].answers[0].text) in unknown
  assert "(1 such questions in this file); take a model whose" in unknown
