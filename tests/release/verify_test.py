"""`verify` catches every corruption, and says what it cannot know."""

import json
import pathlib
import re
import shutil

import exporting
import numpy as np
import pytest
import torch
from exporting import command
from tiny_tokenizers import write_tokenizer

from time_jax.hf import tokenizer
from time_jax.release import verify

BLOCK = "encoder.layer.1.attention.self."


@pytest.fixture
def folder(exports, tmp_path):
  """A copy of an export, to damage."""
  exported = exports("XLMRobertaModel")
  return pathlib.Path(shutil.copytree(exported, tmp_path / "export"))


def change_tensors(folder, change):
  content = exporting.tensors(folder)
  change(content)
  exporting.write_tensors(folder, content)


def transpose(folder):
  name = f"{BLOCK}value.weight"
  change_tensors(folder, lambda x: x.update({name: x[name].T}))


def drop(folder):
  change_tensors(folder, lambda x: x.pop("encoder.layer.0.output.dense.bias"))


def shift_positions(folder):
  name = "embeddings.position_embeddings.weight"
  change_tensors(folder, lambda x: x.update({name: np.roll(x[name], 1, 0)}))


def wrong_pad(folder):
  path = folder / "config.json"
  content = json.loads(path.read_text())
  path.write_text(json.dumps(content | {"pad_token_id": 1}))


def swap(folder):
  def change(x):
    q, k = (f"{BLOCK}{n}.weight" for n in ("query", "key"))
    x[q], x[k] = x[k], x[q]

  change_tensors(folder, change)


def other_tokenizer(folder):
  """Of the same size, with the same special tokens."""
  content = json.loads((folder / "tokenizer.json").read_text())
  words = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
  config = (folder / "tokenizer_config.json").read_text()
  write_tokenizer(folder, [*words[:5], *reversed(words[5:])])
  (folder / "tokenizer_config.json").write_text(config)


# What finds each one where no hash does; by the record, and with the run but
# without the record.
CORRUPTIONS = {
  transpose: ("fingerprint", "checkpoint"),
  drop: ("tensors", "tensors"),
  shift_positions: ("fingerprint", "checkpoint"),
  wrong_pad: ("config", "config"),
  swap: ("fingerprint", "checkpoint"),
  other_tokenizer: ("tokenizer", "tokenizer"),
}


def problems(output):
  return re.findall(r"^  WRONG  (.+?)  ", output, re.M)


@pytest.mark.parametrize("name", exporting.CLASSES)
def test_a_sound_folder(capsys, imported, exports, name):
  folder = exports(name)
  capsys.readouterr()  # What was said when it was exported.
  output = command(capsys, "verify", folder, f"--against={imported}")
  assert output.splitlines()[-1].startswith("No problem found; 0 of 10 could")
  marks = re.findall(r"^  (\S+) ", output, re.M)
  assert marks == ["ok"] * 10
  for kind in ("random tokens", "text"):
    (found,) = re.findall(rf"PyTorch, {kind} +(.*)", output)
    assert float(re.search(r"within (\S+);", found)[1]) < 1e-5
  assert "lengths 1, 2, 3, 17, 33, 64, padded and alone" in output


@pytest.mark.usefixtures("without_torch")
def test_what_was_changed_after_the_export_is_caught(capsys, folder):
  transpose(folder)
  output = command(capsys, "verify", folder, code=2)
  assert problems(output) == ["files", "fingerprint"]
  assert "model.safetensors was changed after the export" in output


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda f: f.__name__)
def test_what_the_export_did_wrong_is_caught(capsys, imported, folder, corrupt):
  """By what the checkpoint gave, though the hashes are right; or by the run."""
  by_record, by_run = CORRUPTIONS[corrupt]
  corrupt(folder)
  exporting.rehash(folder)
  found = problems(command(capsys, "verify", folder, code=2))
  assert by_record in found and "files" not in found
  (folder / "time_jax.json").unlink()
  flag = f"--against={imported}"
  assert by_run in problems(command(capsys, "verify", folder, flag, code=2))


