"""Tokenizers without an unknown token: refused where they need one."""

import json
import shutil

import pytest
import tokenizers
from tiny_tokenizers import write_tokenizer
from tokenizers import models, normalizers, pre_tokenizers

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.hf import tokenizer

LETTERS = {"[PAD]": 0, "a": 1, "b": 2}
SCORES = [("[PAD]", 0.0), ("a", -1.0), ("b", -2.0)]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def of_bytes(model):
  backend = tokenizers.Tokenizer(model)
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  return backend


def plain(model):
  backend = tokenizers.Tokenizer(model)
  backend.normalizer = normalizers.BertNormalizer()
  backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  return backend


def save(backend, folder):
  backend.save(str(folder / "tokenizer.json"))
  content = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
  (folder / "tokenizer_config.json").write_text(json.dumps(content))
  return backend.get_vocab_size()


NEED_ONE = {
  "WordPiece": lambda: plain(models.WordPiece(LETTERS, unk_token="[UNK]")),
  "WordLevel": lambda: plain(models.WordLevel(LETTERS, unk_token="[UNK]")),
  "Unigram": lambda: plain(models.Unigram(SCORES, unk_id=None)),
  "BPE": lambda: plain(models.BPE(LETTERS, [], unk_token="[UNK]")),
}
NEED_NONE = {
  "byte-level BPE": lambda: of_bytes(
    models.BPE({t: i for i, t in enumerate(["[PAD]", *BYTES])}, [])
  ),
  "byte-level Unigram": lambda: of_bytes(
    models.Unigram([("[PAD]", 0.0), *((b, -1.0) for b in BYTES)], unk_id=None)
  ),
  "BPE that leaves out what it does not know": lambda: plain(
    models.BPE(LETTERS, [])
  ),
}


@pytest.mark.parametrize("kind", NEED_ONE)
def test_one_that_is_needed(tmp_path, kind):
  size = save(NEED_ONE[kind](), tmp_path)
  for read in (
    lambda: tokenizer.load_tokenizer(tmp_path, size),
    lambda: tokenizer.special_ids(tmp_path, size),
    lambda: tokenizer.open_tokenizer(tmp_path),
  ):
    with pytest.raises(UserError) as caught:
      read()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(
      f"the tokenizer in {tmp_path} has no unknown token, and what its {kind} "
      "model does not know it cannot read ("
    )


@pytest.mark.parametrize("kind", NEED_NONE)
def test_one_that_nobody_needs(tmp_path, kind):
  size = save(NEED_NONE[kind](), tmp_path)
  spec = tokenizer.load_tokenizer(tmp_path, size)
  tokenizer.encoder(spec)("a \U00013080 \x00 z")
  tokenizer.open_tokenizer(tmp_path)


def test_a_template_of_tokens_that_are_not_there(tiny, tmp_path):
  """The library stops short in its Rust code."""
  shutil.copytree(tiny / "teacher", tmp_path, dirs_exist_ok=True)
  path = tmp_path / "tokenizer.json"
  content = json.loads(path.read_text())
  content["post_processor"]["special_tokens"] = {}
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match="is damaged: tokenizer.json: "):
    tokenizer.load_tokenizer(tmp_path, 200)


@pytest.mark.parametrize("command", ["inspect", "trim", "verify"])
def test_commands_say_so(tiny, tmp_path, capsys, command):
  folder = shutil.copytree(tiny / "teacher", tmp_path / "teacher")
  write_tokenizer(folder, ["[PAD]", "one", "[CLS]", "[SEP]", "[MASK]", "two"])
  config = folder / "tokenizer_config.json"
  named = json.loads(config.read_text())
  config.write_text(json.dumps({k: v for k, v in named.items() if k[0] != "u"}))
  argv = [command, str(folder)]
  if command == "trim":
    argv = [
      command,
      f"--teacher={folder}",
      f"--text={tiny}/validation.txt",
      f"--out={tmp_path}/out",
    ]
  assert main.main(argv) != 0
  found = capsys.readouterr()
  assert "has no unknown token, and what its WordPiece model" in (
    found.out + found.err
  )
  assert "Traceback" not in found.err
  assert not (tmp_path / "out").exists()
