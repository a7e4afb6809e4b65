"""What `inspect` says of whole checkpoints and of broken ones."""

import json
import pickle
import re
import shutil
import socket

import numpy as np
import pytest
import safetensors.numpy
import tiny_recipe

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.hf import files
from time_jax.run import assembly

KERNEL = "encoder.layer.1.intermediate.dense.weight"
PICKLE = "pytorch_model.bin"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
  def refuse(*args):
    raise AssertionError(f"the network is used: {args}")

  monkeypatch.setattr(socket, "getaddrinfo", refuse)
  monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def folder(tiny, tmp_path):
  """A BERT of three layers with its tokenizer, to be spoilt."""
  return shutil.copytree(tiny / "teacher", tmp_path / "teacher")


def inspect(capsys, *argv):
  """Exit code, {title: text} of the rows, and the problems."""
  code = main.main(["inspect", *map(str, argv)])
  output = capsys.readouterr()
  assert not output.err
  lines = output.out.splitlines()
  rows = dict(
    re.split("  +", line, maxsplit=1)
    for line in lines
    if re.match(r"\S[\w ]{,13}\S  ", line)
  )
  problems = [x.removeprefix("PROBLEM: ") for x in lines if "PROBLEM: " in x]
  if problems:
    assert lines[-1] == f"{len(problems)} problem(s)."
  else:
    assert lines[-1].startswith("Usable as a teacher: --config.teacher.path=")
  assert len(lines) == len(rows) + len(problems) + 1
  return code, rows, problems


def test_a_usable_checkpoint(capsys, folder):
  vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
  code, rows, problems = inspect(capsys, folder, "--layer=2")
  assert (code, problems) == (0, [])
  d, f = 32, 64
  numbers = (vocabulary + 64 + 2) * d + 2 * d  # embeddings
  numbers += 4 * (d * d + d) + (d * f + f) + (f * d + d) + 4 * d  # a block
  numbers += 3 * (d * d + d)  # projections
  size = (folder / "model.safetensors").stat().st_size
  assert rows == {
    "model": str(folder),
    "family": "bert (time_jax/models/bert.py)",
    "layers": "3, hidden size 32, 4 heads of 8",
    "vocabulary": f"{vocabulary} rows",
    "positions": "64",
    "files": f"model.safetensors, {size / 1000:.3g} kB",
    "tensors": "55 float32",
    "distilled": "layer 2 of 3",
    "kept": f"27 tensors: {numbers * 2 / 1000:.3g} kB in bfloat16, "
    f"{numbers * 4 / 1000:.3g} kB in float32",
    "dropped": rows["dropped"],
    "finite": "all 27 tensors that are kept",
    "projections": "query 32, key 32, value 32",
    "R for size s": "1, 2, 4, 8, 16, 32 (64 does not fit)",
    "R for size m": "1, 2, 4, 8, 16, 32 (64 does not fit)",
    "R for size xs": "1, 2, 4, 8, 16, 32 (64 does not fit)",
    "tokenizer": f"WordPiece, {vocabulary} entries for {vocabulary} rows",
    "special ids": "pad 0, bos 2, eos 3",
  }
  assert rows["dropped"].startswith("28 tensors, ")
  assert rows["dropped"].endswith(
    "encoder.layer.* (26), pooler.dense.bias, pooler.dense.weight"
  )


def test_defaults(capsys, folder):
  code, rows, _ = inspect(capsys, "--size=m", folder)
  assert code == 0
  assert rows["distilled"] == "layer 3 of 3"
  assert next(title for title in rows if title.startswith("R for")).endswith(
    "m"
  )