def test_what_cannot_be_known_is_said(capsys, folder):
  """Neither record nor run: PyTorch and JAX read the same wrong weights."""
  swap(folder)
  (folder / "time_jax.json").unlink()
  output = command(capsys, "verify", folder)
  assert "not an export of time_jax, so that weights which load" in output
  assert "a wrong tokenizer of the right size, pass unseen" in output


@pytest.mark.usefixtures("without_torch")
def test_a_tokenizer_of_a_larger_vocabulary(capsys, folder):
  content = json.loads((folder / "tokenizer.json").read_text())
  words = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
  write_tokenizer(folder, [*words, "more", "words"])
  (folder / "time_jax.json").unlink()
  output = command(capsys, "verify", folder, code=2)
  assert "tokenizer" in problems(output)


@pytest.mark.usefixtures("without_torch")
def test_an_id_that_only_ours_must_say(folder):
  path = folder / "config.json"
  content = json.loads(path.read_text())
  del content["pad_token_id"]
  path.write_text(json.dumps(content))
  assert {c.name: c.ok for c in verify.verify(folder)}["config"] is False
  (folder / "time_jax.json").unlink()
  assert {c.name: c.ok for c in verify.verify(folder)}["config"] is True


@pytest.mark.usefixtures("without_torch")
def test_a_text_that_came_back_once(capsys, monkeypatch, folder):
  monkeypatch.setattr(tokenizer, "round_trips", lambda *what: [])
  output = command(capsys, "verify", folder, code=2)
  assert problems(output) == ["tokenizer"]
  assert "no longer comes back from its ids: 'Small is fast.'" in output


def test_a_pickle_of_another(capsys, folder, tmp_path):
  weights = {n: torch.tensor(x) for n, x in exporting.tensors(folder).items()}
  torch.save(weights, folder / "pytorch_model.bin")
  for name in ("model.safetensors", "time_jax.json"):
    (folder / name).unlink()
  output = command(capsys, "verify", folder, code=2)
  assert "as a pickle only" in output
  output = command(capsys, "verify", folder, "--allow_pickle")
  assert not problems(output) and "ok     PyTorch, text" in output
  flags = f"--workdir={tmp_path / 'run'}", "--allow_pickle"
  assert "Imported" in command(capsys, "import", folder, *flags)


@pytest.mark.usefixtures("without_torch")
def test_a_card_with_a_hole(capsys, folder):
  path = folder / "README.md"
  text = path.read_text()
  path.write_text(re.sub(r"(?s)## Limits.*?(?=## )", "", text))
  output = command(capsys, "verify", folder, code=2)
  assert problems(output) == ["model card"]
  assert "lacks the section 'Limits'" in output
  for row in ("teacher", "loss in training"):
    path.write_text(re.sub(rf"(?m)^\| {row} \|.*\n", "", text))
    output = command(capsys, "verify", folder, code=2)
    assert f"README.md does not say: {row}" in output
  former = text.replace("| loss ", "| relation loss ")
  assert former != text
  path.write_text(former + "\nScores that somebody added later.\n")
  command(capsys, "verify", folder)


@pytest.mark.parametrize(
  "name",
  [
    "xlm_roberta",
    "ltgbert",
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in ("bert", "electra", "deberta_v3", "modernbert", "t5_encoder")
    ),
  ],
)
def test_folders_of_others(capsys, golden, name):
  """No record, no tokenizer: what is left is loading, shapes and PyTorch."""
  output = command(capsys, "verify", golden / name)
  assert not problems(output)
  (found,) = re.findall(r"PyTorch, random tokens +(.*)", output)
  if name == "ltgbert":
    assert found == "not checked: transformers has no such class"
  else:
    assert found.startswith("hidden states equal within")
