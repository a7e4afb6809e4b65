"""The class that an export names: in every transformers the file's own ids."""

import json

import pytest
import tiny_multilingual
import tiny_tokenizers
import tokenizers
import transformers
from tokenizers import pre_tokenizers, processors

from time_jax.hf import tokenizer, tokenizer_class

SIZE = 2000
PRESENT = "PreTrainedTokenizerFast"
TEXTS = ("Small is fast.", "  two <mask> [MASK]\tÉtés [CLS]</s> 今日は\n x", "")


@pytest.fixture(autouse=True)
def fewer_lines(monkeypatch):
  """Lines to compare on: a tenth of what an export takes."""
  monkeypatch.setattr(tokenizer_class, "_NUM_LINES", 1000)


@pytest.fixture(scope="module")
def texts():
  return [t for name in ("da", "ru") for t in tiny_tokenizers.documents(name)]


def bert(texts, folder, lowercase):
  backend = tokenizers.BertWordPieceTokenizer(lowercase=lowercase)
  backend.train_from_iterator(texts, SIZE, show_progress=False)
  ends = [(t, backend.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
  backend.post_processor = processors.TemplateProcessing(
    single="[CLS]:0 $A:0 [SEP]:0",
    pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
    special_tokens=ends,
  )
  return backend, [f"[{n}]" for n in ("UNK", "SEP", "PAD", "CLS", "MASK")]


def roberta(texts, folder, prefix):
  backend = tokenizers.ByteLevelBPETokenizer(add_prefix_space=prefix)
  first = ["<s>", "<pad>", "</s>", "<unk>"]
  backend.train_from_iterator(
    texts, SIZE, special_tokens=first, show_progress=False
  )
  mask = tokenizers.AddedToken("<mask>", lstrip=True, special=True)
  backend.add_special_tokens([mask])
  backend.post_processor = processors.RobertaProcessing(
    ("</s>", 2), ("<s>", 0), add_prefix_space=prefix
  )
  return backend, ["<unk>", "</s>", "<pad>", "<s>", "<mask>"]


def xlm_roberta(texts, folder):
  """With the parts of the files of XLM-R, whatever converts its pieces."""
  model = tiny_multilingual.train_sentencepiece(texts, SIZE)
  (folder / "sentencepiece.bpe.model").write_bytes(model)
  config = folder / "tokenizer_config.json"
  config.write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
  opened = tokenizer.open_tokenizer(folder)
  content = json.loads(opened.backend_tokenizer.to_str())
  for token in content["added_tokens"]:
    token["lstrip"] = token["content"] == "<mask>"
  parts = content["normalizer"].get("normalizers", [content["normalizer"]])
  (content["normalizer"],) = (p for p in parts if p["type"] == "Precompiled")
  backend = tokenizers.Tokenizer.from_str(json.dumps(content))
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
  )
  (folder / "sentencepiece.bpe.model").unlink()
  return backend, ["<unk>", "</s>", "<pad>", "<s>", "<mask>"]


KINDS = {
  "BERT": (bert, "BertTokenizerFast", False),
  "BERT, lower case": (bert, "BertTokenizerFast", True),
  "RoBERTa": (roberta, "RobertaTokenizerFast", False),
  "RoBERTa, a space before": (roberta, "RobertaTokenizerFast", True),
  "XLM-R": (xlm_roberta, "XLMRobertaTokenizerFast"),
}


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory):
  """Kind -> a tokenizer and the names of its special tokens, made once."""
  found = {}

  def made(kind):
    if kind not in found:
      make, _, *how = KINDS[kind]
      folder = tmp_path_factory.mktemp("source")
      backend, special = make(texts, folder, *how)
      found[kind] = backend.to_str(), special
    return found[kind]

  return made


