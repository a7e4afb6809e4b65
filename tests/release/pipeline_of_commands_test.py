"""distill, choose, export: a student is trained, picked and handed over."""

import itertools
import json
import pathlib
import re
import shutil

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import running
import safetensors.numpy
import torch
import transformers
from meshes import make_mesh

from time_jax.checkpoint.reader import CheckpointReader
from time_jax.cli import main
from time_jax.core.arrays import make_batch
from time_jax.core.errors import RunError
from time_jax.hf import save
from time_jax.models.bert import BertConfig, Encoder
from time_jax.models.family import abstract_params
from time_jax.parallel import sharding
from time_jax.release import export
from time_jax.run import choose
from time_jax.step import evaluate

STEPS = [10, 20, 30]
ALL_DEVICES = sharding.make_mesh

pytestmark = pytest.mark.usefixtures("without_torch")  # Where it is not wanted.


@pytest.fixture
def run(distilled, tmp_path):
  """A copy of the run, to change."""
  return pathlib.Path(shutil.copytree(distilled, tmp_path / "run"))


def command(capsys, *argv, code=0):
  """Output of a command; the line of its error for another code."""
  assert main.main([str(word) for word in argv]) == code
  output = capsys.readouterr()
  if code:
    (line,) = output.err.splitlines()
    assert line.startswith("time_jax: error: ")
    return line.removeprefix("time_jax: error: ")
  assert "error" not in output.err
  return output.out


def exported(run, name="export"):
  """Step and tensors of an exported folder."""
  record = json.loads((run / name / "time_jax.json").read_text())
  weights = safetensors.numpy.load_file(run / name / "model.safetensors")
  return record["step"], weights


def saved(run, step):
  """The student's encoder and its parameters, from a checkpoint."""
  shape = json.loads((run / "student.json").read_text())
  assert shape["vocab_size"] == 153
  config = BertConfig(**shape)
  encoder = Encoder(config, config.num_layers, jnp.dtype("float32"))
  boxed = abstract_params(encoder)
  abstract = {"params": sharding.abstract(boxed, make_mesh(1, 1, 1))}
  with CheckpointReader(run) as checkpoints:
    return encoder, checkpoints.restore(step, abstract)["params"]


def test_choose_ranks_by_the_loss_on_held_out_text(tiny, released):
  run, out, _ = released
  choice = json.loads((run / "choice.json").read_text())
  losses = {
    int(step): values["loss"] for step, values in choice["candidates"].items()
  }
  assert sorted(losses) == STEPS
  chosen = min(losses, key=losses.get)
  assert choice["step"] == chosen
  assert choice["loss"] == losses[chosen]
  assert choice["validation"] == [f"{tiny}/validation.txt"]
  # The run itself evaluated the same checkpoints on one device.
  evaluated = {
    row["step"]: row["eval/loss"]
    for row in running.metrics(run)
    if "eval/loss" in row
  }
  for step in STEPS:
    assert losses[step] == pytest.approx(evaluated[step], rel=1e-4)
    values = choice["candidates"][str(step)]
    parts = [values[f"kl_{name}"] for name in ("qq", "kk", "vv")]
    assert losses[step] == pytest.approx(sum(parts), rel=1e-5)
  header, *rows, end, following = out.splitlines()
  assert header.split()[:2] == ["rank", "step"]
  column = header.split().index("loss")
  table = [(int(r.split()[1]), float(r.split()[column])) for r in rows]
  assert [row.split()[0] for row in rows] == ["1", "2", "3"]
  assert table == sorted(
    ((step, round(loss, 5)) for step, loss in losses.items()),
    key=lambda row: row[1],
  )
  how = "the lowest loss on held-out text"
  assert end == (
    f"Chosen: step {chosen} by {how}, written to {run}/choice.json."
  )
  assert (choice["by"], choice["reason"]) == ("loss", how)
  assert following == f"Next: python -m time_jax export --workdir={run}"