@pytest.mark.parametrize(
  ("name", "layer", "heads"),
  [
    ("FacebookAI/xlm-roberta-large@main", 19, "64"),
    ("HPLT/hplt_bert_base_2_0_dan-Latn", 12, "48"),
    ("someone/something", 3, "64"),
  ],
)
def test_the_recommended_layer(capsys, folder, monkeypatch, name, layer, heads):
  monkeypatch.setattr(files, "resolve", lambda name, allow_pickle: folder)
  _, rows, problems = inspect(capsys, name)
  assert f"({heads} does not fit)" in rows["R for size s"]
  if layer == 3:
    assert (rows["distilled"], problems) == ("layer 3 of 3", [])
  else:
    (problem,) = problems
    assert f"layer={layer} does not exist" in problem


def test_a_whole_file_beside_an_index(capsys, folder):
  name = "model.safetensors.index.json"
  (folder / name).write_text('{"weight_map": {"a": "b.safetensors"}}')
  assert main.main(["inspect", str(folder)]) == 0
  found = capsys.readouterr()
  assert f"model.safetensors (not {name}, which lies beside it)" in found.out
  assert found.err.startswith(f"time_jax: note: {folder} holds model.safeten")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_numbers_that_are_not_finite(capsys, folder, dtype):
  """Where a run would read them; what is dropped may hold anything."""

  def spoil(tensors):
    for name, tensor in tensors.items():
      tensors[name] = tensor.astype(dtype)
    tensors["embeddings.word_embeddings.weight"][7, 1:3] = np.nan, -np.inf
    tensors["pooler.dense.bias"][0] = np.nan

  change_weights(folder, spoil)
  code, rows, (problem,) = inspect(capsys, folder, "--layer=2")
  assert (code, rows["finite"]) == (2, "no")
  assert "embeddings.word_embeddings.weight holds 2 of " in problem


def change_json(folder, name, **changes):
  path = folder / name
  content = json.loads(path.read_text()) | changes
  kept = {key: value for key, value in content.items() if value is not None}
  path.write_text(json.dumps(kept))


def change_weights(folder, change):
  path = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  change(tensors)
  safetensors.numpy.save_file(tensors, path)


def truncate(folder):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-100])


def missing_tensor(folder):
  change_weights(folder, lambda tensors: tensors.pop(KERNEL))


def wrong_shape(folder):
  change_weights(folder, lambda t: t.update({KERNEL: t[KERNEL].T.copy()}))


def quantised(folder):
  change_weights(folder, lambda t: t.update({KERNEL: t[KERNEL].astype("int8")}))


def smaller_table(folder):
  change_json(folder, "config.json", vocab_size=100)
  words = "embeddings.word_embeddings.weight"
  change_weights(folder, lambda t: t.update({words: t[words][:100].copy()}))


def no_safetensors(folder):
  (folder / "model.safetensors").unlink()


def pickle_only(folder):
  no_safetensors(folder)
  (folder / PICKLE).write_bytes(pickle.dumps({"a": np.ones(3)}))


def missing_shard(folder):
  no_safetensors(folder)
  table = {"weight_map": {KERNEL: "model-00002-of-00002.safetensors"}}
  (folder / "model.safetensors.index.json").write_text(json.dumps(table))


def empty(folder):
  for path in folder.iterdir():
    path.unlink()


def no_tokenizer(folder):
  for path in folder.glob("tokenizer*"):
    path.unlink()


