"""Tokenizers of the usual kinds, trained on a little text."""

import functools
import gzip
import hashlib
import itertools
import json
import os
import pathlib

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).parents[2]
TEXT = ROOT / "tests" / "text"
LANGUAGES = sorted(path.name.partition(".")[0] for path in TEXT.glob("*.gz"))
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


def documents(language):
  return read(TEXT / f"{language}.jsonl.gz")


def read(path, most=None):
  with gzip.open(path, "rt", encoding="utf-8") as file:
    return [json.loads(line)["text"] for line in itertools.islice(file, most)]


def kept(train):
  """Keeps tokenizers for later runs of the tests.

  Two that are trained alike differ, and so would the batches of their text and
  the programs for these: none would be found in the cache of compiled programs.
  """

  @functools.wraps(train)
  def trained(texts, size):
    texts = list(texts)
    what = json.dumps([train.__name__, size, tokenizers.__version__, *texts])
    name = hashlib.sha256(what.encode()).hexdigest()
    path = ROOT / ".cache" / "tokenizers" / f"{name}.json"
    if not path.exists():
      path.parent.mkdir(parents=True, exist_ok=True)
      fresh = path.with_suffix(f".{os.getpid()}")
      train(texts, size).save(str(fresh))
      fresh.rename(path)
    return tokenizers.Tokenizer.from_file(str(path))

  return trained


@kept
def unigram(texts, size):
  """As XLM-R, T5 and mDeBERTa: SentencePiece's Unigram model."""
  tokenizer = tokenizers.Tokenizer(models.Unigram())
  tokenizer.normalizer = normalizers.NFKC()
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.decoder = decoders.Metaspace()
  trainer = trainers.UnigramTrainer(
    vocab_size=size,
    special_tokens=SPECIAL,
    unk_token="[UNK]",
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  return tokenizer


@kept
def wordpiece(texts, size):
  """As BERT."""
  tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
  tokenizer.normalizer = normalizers.BertNormalizer(
    lowercase=False, strip_accents=False
  )
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  trainer = trainers.WordPieceTrainer(
    vocab_size=size, special_tokens=SPECIAL, show_progress=False
  )
  tokenizer.train_from_iterator(texts, trainer)
  return tokenizer


def byte_bpe(texts, size):
  """As RoBERTa, ModernBERT and EuroBERT: BPE over bytes, which loses none."""
  tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=size, special_tokens=SPECIAL, show_progress=False
  )
  tokenizer.train_from_iterator(texts, trainer)
  return tokenizer


KINDS = {"unigram": unigram, "wordpiece": wordpiece, "byte_bpe": byte_bpe}


def save(tokenizer, folder, ends=("[CLS]", "[SEP]")):
  """Writes a tokenizer as transformers does; documents get `ends`."""
  words = [word for word in (ends[0], "$A", ends[1]) if word]
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single=" ".join(words),
    special_tokens=[(w, tokenizer.token_to_id(w)) for w in ends if w],
  )
  tokenizer.save(str(folder / "tokenizer.json"))
  names = ("pad", "cls", "sep", "unk", "mask")
  content = {f"{n}_token": f"[{n.upper()}]" for n in names}
  content |= {"tokenizer_class": "PreTrainedTokenizerFast"}
  (folder / "tokenizer_config.json").write_text(json.dumps(content))


def write_tokenizer(folder: pathlib.Path, vocabulary: list[str]) -> None:
  """A WordPiece tokenizer in the files that transformers writes."""
  ids = {token: i for i, token in enumerate(vocabulary)}
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(ids, unk_token="[UNK]")
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.add_special_tokens(vocabulary[:5])
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
  )
  tokenizer.save(str(folder / "tokenizer.json"))
  names = ("pad", "unk", "cls", "sep", "mask")
  content = {f"{n}_token": f"[{n.upper()}]" for n in names}
  content |= {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": 64,
  }
  (folder / "tokenizer_config.json").write_text(json.dumps(content))