@pytest.mark.parametrize(
  ("losses", "ranking"),
  [
    ((0.5, 0.5, 0.6), [20, 10, 30]),
    ((0.5, 0.6, 0.5), [30, 10, 20]),
    ((0.4, 0.4, 0.4), [30, 20, 10]),
    ((float("nan"), 0.6, 0.5), [30, 20, 10]),
    ((0.6, float("inf"), float("nan")), [10, 30, 20]),
  ],
)
def test_of_equals_the_later_step_wins(
  capsys, monkeypatch, run, losses, ranking
):
  found = iter(losses)
  monkeypatch.setattr(
    evaluate,
    "make_evaluator",
    lambda *setting: lambda *what: {"student": {"loss": next(found)}},
  )
  out = command(capsys, "choose", f"--workdir={run}")
  rows = re.findall(r"^ +(\d) +(\d+) ", out, re.M)
  assert rows == [(str(i), str(s)) for i, s in enumerate(ranking, 1)]
  assert choose.read_choice(run) == ranking[0]


def test_a_run_without_a_finite_loss_has_no_choice(capsys, monkeypatch, run):
  monkeypatch.setattr(
    evaluate,
    "make_evaluator",
    lambda *setting: lambda *what: {"student": {"loss": float("nan")}},
  )
  line = command(capsys, "choose", f"--workdir={run}", code=2)
  assert line == "no checkpoint has a finite loss."
  assert not (run / "choice.json").exists()


def test_choose_needs_neither_the_mesh_nor_the_batch_of_the_run(
  capsys, monkeypatch, run
):
  monkeypatch.setattr(sharding, "make_mesh", ALL_DEVICES)
  config = json.loads((run / "config.json").read_text())
  config["mesh"] = {"data": 1, "fsdp": 3, "tensor": 1}
  config["eval"]["global_batch_size"] = 3
  (run / "config.json").write_text(json.dumps(config))
  assert "Chosen: step " in command(capsys, "choose", f"--workdir={run}")


def test_the_export_is_equal_in_torch(tiny, released):
  run, _, out = released
  step, weights = exported(run)
  assert step == choose.read_choice(run)
  assert f"Exported step {step} to {run}/export (BertModel, float32)\n" in out
  for name in ("fingerprint", "PyTorch, random tokens", "PyTorch, text"):
    assert re.search(rf"ok +{name} +hidden states equal within \d", out)
  folder = str(run / "export")
  model, found = transformers.AutoModel.from_pretrained(
    folder, output_loading_info=True
  )
  assert type(model).__name__ == "BertModel"
  assert not any(found.values()), found
  assert weights.keys() == {
    name for name in model.state_dict() if "_ids" not in name
  }
  assert all(tensor.dtype == np.float32 for tensor in weights.values())
  assert not model.training and model.dtype == torch.float32
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  texts = (tiny / "validation.txt").read_text().split("\n\n")[:6]
  inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
  mask = inputs["attention_mask"].numpy()
  assert mask.min() == 0 and mask.sum(1).min() > 2
  with torch.no_grad():
    states = model(**inputs, output_hidden_states=True).hidden_states
  encoder, params = saved(run, step)
  batch = make_batch(inputs["input_ids"].numpy(), mask)
  ours = encoder.apply({"params": params}, batch, method="hidden_states")
  assert len(ours) == len(states) == 3
  real = mask > 0
  for mine, theirs in zip(ours, states, strict=True):
    difference = np.abs(np.asarray(mine) - theirs.numpy())[real]
    assert difference.max() < 1e-5


def test_the_exported_tokenizer_is_the_teachers(tiny, released):
  folder = released[0] / "export"
  student = transformers.AutoTokenizer.from_pretrained(str(folder))
  teacher = transformers.AutoTokenizer.from_pretrained(str(tiny / "teacher"))
  texts = (tiny / "validation.txt").read_text().split("\n\n")
  texts += ["", "not a word of it"]
  assert student(texts)["input_ids"] == teacher(texts)["input_ids"]
  assert student.model_max_length == 64
  config = json.loads((folder / "config.json").read_text())
  assert config["pad_token_id"] == student.pad_token_id == 0
  assert config["bos_token_id"] == student.cls_token_id == 2
  assert config["eos_token_id"] == student.sep_token_id == 3
  assert config["vocab_size"] == len(student) == 153
  assert config["max_position_embeddings"] == 64


