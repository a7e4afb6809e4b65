"""finetune ud and predict, from the command line, on samples of treebanks."""

import hashlib
import io
import json
import shutil
import signal
import sys

import numpy as np
import pytest
import running
import safetensors.numpy
import tiny_ud

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.evals.common.task import SCORE
from time_jax.evals.ud import conllu, scoring
from time_jax.hf import weight_files
from time_jax.parallel import host_collectives, sharding

udeval = pytest.importorskip("udtools.udeval")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return tiny_ud.write_encoder(tmp_path_factory.mktemp("model") / "encoder")


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
  """A run of a process of its own: two seeds, three epochs."""
  workdir = tmp_path_factory.mktemp("finished")
  dev = tiny_ud.UD / "ga-dev.conllu.gz"
  arguments = tiny_ud.command(
    model,
    workdir,
    "--config.train.epochs=3",
    "--config.train.patience=3",
    "--config.seeds=(0,4)",
    f"--config.data.test={dev}",
  )
  code, output = running.run(arguments)
  assert code == 0, output
  return workdir, output


def by_hand(gold, system):
  """What udtools' own command line functions give."""
  with gold.open("rb") as file:
    import gzip

    text = gzip.decompress(file.read()).decode()
  plain = system.with_suffix(".gold")
  plain.write_text(text)
  found = udeval.evaluate(
    udeval.load_conllu_file(str(plain)), udeval.load_conllu_file(str(system))
  )
  return {name: 100 * found[name].f1 for name in scoring.METRICS}


def test_what_udtools_does_not_take_is_told_before_training():
  lines = "# c\n1\tA\ta\tX\t_\t_\t0\troot\t{}\t_\n\n"
  text = "\n" + lines.format("0:root") + "\n" + lines.format("_")
  sound = conllu.parse(text.encode().splitlines(keepends=True), "a.conllu")
  scoring.check(sound)  # Blank lines are nothing that a user must mend.
  assert set(scoring.score(sound, sound).values()) == {100}
  for deps in ("0", "7:dep", "x:dep"):
    bad = (text + lines.format(deps)).encode().splitlines(keepends=True)
    with pytest.raises(UserError, match=r"a.conllu:9: udtools.*also in DEPS"):
      scoring.check(conllu.parse(bad, "a.conllu"))


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
  ("field", "words"),
  [
    ("train.peak_lr", "train.peak_lr is 0.003 in process 0, 'other' in"),
    ("dev file (SHA-256)", "dev file (SHA-256) is '"),
    *(
      pytest.param(*words, marks=pytest.mark.slow)
      for words in (
        ("seeds", "seeds is [0] in process 0, 'other' in process 1"),
        ("model (SHA-256)", "model (SHA-256) is '"),
        ("tokenizer (SHA-256)", "tokenizer (SHA-256) is '"),
      )
    ),
    ("versions.jax", "versions.jax is '"),
  ],
)
def test_processes_that_would_not_make_one_run(
  model, monkeypatch, capsys, tmp_path, field, words
):
  """Each of these made two models in one workdir; process 1 is replaced."""

  def gather(text):
    mine = json.loads(text)
    other = {field: "other"} if field in mine else {}
    return [text, json.dumps(mine | other)]

  monkeypatch.setattr(host_collectives, "all_gather", gather)
  assert main.main(tiny_ud.command(model, tmp_path)) == 2
  told = capsys.readouterr().err
  assert f"would not make one run: {words}" in told
  assert "; expected the same command" in told and told.count("in process") == 2
  assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("one_process")