def write(folder, text, special, class_name=PRESENT):
  (folder / "tokenizer.json").write_text(text)
  kinds = ("unk", "sep", "pad", "cls", "mask")
  content = {f"{k}_token": t for k, t in zip(kinds, special, strict=True)}
  if special[0] == "<unk>":
    content |= {"bos_token": "<s>", "eos_token": "</s>"}
  content |= {"tokenizer_class": class_name, "model_max_length": 64}
  content |= {"model_input_names": ["input_ids", "attention_mask"]}
  splitting = json.loads(text)["pre_tokenizer"] or {}
  if "add_prefix_space" in splitting:
    content["add_prefix_space"] = splitting["add_prefix_space"]
  (folder / "tokenizer_config.json").write_text(json.dumps(content))
  (folder / "config.json").write_text('{"model_type": "bert"}')


@pytest.mark.parametrize("kind", KINDS)
def test_a_known_class_reads_the_file_as_it_is(tmp_path, made, texts, kind):
  text, special = made(kind)
  write(tmp_path, text, special)
  named = tokenizer_class.name_class(tmp_path, TEXTS)
  assert named == KINDS[kind][1]
  opened = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert isinstance(opened, getattr(transformers, named))
  backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  lines = [line for text in texts for line in text.split("\n") if line]
  lines = [*TEXTS, *lines, *tokenizer_class.sample_lines(backend)]
  assert len(lines) > 1000
  expected = [encoding.ids for encoding in backend.encode_batch(lines)]
  assert opened(lines)["input_ids"] == expected
  assert sorted(opened("a")) == ["attention_mask", "input_ids"]
  assert len(opened) == backend.get_vocab_size()
  assert opened.model_max_length == 64


def more_tokens(content):
  added = content["added_tokens"]
  token = dict(added[0], content="[X]", id=1 + max(t["id"] for t in added))
  content["model"]["vocab"]["[X]"] = token["id"]
  content["added_tokens"] = [*added, token]


def spoil(*path, value):
  def change(content):
    for key in path[:-1]:
      content = content[key]
    content[path[-1]] = value

  return change


def other_unknown(content):
  vocabulary = content["model"]["vocab"]
  vocabulary[3], vocabulary[4] = vocabulary[4], vocabulary[3]
  content["model"]["unk_id"] = 4


OTHERS = [
  ("BERT", spoil("normalizer", value={"type": "NFC"})),
  ("BERT", spoil("normalizer", "clean_text", value=False)),
  ("BERT", spoil("pre_tokenizer", value={"type": "WhitespaceSplit"})),
  ("BERT", spoil("model", "max_input_chars_per_word", value=50)),
  ("BERT", spoil("post_processor", "pair", value=[])),
  ("BERT", spoil("added_tokens", 0, "lstrip", value=True)),
  ("RoBERTa", more_tokens),
  ("RoBERTa", spoil("normalizer", value={"type": "NFC"})),
  ("RoBERTa", spoil("model", "ignore_merges", value=True)),
  ("RoBERTa", spoil("post_processor", "add_prefix_space", value=True)),
  ("XLM-R", spoil("normalizer", value={"type": "NFKC"})),
  ("XLM-R", spoil("pre_tokenizer", "pretokenizers", value=[])),
  ("XLM-R", other_unknown),
]


@pytest.mark.parametrize(("kind", "change"), OTHERS)
def test_what_no_class_builds_keeps_the_general_one(
  tmp_path, made, kind, change
):
  text, special = made(kind)
  content = json.loads(text)
  change(content)
  write(tmp_path, json.dumps(content), special)
  before = (tmp_path / "tokenizer_config.json").read_text()
  assert tokenizer_class.name_class(tmp_path, TEXTS) == PRESENT
  assert (tmp_path / "tokenizer_config.json").read_text() == before


@pytest.mark.parametrize("wrong", ["GPT2TokenizerFast", "XLNetTokenizerFast"])
def test_a_class_that_reads_otherwise_is_taken_back(
  tmp_path, made, monkeypatch, wrong
):
  """Whatever the parts of the file say."""
  text, special = made("BERT, lower case")
  write(tmp_path, text, special)
  found = {"tokenizer_class": wrong}
  monkeypatch.setattr(tokenizer_class, "find", lambda *_: found)
  before = json.loads((tmp_path / "tokenizer_config.json").read_text())
  assert tokenizer_class.name_class(tmp_path, TEXTS) == PRESENT
  assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == before