def test_step_and_out(capsys, run):
  command(capsys, "export", f"--workdir={run}")
  assert exported(run)[0] == 30  # Nothing is chosen yet: the newest.
  (run / "choice.json").write_text('{"step": 20}')
  command(capsys, "export", f"--workdir={run}", f"--out={run}/chosen")
  step, weights = exported(run, "chosen")
  assert step == 20
  (run / "choice.json").write_text("{")
  flags = "--step=10", f"--out={run}/deep/er/first"
  command(capsys, "export", f"--workdir={run}", *flags)
  step, others = exported(run, "deep/er/first")
  assert step == 10
  assert exported(run)[0] == 30
  _, params = saved(run, 10)
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  name = "embeddings.word_embeddings.weight"
  table = np.asarray(flat["embeddings/word/embedding"])
  np.testing.assert_array_equal(others[name], table)
  assert np.abs(weights[name] - table).max() > 1e-4


@pytest.mark.parametrize(
  ("choice", "words"),
  [
    ("{", "choice.json is damaged: "),
    ("[]", "choice.json is damaged: "),
    ('{"step": "last"}', "choice.json is damaged: "),
    ('{"step": 7}', "no checkpoint of step 7 in "),
  ],
)
def test_a_damaged_choice(capsys, run, choice, words):
  (run / "choice.json").write_text(choice)
  line = command(capsys, "export", f"--workdir={run}", code=2)
  assert words in line and str(run) in line
  assert "run `time_jax choose` again." in line
  assert not (run / "export").exists()


def test_a_step_that_was_not_kept(capsys, run):
  line = command(capsys, "export", f"--workdir={run}", "--step=11", code=2)
  assert line.startswith(f"no checkpoint of step 11 in {run}; there are: 10, ")
  assert "10, 20, 30;" in line


@pytest.mark.parametrize("name", ["choose", "export"])
def test_a_run_without_checkpoints(capsys, run, name):
  shutil.rmtree(run / "checkpoints")
  line = command(capsys, name, f"--workdir={run}", code=2)
  assert line.startswith(f"no checkpoints in {run}; expected the --workdir")
  (run / "checkpoints").mkdir()
  line = command(capsys, name, f"--workdir={run}", code=2)
  assert line == f"no finished checkpoint in {run}/checkpoints."


def test_a_damaged_checkpoint_is_named(capsys, run):
  shutil.rmtree(run / "checkpoints" / "30" / "params")
  for name in ("choose", "export"):
    line = command(capsys, name, f"--workdir={run}", code=2)
    assert line.startswith(f"the checkpoint {run}/checkpoints/30 cannot be")