def test_process_0_says_which_seeds_are_done(
  model, mesh, monkeypatch, capsys, tmp_path
):
  """Here it has seen a file that this process does not see yet."""
  monkeypatch.setattr(sharding, "make_mesh", lambda **sizes: mesh)
  done = {"run": {"seed": 7}, "scores": {}, "seconds": 1}
  with monkeypatch.context() as patch:
    patch.setattr(
      host_collectives, "run_on_first", lambda work: json.dumps(done)
    )
    assert main.main(tiny_ud.command(model, tmp_path)) == 2
  told = capsys.readouterr().err
  assert f"{tmp_path}/seed-0 belongs to another run: " in told
  assert "seed: 7 then, 0 now" in told
  (tmp_path / "seed-0").mkdir()
  path = tmp_path / "seed-0" / "scores.json"
  path.write_text(json.dumps({"scores": {}, "seconds": 1}))
  assert main.main(tiny_ud.command(model, tmp_path)) == 2
  assert f"{path} lacks run; delete it" in capsys.readouterr().err


@pytest.mark.usefixtures("one_process")
def test_a_short_run_is_scored(capsys, mesh, monkeypatch, tmp_path):
  """Of the tests of `finished` below, what can be had in seconds."""
  # One device and one shape of batches, so that little is compiled.
  monkeypatch.setattr(sharding, "make_mesh", lambda **sizes: mesh)
  sentences = conllu.read(tiny_ud.UD / "ga-train.conllu.gz")
  texts = [" ".join(sentence.column("FORM")) for sentence in sentences]
  model = tiny_ud.write_bert(tmp_path / "model", texts, longest=32)
  flags = (
    *("--config.data.buckets=(32,)", "--config.train.epochs=1"),
    "--config.checkpoint.every=100",
  )
  assert main.main(tiny_ud.command(model, tmp_path / "run", *flags)) == 0
  folder = tmp_path / "run" / "seed-0"
  expected = by_hand(tiny_ud.UD / "ga-dev.conllu.gz", folder / "dev.conllu")
  scores = json.loads((folder / "scores.json").read_text())["scores"]
  assert scores["dev"] == expected
  for sentence in conllu.read(folder / "dev.conllu"):  # The model is weak.
    heads, relations = map(sentence.column, ("HEAD", "DEPREL"))
    assert heads.count("0") == 1
    assert [h == "0" for h in heads] == [r == "root" for r in relations]
  for name in ("UPOS", "Lemmas", "UAS"):
    assert 0 < expected[name] < 100
  picture = (folder / "learning_curve.png").read_bytes()
  assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
  capsys.readouterr()
  # Who predicts need not have what scores.
  monkeypatch.setitem(sys.modules, "udtools.udeval", None)
  said = predict(capsys, monkeypatch, folder / "model", "Tá sé .".encode())
  assert [line.split("\t")[1] for line in said.out.splitlines() if line] == [
    *("Tá", "sé", ".")
  ]
  # Weights that are not finite would give arbitrary trees.
  path = folder / "model" / "heads.safetensors"
  heads = safetensors.numpy.load_file(path)
  heads["arc_kernel"] = heads["arc_kernel"] * np.nan
  safetensors.numpy.save_file(heads, path)
  said = predict(capsys, monkeypatch, path.parent, "Tá sé .".encode(), code=2)
  assert not said.out and f"weights of {path.parent} hold NaN" in said.err


@pytest.mark.slow
def test_scores_are_those_of_udtools_on_the_written_files(finished):
  workdir, output = finished
  gold = tiny_ud.UD / "ga-dev.conllu.gz"
  summary = json.loads((workdir / "scores.json").read_text())
  for split in ("dev", "test"):
    values = []
    for seed in (0, 4):
      folder = workdir / f"seed-{seed}"
      expected = by_hand(gold, folder / f"{split}.conllu")
      scores = json.loads((folder / "scores.json").read_text())
      assert scores["scores"][split] == expected
      values.append(expected["UPOS"])
    found = summary["scores"][split]["UPOS"]
    assert found["values"] == values
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["std"] == pytest.approx(np.std(values, ddof=1))
    (line,) = (x for x in output.splitlines() if x.startswith(split))
    assert line.split()[1] == f"{np.mean(values):.2f}"
  assert f"predict {workdir}/seed-0/model < text" in output