BROKEN = {
  "truncated safetensors": (
    truncate,
    ["model.safetensors is damaged or "],
  ),
  "a missing tensor": (missing_tensor, [f"{KERNEL} is missing"]),
  "a wrong shape": (
    wrong_shape,
    [f"{KERNEL} has shape (32, 64), expected (64, 32)"],
  ),
  "whole numbers": (quantised, [f"{KERNEL} is int8, expected one of"]),
  "no weights": (no_safetensors, ["has no model.safetensors"]),
  "a pickle only": (pickle_only, ["a pickle only, .* --allow_pickle of insp"]),
  "a missing shard": (
    missing_shard,
    ["index.json names ['model-00002-of-00002.safetensors'], missing"],
  ),
  "an unknown model_type": (
    lambda folder: change_json(folder, "config.json", model_type="gpt2"),
    ["unknown architecture model_type='gpt2'"],
  ),
  "no model_type": (
    lambda folder: change_json(
      folder, "config.json", model_type=None, architectures=["Strange"]
    ),
    ["unknown architecture model_type=None, architectures=['Strange']"],
  ),
  "no model_type and no architecture": (
    lambda folder: change_json(
      folder, "config.json", model_type=None, architectures=None
    ),
    ["unknown architecture model_type=None"],
  ),
  "a missing key": (
    lambda folder: change_json(folder, "config.json", hidden_size=None),
    ["config.json lacks the key 'hidden_size'"],
  ),
  "no JSON": (
    lambda folder: (folder / "config.json").write_text("{'a': 1}"),
    ["config.json is not readable JSON"],
  ),
  "an empty folder": (
    empty,
    ["config.json is missing", "has no model.safetensors"],
  ),
  "no tokenizer": (no_tokenizer, ["has no tokenizer; expected tokenizer.json"]),
  "a damaged tokenizer": (
    lambda folder: (folder / "tokenizer.json").write_text("{"),
    ["is damaged: tokenizer.json"],
  ),
  "another model's tokenizer": (
    smaller_table,
    ["ids past the 100 rows of the token table"],
  ),
  "another padding id": (
    lambda folder: change_json(folder, "config.json", pad_token_id=1),
    ["has pad_token_id=1, its tokenizer 0 ('[PAD]')"],
  ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_checkpoints(capsys, folder, kind):
  """One line for what is wrong; what is right is shown all the same."""
  spoil, words = BROKEN[kind]
  spoil(folder)
  code, rows, problems = inspect(capsys, folder)
  assert code == 2
  assert len(problems) == len(words)
  for problem, expected in zip(problems, words, strict=True):
    pattern = ".*".join(map(re.escape, expected.split(".*")))
    assert re.search(pattern, problem), problem
    assert str(folder) in problem or "architecture" in problem
  assert rows["model"] == str(folder)
  if "config.json" not in problems[0] and "architecture" not in problems[0]:
    assert rows["vocabulary"]


def test_several_problems_at_once(capsys, folder):
  truncate(folder)
  no_tokenizer(folder)
  _, _, problems = inspect(capsys, folder, "--layer=9")
  assert len(problems) == 2  # The layer is looked for in the weights.
  assert "damaged" in problems[0] and "no tokenizer" in problems[1]


def test_a_layer_that_does_not_exist(capsys, folder):
  code, _, (problem,) = inspect(capsys, folder, "--layer=4")
  assert code == 2 and "layer=4 does not exist" in problem


def test_names_that_are_nothing(capsys, folder, monkeypatch):
  def error(*argv):
    assert main.main(["inspect", *map(str, argv)]) == 2
    output = capsys.readouterr()
    assert not output.out
    (line,) = output.err.splitlines()
    return line

  assert "no model folder at '/no/where'" in error("/no/where")
  assert "unknown size='huge'; known: m, s, xs." in error(folder, "--size=huge")
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  assert "hub cannot be reached" in error("nobody/nothing-at-all")


def test_pickles_that_are_allowed(capsys, folder, tiny):
  """By a flag of `inspect`, and by a field of a run's config."""
  torch = pytest.importorskip("torch")
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  tensors = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
  no_safetensors(folder)
  torch.save(tensors, folder / PICKLE)
  config = tiny_recipe.get_config(tiny)
  config.teacher.path = str(folder)
  with pytest.raises(UserError, match="--config.teacher.allow_pickle=True"):
    assembly.teacher_config(config)
  code, rows, problems = inspect(capsys, folder, "--allow_pickle")
  assert (code, problems) == (0, [])
  assert rows["files"].startswith(f"{PICKLE} (pickle), ")
  assert rows["tensors"] == "55 float32"
  config.teacher.allow_pickle = True
  assert assembly.teacher_config(config).num_layers == 3
