"""What is exported works elsewhere, and comes back as it was."""

import json
import re

import alone
import exporting
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from exporting import command
from huggingface_hub import HfApi
from tiny_tokenizers import write_tokenizer

from time_jax.evals.common.encoders import open_encoder
from time_jax.hf import files, tokenizer_class
from time_jax.release import push


@pytest.fixture(scope="module")
def long(tiny, tmp_path_factory):
  """One with 512 positions."""
  home = tmp_path_factory.mktemp("long")
  source = exporting.random_model(
    home / "source", tiny / "teacher", num_layers=2, max_positions=512
  )
  alone.run("import", source, f"--workdir={home / 'run'}")
  return home / "run"


@pytest.fixture(params=exporting.CLASSES)
def exported(request, exports):
  return exports(request.param)


@pytest.mark.parametrize("name", exporting.CLASSES)
def test_both_classes_are_one_network(capsys, tmp_path, long, name):
  """Lengths 1 to 512, odd batches, padded: transformers agrees with itself."""
  home, exported = long.parent, tmp_path / name
  flags = f"--class={name}", f"--out={exported}"
  output = command(capsys, "export", f"--workdir={long}", *flags)
  assert "lengths 1, 2, 3, 17, 257, 512, padded and alone" in output
  differences = re.findall(r"equal within ([\d.e+-]+\d)", output)
  assert len(differences) > 2
  assert max(map(float, differences)) < 1e-5
  plain = transformers.BertModel.from_pretrained(home / "source").eval()
  found, report = transformers.AutoModel.from_pretrained(
    exported, output_loading_info=True
  )
  assert type(found).__name__ == exported.name
  assert not any(report.values()), report
  random = np.random.default_rng(1)
  for lengths in [(512,), (1,), (1, 511, 37), (5, 4, 3, 2, 1), (2,) * 7]:
    longest = max(lengths)
    tokens = random.integers(1, 153, size=(len(lengths), longest))
    mask = np.arange(longest) < np.array(lengths)[:, None]
    inputs = dict(
      input_ids=torch.tensor(np.where(mask, tokens, 0)),
      attention_mask=torch.tensor(mask.astype(np.int64)),
      output_hidden_states=True,
    )
    with torch.no_grad():
      ours = found.eval()(**inputs).hidden_states
      theirs = plain(**inputs).hidden_states
    for mine, other in zip(ours, theirs, strict=True):
      assert np.abs((mine - other).numpy()[mask]).max() < 1e-5


def test_the_card_prints_code_that_works(capsys, exported):
  text = (exported / "README.md").read_text()
  blocks = re.findall(r"```python\n(.*?)```", text, re.S)
  assert len(blocks) == 2
  for block in blocks:
    names = {}
    exec(block, names)
    capsys.readouterr()
  vectors = names["encode"]("Small is fast.")
  assert len(vectors[0][0]) == 24


def test_unknown_facts_are_not_invented(exported):
  text = (exported / "README.md").read_text()
  for name in ("teacher", "training text", "tokens read", "hardware of the"):
    assert re.search(rf"\| {name}[^|]*\| not recorded \|", text), name
  assert "| taken over from | source |" in text
  assert "pooler" not in text  # It has one.
  assert "language:" not in text and "base_model:" not in text


def identity_of(place, mesh):
  return open_encoder(str(place), mesh=mesh, dtype="float32").identity.value


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize(
  ("name", "dtype"),
  [("BertModel", "float32"), ("XLMRobertaModel", "bfloat16")],
)
def test_imported_and_exported_again_it_is_the_same(
  capsys, tmp_path, imported, exports, name, dtype, mesh
):
  first = exported = exports(name)
  if dtype == "bfloat16":
    first = tmp_path / "first"
    flags = f"--class={exported.name}", f"--dtype={dtype}", f"--out={first}"
    licence = "--license=cc-by-4.0"
    command(capsys, "export", f"--workdir={imported}", *flags, licence)
  size = (first / "model.safetensors").stat().st_size
  full = (exported / "model.safetensors").stat().st_size
  assert size == full if dtype == "float32" else size < 0.6 * full
  again = tmp_path / "again"
  command(capsys, "import", first, f"--workdir={again}")
  command(capsys, "export", f"--workdir={again}")
  for name in ("model.safetensors", "config.json", "tokenizer.json"):
    assert files.sha256(again / "export" / name) == files.sha256(first / name)
  assert json.loads((first / "config.json").read_text())["dtype"] == dtype
  found = [identity_of(place, mesh) for place in (first, again)]
  record = json.loads((first / "time_jax.json").read_text())
  assert set(found) == {identity_of(again / "export", mesh), record["identity"]}
  assert (identity_of(imported, mesh) in found) == (dtype == "float32")
  card = (again / "export" / "README.md").read_text()
  assert ("license: cc-by-4.0" in card) == (first != exported)


def test_import_takes_no_folder_that_holds_something(
  capsys, tmp_path, imported
):
  (tmp_path / "mine").write_text("mine")
  source = imported.parent / "source"
  flags = source, f"--workdir={tmp_path}"
  assert "holds something" in command(capsys, "import", *flags, code=2)
  assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_import_takes_students_only(capsys, golden, tmp_path):
  flags = golden / "modernbert", f"--workdir={tmp_path / 'run'}"
  assert "is built otherwise" in command(capsys, "import", *flags, code=2)
  assert not (tmp_path / "run").exists()