@pytest.mark.slow
def test_the_summary_says_of_what_and_on_what(finished, model):
  workdir, _ = finished
  found = json.loads((workdir / "scores.json").read_text())
  assert found["schema"] == "time_jax.finetune/1"
  assert found["label"] == f"{model.parent.name}/encoder"
  assert found["fingerprint_before"] == weight_files.fingerprint(model)
  assert len(bytes.fromhex(found["fingerprint"])) == 32
  assert found["shape"]["layers"] == 2
  gold = tiny_ud.UD / "ga-dev.conllu.gz"
  assert found["files"]["test"] == {
    "path": str(gold),
    "sha256": hashlib.sha256(gold.read_bytes()).hexdigest(),
  }
  assert found["hardware"]["kind"] and found["software"]["jax"]
  seeds = [
    json.loads(p.read_text()) for p in workdir.glob("seed-*/scores.json")
  ]
  assert sorted(found["seconds"]["values"]) == sorted(
    seed["seconds"] for seed in seeds
  )
  for seed in seeds:
    assert seed["by"]["dev"] == seed["by"]["test"]  # One file.
    rows = seed["by"]["dev"]["upos"].values()
    words = sum(row["words"] for row in rows)
    right = sum(row["LAS"] for row in rows)
    expected = seed["scores"]["dev"]["LAS"]
    assert 100 * right / words == pytest.approx(expected)


@pytest.mark.slow
def test_predictions_keep_the_rest_and_have_one_root(finished):
  workdir, _ = finished
  gold = conllu.read(tiny_ud.UD / "ga-dev.conllu.gz")
  found = conllu.read(workdir / "seed-0" / "dev.conllu")  # Checks the trees.
  for before, after in zip(gold, found, strict=True):
    for name in ("ID", "FORM", "MISC"):
      assert before.column(name) == after.column(name)
    # No gold graph is passed off as predicted.
    assert set(after.column("DEPS")) == {"_"}
    assert before.rows[:2] == after.rows[:2]


@pytest.mark.slow
def test_it_learns_and_the_best_epoch_is_kept(finished):
  workdir, _ = finished
  content = json.loads((workdir / "seed-0" / "scores.json").read_text())
  best = content["epochs"][content["best_epoch"] - 1]
  assert best[SCORE] == max(e[SCORE] for e in content["epochs"])
  assert best["dev/LAS"] == content["scores"]["dev"]["LAS"]
  rows = [r for r in running.metrics(workdir / "seed-0") if "train/loss" in r]
  assert rows[-1]["train/loss"] < 0.95 * rows[0]["train/loss"]


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(finished, model):
  workdir, before = finished
  flags = (
    "--config.train.epochs=3",
    "--config.train.patience=3",
    "--config.seeds=(0,4)",
    f"--config.data.test={tiny_ud.UD}/ga-dev.conllu.gz",
  )
  code, output = running.run(tiny_ud.command(model, workdir, *flags))
  assert code == 0 and "epoch" not in output
  assert output.splitlines()[-1] == before.splitlines()[-1]
  changed = tiny_ud.command(
    model, workdir, *flags, "--config.train.dropout=0.2"
  )
  code, output = running.run(changed)
  assert code == 2 and "train.dropout: 0.3 then, 0.2 now" in output


def predict(capsys, monkeypatch, folder, text, code=0):
  source = io.TextIOWrapper(io.BytesIO(text))
  monkeypatch.setattr(sys, "stdin", source)
  assert main.main(["predict", str(folder)]) == code
  return capsys.readouterr()


