"""The teacher's tokenizer: read as it is, written for the student."""

import json

import pytest
import tokenizers
import transformers
from conftest import write_tokenizer

from time_jax.errors import UserError
from time_jax.hf import tokenizer

VOCABULARY = ["[UNK]", "[CLS]", "[PAD]", "[SEP]", "[MASK]", "cat", "##s", "dog"]
CONFIG = "tokenizer_config.json"


@pytest.fixture
def folder(tmp_path):
  """A tokenizer whose padding token has the id 2."""
  write_tokenizer(tmp_path, VOCABULARY)
  return tmp_path


def change(folder, **settings):
  """Changes the tokenizer's config; None takes a key away."""
  content = json.loads((folder / CONFIG).read_text()) | settings
  kept = {name: value for name, value in content.items() if value is not None}
  (folder / CONFIG).write_text(json.dumps(kept))


def test_the_file_is_taken_as_it_is(folder):
  found = tokenizer.load_tokenizer(folder, 8)
  assert found.backend == (folder / "tokenizer.json").read_text()
  assert (found.pad_id, found.vocab_size) == (2, 8)
  assert found.name == f"the tokenizer in {folder}"


@pytest.mark.parametrize(
  "pad", ["[MASK]", {"__type": "AddedToken", "content": "[MASK]"}], ids=type
)
def test_the_padding_token_of_the_config(folder, pad):
  change(folder, pad_token=pad)
  found = tokenizer.load_tokenizer(folder, 8)
  assert found.pad_id == 4
  assert found.backend == (folder / "tokenizer.json").read_text()


@pytest.mark.parametrize("pad", ["[SEP]", {"content": "[SEP]"}], ids=type)
def test_the_padding_token_of_an_older_file(folder, pad):
  change(folder, pad_token=None)
  path = folder / "special_tokens_map.json"
  path.write_text(json.dumps({"pad_token": pad}))
  assert tokenizer.load_tokenizer(folder, 8).pad_id == 3
  change(folder, pad_token="[PAD]")
  assert tokenizer.load_tokenizer(folder, 8).pad_id == 2


def test_no_padding_token(folder):
  change(folder, pad_token=None)
  words = f"the tokenizer in {folder} has no padding token; add pad_token"
  with pytest.raises(UserError, match=words):
    tokenizer.load_tokenizer(folder, 8)


def test_a_padding_token_without_id(folder):
  change(folder, pad_token="[NOWHERE]")
  with pytest.raises(UserError, match="has no padding token"):
    tokenizer.load_tokenizer(folder, 8)


def bare_vocabulary(folder):
  (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
  (folder / "config.json").write_text('{"model_type": "bert"}')
  return folder


def test_a_vocabulary_is_converted(tmp_path):
  found = tokenizer.load_tokenizer(bare_vocabulary(tmp_path), 8)
  assert found.pad_id == 2
  backend = tokenizers.Tokenizer.from_str(found.backend)
  assert backend.encode("cats dog bird").ids == [1, 5, 6, 7, 0, 3]


@pytest.mark.parametrize("content", ["{", '{"model": {}}', ""])
def test_a_damaged_file(folder, content):
  (folder / "tokenizer.json").write_text(content)
  words = f"the tokenizer in {folder} is damaged: tokenizer.json: "
  with pytest.raises(UserError, match=words):
    tokenizer.load_tokenizer(folder, 8)


def test_a_folder_without_tokenizer(tmp_path):
  (tmp_path / "config.json").write_text('{"model_type": "bert"}')
  with pytest.raises(UserError, match=f"{tmp_path} has no tokenizer; expected"):
    tokenizer.load_tokenizer(tmp_path, 8)
  (tmp_path / CONFIG).write_text("{}")
  with pytest.raises(UserError, match=f"no usable tokenizer in {tmp_path}: "):
    tokenizer.load_tokenizer(tmp_path, 8)


def fix_length(folder, length):
  """As some published files are: truncation and padding are in force."""
  path = str(folder / "tokenizer.json")
  backend = tokenizers.Tokenizer.from_file(path)
  backend.enable_truncation(length)
  backend.enable_padding(length=length, pad_id=2, pad_token="[PAD]")
  backend.save(path)
  assert len(backend.encode("cat").ids) == length
  return folder


def test_a_fixed_length_is_not_handed_on(folder, tmp_path_factory):
  out = tmp_path_factory.mktemp("student")
  tokenizer.save_tokenizer(fix_length(folder, 128), out, 512)
  backend = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
  assert backend.truncation is None and backend.padding is None
  again = transformers.AutoTokenizer.from_pretrained(out)
  assert again.model_max_length == 512
  assert again("cats dog")["input_ids"] == [1, 5, 6, 7, 3]
  assert again(["dog " * 300])["input_ids"] == [[1, *[7] * 300, 3]]
  cut = again("dog " * 600, truncation=True)["input_ids"]
  assert len(cut) == 512
  pair = again(["dog", "dog cat"], padding=True)["input_ids"]
  assert pair == [[1, 7, 3, 2], [1, 7, 5, 3]]


def test_a_converted_vocabulary_is_saved(tmp_path, tmp_path_factory):
  out = tmp_path_factory.mktemp("student")
  tokenizer.save_tokenizer(bare_vocabulary(tmp_path), out, 64)
  expected = tokenizer.load_tokenizer(tmp_path, 8)
  found = tokenizer.load_tokenizer(out, 8)
  assert found.pad_id == expected.pad_id
  for text in ("cats dog", "bird"):
    ids = [
      tokenizers.Tokenizer.from_str(spec.backend).encode(text).ids
      for spec in (found, expected)
    ]
    assert ids[0] == ids[1]


def test_special_ids(folder):
  """The first and last token of a text, where there is no bos and eos."""
  assert tokenizer.special_ids(folder) == {
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 3,
  }
  change(folder, bos_token="cat", eos_token="[UNK]")
  assert tokenizer.special_ids(folder) == {
    "pad_token_id": 2,
    "bos_token_id": 5,
    "eos_token_id": 0,
  }
  change(folder, bos_token=None, cls_token=None, eos_token=None)
  change(folder, sep_token=None, pad_token=None)
  assert tokenizer.special_ids(folder) == {}