def test_import_of_a_published_xlm_roberta(capsys, golden, tmp_path):
  """One token type, no tokenizer, learned rows before the first position."""
  run = tmp_path / "run"
  command(capsys, "import", golden / "xlm_roberta", f"--workdir={run}")
  flags = f"--workdir={run}", "--class=BertModel"
  output = command(capsys, "export", *flags)
  assert "ok     PyTorch, random tokens" in output
  text = (run / "export" / "README.md").read_text()
  (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
  exec(block, {})
  assert "There is no tokenizer: ids only." in text
  assert "The pooler is of zeros" in text
  flags = f"--workdir={run}", "--class=XLMRobertaModel"
  output = command(capsys, "export", *flags, code=2)
  assert "counts positions from the id of the padding token" in output


@pytest.fixture
def token(monkeypatch):
  monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")


@pytest.fixture
def hub(token, monkeypatch):
  """Calls of the hub's library, with the arguments that it takes."""
  calls = []

  def record(name, result=None):
    real = getattr(HfApi, name)

    def call(self, *given, **named):
      __import__("inspect").signature(real).bind(self, *given, **named)
      calls.append((name, given, named))
      return result

    monkeypatch.setattr(HfApi, name, call)

  for name in ("create_repo", "create_branch"):
    record(name)
  done = type("Commit", (), {"commit_url": "https://hub/commit/1"})
  record("upload_folder", done)
  return calls


def push_flags(imported, out, *more):
  return (
    "export",
    f"--workdir={imported}",
    f"--out={out}",
    "--push=someone/time-en-xs",
    *more,
  )


@pytest.mark.usefixtures("without_torch")
def test_a_push_is_one_commit(capsys, tmp_path, imported, hub):
  out = tmp_path / "out"
  argv = push_flags(imported, out, "--revision=step-0")
  output = command(capsys, *argv)
  assert "Uploaded in one commit: https://hub/commit/1" in output
  assert [name for name, *_ in hub] == [
    "create_repo",
    "create_branch",
    "upload_folder",
  ]
  assert hub[0][2] == {"private": True, "exist_ok": True}
  assert hub[1][2]["branch"] == hub[2][2]["revision"] == "step-0"
  assert hub[2][2]["folder_path"] == out
  assert hub[2][2]["delete_patterns"] == "onnx/*"
  card = (out / "README.md").read_text()
  assert "from_pretrained('someone/time-en-xs', revision='step-0')" in card
  assert str(tmp_path) not in card


@pytest.mark.usefixtures("without_torch")
def test_a_dry_run_lists_files_and_asks_nobody(capsys, tmp_path, imported, hub):
  out = tmp_path / "out"
  argv = push_flags(imported, out, "--dry_run", "--noprivate")
  output = command(capsys, *argv)
  assert not hub
  assert "someone/time-en-xs (public if new), branch main" in output
  listed = dict(re.findall(r"^  (\S+) +([\d,]+) bytes", output, re.M))
  there = {p.name: f"{p.stat().st_size:,}" for p in out.iterdir()}
  assert there.items() <= listed.items()
  assert {"README.md", "model.safetensors", "tokenizer.json"} <= set(there)


@pytest.mark.usefixtures("without_torch", "token")
def test_a_push_that_fails_keeps_the_folder(
  capsys, monkeypatch, tmp_path, imported
):
  def refuse(self, *given, **named):
    raise OSError("no route to host")

  monkeypatch.setattr(push.HfApi, "create_repo", refuse)
  out = tmp_path / "out"
  output = command(capsys, *push_flags(imported, out), code=3)
  assert "not uploaded to someone/time-en-xs: no route" in output
  assert f"The folder stays: {out}" in output
  assert (out / "model.safetensors").exists()


def test_without_a_token_nothing_is_exported(
  capsys, monkeypatch, tmp_path, imported
):
  monkeypatch.setattr(push, "get_token", lambda: None)
  out = tmp_path / "out"
  output = command(capsys, *push_flags(imported, out), code=2)
  assert "run `hf auth login`, or set HF_TOKEN" in output
  assert not out.exists()


@pytest.mark.parametrize("name", ["alone", "a/b/c", "some one/x"])
def test_a_name_that_is_none(capsys, imported, name):
  argv = "export", f"--workdir={imported}", f"--push={name}"
  assert "expected OWNER/NAME" in command(capsys, *argv, code=2)
  assert not (imported / "export").exists()


@pytest.mark.parametrize("flag", ["--class=GPT2Model", "--dtype=int4"])
def test_flags_that_are_none(capsys, imported, flag):
  output = command(capsys, "export", f"--workdir={imported}", flag, code=2)
  assert f"{flag}: expected one of" in output


@pytest.mark.usefixtures("without_torch")
def test_without_torch(capsys, tmp_path, imported):
  argv = "export", f"--workdir={imported}", f"--out={tmp_path / 'out'}"
  assert "not checked: torch is not installed" in command(capsys, *argv)


@pytest.mark.usefixtures("without_torch")
def test_a_tokenizer_of_bert_is_named_so(capsys, monkeypatch, tmp_path):
  """And that of the import of the export: programs look at the name."""
  monkeypatch.setattr(tokenizer_class, "_NUM_LINES", 300)
  words = tmp_path / "words"
  words.mkdir()
  names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  vocabulary = [*names, *map(chr, range(97, 123)), "##s", "fast", "small"]
  write_tokenizer(words, vocabulary)
  backend = tokenizers.BertWordPieceTokenizer(
    {word: i for i, word in enumerate(vocabulary)}
  )
  backend.save(str(words / "tokenizer.json"))
  source = exporting.random_model(
    tmp_path / "source", words, vocab_size=len(vocabulary)
  )
  for run in (tmp_path / "a", tmp_path / "b"):
    command(capsys, "import", source, f"--workdir={run}")
    output = command(capsys, "export", f"--workdir={run}")
    source = run / "export"
    config = json.loads((source / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "BertTokenizerFast", output
    assert config["do_lower_case"] is True