def content_of(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_a_foreign_folder_is_left_alone(capsys, tmp_path, run):
  mine = tmp_path / "mine"
  mine.mkdir()
  (mine / "thesis.txt").write_text("years of work")
  for out in (mine, mine / "thesis.txt"):
    line = command(capsys, "export", f"--workdir={run}", f"--out={out}", code=2)
    assert line.startswith(f"{out} exists and is no earlier export; expected")
  line = command(
    capsys, "export", f"--workdir={run}", f"--out={mine}/thesis.txt/x", code=2
  )
  assert "thesis.txt/x (see --out): File exists; expected a folder" in line
  assert content_of(mine) == {pathlib.Path("thesis.txt"): b"years of work"}


def test_an_earlier_export_is_replaced_as_a_whole(capsys, monkeypatch, run):
  neighbour = run / "export.tmp"
  neighbour.mkdir()
  (neighbour / "mine").write_text("mine")
  command(capsys, "export", f"--workdir={run}", "--step=10")
  (run / "export" / "stale.txt").write_text("of the first export")
  before = content_of(run / "export")
  names = sorted(path.name for path in run.iterdir())

  def refuse(*what, **how):
    raise RunError("not equal.")

  with monkeypatch.context() as patch:
    patch.setattr(export.verify, "verify", refuse)
    flags = f"--workdir={run}", "--step=20"
    assert command(capsys, "export", *flags, code=3) == "not equal."
  assert content_of(run / "export") == before
  remove, removed = shutil.rmtree, []

  def watch(folder, **how):
    removed.append((folder == run / "export", exported(run)[0]))
    remove(folder, **how)

  with monkeypatch.context() as patch:
    patch.setattr(shutil, "rmtree", watch)
    command(capsys, "export", f"--workdir={run}", "--step=20")
  # The new one is in its place before anything of the old one is deleted.
  assert set(removed[:-1]) == {(False, 10)}
  assert removed[-1] == (False, 20)
  assert not (run / "export" / "stale.txt").exists()
  assert sorted(path.name for path in run.iterdir()) == names
  assert content_of(neighbour) == {pathlib.Path("mine"): b"mine"}


def test_the_folder_where_one_stands(capsys, monkeypatch, tmp_path, run):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  command(capsys, "export", f"--workdir={run}", "--out=.")
  assert exported(tmp_path, "here")[0] == 30


def test_an_export_that_is_not_equal_is_refused(capsys, monkeypatch, run):
  """As if a file were written wrongly; verify_test.py has the rest."""
  write = save.bert_tensors

  def damage(*what):
    tensors = write(*what)
    tensors["encoder.layer.1.output.LayerNorm.bias"] += 1e-3
    return tensors

  command(capsys, "export", f"--workdir={run}", "--step=10")
  before = content_of(run / "export")
  monkeypatch.setattr(save, "bert_tensors", damage)
  line = command(capsys, "export", f"--workdir={run}", code=3)
  assert "fingerprint: hidden states differ by " in line
  assert content_of(run / "export") == before


def test_the_card_says_what_the_run_recorded(tiny, released):
  run, *_ = released
  text = (run / "export" / "README.md").read_text()
  rows = [r for r in running.metrics(run) if "train/loss" in r]
  manifest = json.loads((run / "data" / "manifest.json").read_text())
  train = manifest["splits"]["train"]
  for name, value in {
    "teacher": "teacher",  # Not whose home it lies in.
    "distilled layer of the teacher": "2",
    "relation heads R": "4",
    "relations": "QQ, KK, VV",
    "training text": f"train.jsonl: {train['documents']} documents, "
    f"{train['tokens']:,} tokens, {train['rows']} rows, "
    f"{train['packing_efficiency']:.1%} full",
    "tokens read": f"{sum(r['data/tokens'] for r in rows):,.0f}",
    "loss in training": f"{rows[0]['train/loss']:.4f} (step 1), "
    f"{rows[-1]['train/loss']:.4f} (step 30)",
    "hardware of the session that saved it": f"{jax.device_count()} x cpu, "
    "1 process(es)",
  }.items():
    assert f"| {name} | {value} |" in text, name
  assert str(tiny) not in text
  for words in ("language: en", "license: cc-by-4.0", "encoder for English"):
    assert words in text


def test_the_run_leaves_its_record(distilled):
  rows = running.metrics(distilled)
  steps = [row["step"] for row in rows if "train/loss" in row]
  assert steps == list(range(1, 31))
  assert (distilled / "loss.png").stat().st_size > 1000
  assert list((distilled / "tensorboard").iterdir())
  key = "eval/loss"
  first, *_, last = [row[key] for row in rows if key in row]
  assert last < first
  later = itertools.pairwise(row["step"] for row in rows)
  assert all(a <= b for a, b in later)
  assert jax.device_count() == 8  # Unlike the run's, which had one.