@pytest.mark.usefixtures("one_process")
@pytest.mark.slow
def test_predict_writes_what_the_run_wrote(finished, capsys, monkeypatch):
  folder = finished[0] / "seed-0"
  moved = shutil.copytree(folder / "model", finished[0] / "moved")
  written = (folder / "dev.conllu").read_bytes()
  output = predict(capsys, monkeypatch, moved, written)
  assert output.out == written.decode()
  assert "12 sentences, 195 words in " in output.err
  assert "sentences/s" in output.err
  plain = "\n\n".join(
    " ".join(sentence.column("FORM"))
    for sentence in conllu.parse(written.splitlines(keepends=True), "x")
  )
  output = predict(capsys, monkeypatch, moved, plain.encode())
  (expected, found) = (
    [s.words for s in conllu.parse(text.encode().splitlines(True), "x")]
    for text in (written.decode(), output.out)
  )
  for before, after in zip(expected, found, strict=True):
    assert [w[:8] for w in before] == [w[:8] for w in after]


@pytest.mark.usefixtures("one_process")
@pytest.mark.slow
def test_predict_on_bad_input(finished, capsys, monkeypatch, tmp_path):
  folder = finished[0] / "seed-0" / "model"
  for text, words, answered in (
    (b"", "the input is empty", []),
    # The sentence before the bad line is answered.
    (b"ok\n\xff\n", "input:2: not UTF-8 at byte 1", ["ok"]),
    (b"1" + b"\tx" * 8 + b"\n", "input:1: 9 columns, expected 10", []),
  ):
    output = predict(capsys, monkeypatch, folder, text, code=2)
    assert words in output.err
    rows = [line.split("\t") for line in output.out.splitlines() if line]
    assert [row[1] for row in rows if len(row) == 10] == answered
  output = predict(capsys, monkeypatch, tmp_path, b"x", code=2)
  assert "holds no task.json; expected the folder of a fine-tuned" in output.err
  record = json.loads((folder / "task.json").read_text())
  (tmp_path / "task.json").write_text(json.dumps({**record, "task": "chess"}))
  output = predict(capsys, monkeypatch, tmp_path, b"x", code=2)
  assert "is of task 'chess'; expected one of ud, ner, qa" in output.err
  (tmp_path / "task.json").write_text("{}")
  output = predict(capsys, monkeypatch, tmp_path, b"x", code=2)
  assert "lacks buckets, classes, heads, task" in output.err


@pytest.mark.slow
def test_killed_and_started_again_ends_bit_equal(finished, model, tmp_path):
  arguments = tiny_ud.command(
    model,
    tmp_path,
    "--config.train.epochs=3",
    "--config.train.patience=3",
    f"--config.data.test={tiny_ud.UD}/ga-dev.conllu.gz",
  )
  process = running.start(arguments)
  code, output = running.stop_at(process, tmp_path / "seed-0", 8)
  assert code == -signal.SIGKILL, output
  code, output = running.run(arguments)
  assert code == 0, output
  whole = finished[0] / "seed-0"
  for name in ("dev.conllu", "model/heads.safetensors"):
    again = (tmp_path / "seed-0" / name).read_bytes()
    assert again == (whole / name).read_bytes(), name
  weights = "model/model.safetensors"
  assert (tmp_path / "seed-0" / weights).read_bytes() == (
    whole / weights
  ).read_bytes()
  assert running.scores(tmp_path / "seed-0") == running.scores(whole)


@pytest.mark.usefixtures("one_process")
def test_random_weights_and_bad_settings(model, capsys, tmp_path):
  def error(*flags, **files):
    arguments = tiny_ud.command(model, tmp_path / "run", *flags, **files)
    assert main.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line

  line = error("--config.init=zero", "--config.train.ema=1.0")
  assert "init='zero', expected one of model, random" in line
  assert "train.ema=1.0, expected a number from 0 to 0.999999" in line
  assert "no file at" in error(train="nothing")
  assert "is no workdir, so step" in error("--config.step=3")
  assert "model is empty" in error("--config.model=")
  assert not (tmp_path / "run" / "seed-0").exists()
