"""finetune ner and predict, from the command line, on samples of Danish."""

import importlib
import io
import itertools
import json
import random
import re
import signal
import sys

import alone
import jax.numpy as jnp
import numpy as np
import pytest
import running
import tiny_ner

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.evals.common.word_layers import first_token
from time_jax.evals.ner import iob, task
from time_jax.parallel import sharding
from time_jax.report import per_item

metrics = pytest.importorskip("seqeval.metrics")
TRAIN = tiny_ner.NER / "da-train.iob2"
LEARN = (
  "--config.train.epochs=30",
  "--config.train.patience=30",
  "--config.train.peak_lr=3e-2",
  "--config.train.encoder_factor=0.3",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return tiny_ner.write_encoder(tmp_path_factory.mktemp("model") / "encoder")


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
  """Two seeds that learn the training file by heart, which is dev, too."""
  workdir = tmp_path_factory.mktemp("finished")
  test = f"--config.data.test={tiny_ner.NER}/da-dev.iob2"
  flags = (test, *LEARN, "--config.seeds=(0,4)")
  code, output = running.run(
    tiny_ner.command(model, workdir, *flags, dev="da-train")
  )
  assert code == 0, output
  return workdir, output


def tags_of(path):
  """By hand: what stands behind the tabs."""
  blocks = path.read_text().strip().split("\n\n")
  return [
    [line.split("\t")[1] for line in block.split("\n")] for block in blocks
  ]


def by_hand(gold, found):
  """What seqeval's functions give, in percent."""
  return pytest.approx(
    {
      "F1": 100 * metrics.f1_score(gold, found),
      "precision": 100 * metrics.precision_score(gold, found),
      "recall": 100 * metrics.recall_score(gold, found),
    }
  )


@pytest.fixture(scope="module")
def short(tmp_path_factory):
  """A test file without entities, and flags of a short run."""
  empty = tmp_path_factory.mktemp("empty") / "empty.iob2"
  empty.write_text("Ja\tO\n")
  test = f"--config.data.test={empty}"
  return empty, (*LEARN, "--config.train.epochs=4", test)


@pytest.fixture(scope="module")
def short_run(model, short, tmp_path_factory):
  """Its workdir, and what it printed."""
  workdir = tmp_path_factory.mktemp("short")
  command = tiny_ner.command(model, workdir, *short[1], dev="da-train")
  return workdir, alone.run(*command)


@pytest.mark.usefixtures("one_process")
def test_a_short_run_is_scored_and_predicts(
  short_run, mesh, capsys, monkeypatch
):
  # One device, so that little is compiled.
  monkeypatch.setattr(sharding, "make_mesh", lambda **sizes: mesh)
  workdir, output = short_run
  assert "\ntest " + "  undefined" * 3 in output
  summary = json.loads((workdir / "scores.json").read_text())["scores"]
  nothing = {"mean": None, "std": None, "values": [None]}
  assert summary["test"] == dict.fromkeys(task.METRICS, nothing)
  folder = workdir / "seed-101"
  gold, found = tags_of(TRAIN), tags_of(folder / "dev.iob2")
  scores = json.loads((folder / "scores.json").read_text())["scores"]
  assert scores["dev"] == by_hand(gold, found)
  assert scores["dev"]["F1"] > 0
  items = per_item.read(folder, "dev")["F1"]
  found_f1 = 100 * sum(items.right) / sum(items.whole)
  assert found_f1 == pytest.approx(scores["dev"]["F1"])
  assert len(items.right) == len(gold)
  assert per_item.read(folder, "test") == {}
  capsys.readouterr()

  def predict(text):
    source = io.TextIOWrapper(io.BytesIO(text.encode()))
    monkeypatch.setattr(sys, "stdin", source)
    assert main.main(["predict", str(folder / "model")]) == 0
    return capsys.readouterr().out

  text, expected = TRAIN.read_text(), (folder / "dev.iob2").read_text()
  assert predict(text) == expected
  marked = [f"-DOCSTART-{mark}O\n\n" for mark in (" ", "\t", "\tO\t")]
  spaces = [some.replace("\t", " ") for some in (text, expected)]
  assert predict(marked[0] + spaces[0]) == marked[0] + spaces[1]
  prefix = [re.sub(r"(?m)^(?=.)", "da:", some) for some in (text, expected)]
  assert predict(marked[1] + prefix[0]) == marked[1] + prefix[1]
  more = [some.replace("\t", "\tNN\t") for some in (text, expected)]
  assert predict(marked[2] + more[0]) == marked[2] + more[1]
  for name in ("stdin", "stdout"):  # closed, as by `<&-`
    with monkeypatch.context() as patch:
      patch.setattr(sys, name, None)
      assert main.main(["predict", str(folder / "model")]) == 2
      stream = name.removeprefix("std")
      assert (
        f"the standard {stream}put is closed; exp" in capsys.readouterr().err
      )


def test_two_processes_with_the_weights_between_them(
  model, short, short_run, tmp_path
):
  empty, flags = short
  flags = (*flags, "--config.mesh.fsdp=2")
  command = tiny_ner.command(model, tmp_path, *flags, dev="da-train")
  code, output = running.run(command, 2)
  assert code == 0, output
  assert f"{empty}: all tags are O, so the scores of test are un" in output
  one, two = (
    json.loads((workdir / "scores.json").read_text())["scores"]
    for workdir in (short_run[0], tmp_path)
  )
  assert one == two


@pytest.mark.slow
def test_scores_are_those_of_seqeval_on_the_written_files(finished):
  workdir, output = finished
  summary = json.loads((workdir / "scores.json").read_text())
  scheme = importlib.import_module("seqeval.scheme").IOB2
  golds = {"dev": TRAIN, "test": tiny_ner.NER / "da-dev.iob2"}
  for split, path in golds.items():
    values = []
    for seed in (0, 4):
      folder = workdir / f"seed-{seed}"
      gold, found = tags_of(path), tags_of(folder / f"{split}.iob2")
      scores = json.loads((folder / "scores.json").read_text())["scores"]
      assert scores[split] == by_hand(gold, found)
      strict = metrics.f1_score(gold, found, mode="strict", scheme=scheme)
      assert scores[split]["F1"] == pytest.approx(100 * strict)
      values.append(100 * strict)
    assert summary["scores"][split]["F1"]["values"] == pytest.approx(values)
    (line,) = (x for x in output.splitlines() if x.startswith(split))
    assert line.split()[1] == f"{np.mean(values):.2f}"
  assert f"Scores by seqeval, in percent: {workdir}/scores.json" in output
  assert f"predict {workdir}/seed-0/model < text > out.iob2" in output


@pytest.mark.slow
def test_what_was_learned_by_heart_is_nearly_right(finished):
  workdir, output = finished
  found = tags_of(workdir / "seed-0" / "dev.iob2")
  assert metrics.f1_score(tags_of(TRAIN), found) > 0.9, output


@pytest.mark.usefixtures("one_process")
@pytest.mark.slow
def test_predict_on_text_tokens_and_columns(finished, capsys, monkeypatch):
  folder = finished[0] / "seed-0" / "model"

  def predict(text, code=0):
    source = io.TextIOWrapper(io.BytesIO(text.encode()))
    monkeypatch.setattr(sys, "stdin", source)
    assert main.main(["predict", str(folder)]) == code
    return capsys.readouterr()

  expected = (finished[0] / "seed-0" / "dev.iob2").read_text()
  sentences = iob.read(TRAIN)
  words = sum(len(sentence.words) for sentence in sentences)
  output = predict("\n".join(" ".join(s.words) for s in sentences))
  assert output.out == expected
  assert f"20 sentences, {words} words in " in output.err
  blocks = ["\n".join(sentence.words) for sentence in sentences]
  assert predict("\n\n".join(blocks)).out == expected
  wrong = [s.with_tags(["O"] * len(s.words)) for s in sentences]
  assert predict(iob.to_text(wrong)).out == expected
  more = expected.replace("\t", "\tNN\t")
  assert predict(more).out == more
  assert "the input is empty; expected a token a line" in predict("", 2).err
  assert "input:2: the line does not" in predict("a\tx\n\tx\n", 2).err


@pytest.mark.slow
def test_killed_and_started_again_ends_bit_equal(finished, model, tmp_path):
  test = f"--config.data.test={tiny_ner.NER}/da-dev.iob2"
  arguments = tiny_ner.command(
    model, tmp_path, test, *LEARN, "--config.seeds=(0,)", dev="da-train"
  )
  process = running.start(arguments)
  code, output = running.stop_at(process, tmp_path / "seed-0", 8)
  assert code == -signal.SIGKILL, output
  code, output = running.run(arguments)
  assert code == 0, output
  whole, again = finished[0] / "seed-0", tmp_path / "seed-0"
  for name in ("test.iob2", "model/model.safetensors"):
    assert (again / name).read_bytes() == (whole / name).read_bytes(), name
  assert running.scores(again) == running.scores(whole)


def test_the_first_token_of_every_word():
  states = jnp.arange(12.0).reshape(2, 6, 1)
  owners = jnp.array([[0, 1, 1, 2, 3, 0], [0, 1, 2, 2, 2, 0]])
  found = first_token(states, owners, owners.shape[1])[..., 0]
  assert found[0, :3].tolist() == [1, 3, 4]
  assert found[1, :2].tolist() == [7, 8]


def test_repaired_tags_are_valid_and_the_same_entities():
  draw = random.Random(0)
  names = ["O", "B-X", "I-X", "B-Y", "I-Y"]
  changed = 0
  for _ in range(300):
    raw = draw.choices(names, k=draw.randint(1, 8))
    fixed = iob.repair(raw)
    assert iob.repair(fixed) == fixed
    pairs = itertools.pairwise(["O", *fixed])
    assert all(b[0] != "I" or a[1:] == b[1:] for a, b in pairs)
    scores = task.score_tags([raw], [fixed])
    entities = any(tag != "O" for tag in raw)
    assert set(scores.values()) == {100.0 if entities else None}
    changed += raw != fixed
  assert changed > 50
  scores = task.score_tags(
    [["B-X", "I-X", "O", "B-Y"]], [["B-X", "O", "O", "B-Y"]]
  )
  assert scores == {"F1": 50.0, "precision": 50.0, "recall": 50.0}


def test_unknown_tags_are_noted_with_their_line(capsys):
  parse = iob.parse([b"a\tO\n", b"b\tB-Z\n", b"\n", b"c\tB-Z\n"], "dev.iob2")
  capsys.readouterr()
  task.note_unknown(parse, ["O", "B-X"])
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("time_jax: note: dev.iob2:2: the tag 'B-Z' is not in")
  assert "(2 words with it in this file)" in line
  with pytest.raises(UserError, match=r"dev\.iob2: all tags are O; expected"):
    task.learn_tags([sentence.with_tags(["O"]) for sentence in parse])


@pytest.mark.usefixtures("one_process")
def test_bad_settings_and_files(model, capsys, tmp_path, monkeypatch):
  def error(*flags, **files):
    arguments = tiny_ner.command(model, tmp_path / "run", *flags, **files)
    assert main.main(arguments) == 2
    *notes, line = capsys.readouterr().err.splitlines()
    assert all("iob2: read as columns with tabs" in note for note in notes)
    return line

  line = error("--config.data.longest=0", "--config.train.dropout=1.0")
  assert "data.longest=0, expected a whole number from 1 to" in line
  assert "train.dropout=1.0, expected a number from 0 to 0.999999" in line
  assert "no file at" in error(train="nothing")
  bad = tmp_path / "bad.iob2"
  bad.write_text("a\tO\nb\tI-PER\nc\tB-X\n")
  line = error(f"--config.data.dev={bad}")
  assert f"{bad}:2: the tag I-PER follows O" in line
  bad.write_text("a\tO\nb\tO\n")
  line = error(f"--config.data.dev={bad}")
  assert f"{bad}: all tags are O, so F1 is undefined and no epoch" in line
  arguments = tiny_ner.command(model, tmp_path / "run")
  arguments[2] += ",depth=3"
  assert main.main(arguments) == 2
  assert "configs/ner.py has no argument 'depth'" in capsys.readouterr().err
  assert not (tmp_path / "run" / "seed-101").exists()
  monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
  assert "pip install -e '.[eval]' in the repository" in error()
