"""Taking tokens away: what text loses, and what it must not lose."""

import json
import random

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from time_jax.core.errors import UserError
from time_jax.trim.trimmed_tokenizer import named_ids
from time_jax.trim.vocabulary import Vocabulary, ancestors

LETTERS = "abcdef"


def words(source, count=400):
  """Words of few letters, so that pieces are long and many."""
  return [
    "".join(source.choices(LETTERS, k=source.randint(1, 9)))
    for _ in range(count)
  ]


def unigram(source):
  pieces = {w for w in words(source, 150) if len(w) < 6} | {*LETTERS, "<x>"}
  # Few different scores: segmentations of the same score are common.
  entries = [("<unk>", 0.0), *((p, -source.randint(2, 6)) for p in pieces)]
  return tokenizers.Tokenizer(
    models.Unigram([(p, float(s)) for p, s in entries], unk_id=0)
  )


def wordpiece(source):
  pieces = {w for w in words(source, 150) if len(w) < 6} | {*LETTERS}
  tokens = ["<unk>", *sorted(pieces), *sorted(f"##{p}" for p in pieces)]
  ids = {token: i for i, token in enumerate(tokens)}
  return tokenizers.Tokenizer(models.WordPiece(ids, unk_token="<unk>"))


def bpe(source):
  ids = {letter: i for i, letter in enumerate(LETTERS)}
  merges = {}
  while len(ids) < 200:
    pair = tuple(source.choices(list(ids), k=2))
    if len("".join(pair)) < 7:
      merges[pair] = None
      ids.setdefault("".join(pair), len(ids))  # Some tokens get two merges.
  return tokenizers.Tokenizer(models.BPE(ids, list(merges)))


@pytest.mark.parametrize("make", [unigram, wordpiece, bpe])
@pytest.mark.parametrize("seed", range(8))
def test_text_without_the_missing_tokens_is_as_before(make, seed):
  source = random.Random(seed)
  whole = make(source)
  whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  vocabulary = Vocabulary(whole.to_str(), "it")
  seen = words(source, 30)
  kept = set(vocabulary.fixed)
  for word in seen:
    for token_id in whole.encode(word).ids:
      kept |= vocabulary.needed(token_id)
  old_ids = sorted(kept)
  assert len(old_ids) < 0.8 * whole.get_vocab_size()
  content = vocabulary.cut(old_ids)
  fewer = tokenizers.Tokenizer.from_str(json.dumps(content))
  covered = 0
  for word in [*seen, *words(source, 3000)]:
    ids = whole.encode(word).ids
    if set(ids) <= kept:
      covered += 1
      assert [old_ids[i] for i in fewer.encode(word).ids] == ids
  assert covered > len(seen) + 100


def test_the_lowest_score_stays():
  """Else what is unknown would cost less, and other cuts would be best."""
  scores = {"xy": -20.0, "z": -20.0, "yz": -1.0, "rare": -40.0}
  # x alone is no piece. xy z has -40; unknown and yz -51, or, without the piece
  # that sets the price of what is unknown, -31.
  model = models.Unigram(
    [("<unk>", 0.0), *((f"p{i}", -6.0) for i in range(9)), *scores.items()], 0
  )
  whole = tokenizers.Tokenizer(model)
  vocabulary = Vocabulary(whole.to_str(), "it")
  rare = whole.token_to_id("rare")
  assert rare in vocabulary.fixed

  def tokens(old_ids):
    content = vocabulary.cut(sorted(old_ids))
    fewer = tokenizers.Tokenizer.from_str(json.dumps(content))
    return fewer.encode("xyz").tokens

  kept = set(range(whole.get_vocab_size()))
  assert tokens(kept) == tokens(kept - {9}) == ["xy", "z"]
  assert tokens(kept - {rare}) != ["xy", "z"]


def test_a_cut_changes_every_id_in_the_file():
  ids = {t: i for i, t in enumerate([f"w{i}" for i in range(20)])}
  ids |= {"[UNK]": 20, "[CLS]": 21, "[SEP]": 22}
  whole = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
  whole.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
  whole.enable_padding(pad_id=23, pad_token="[PAD]")
  whole.post_processor = processors.Sequence(
    [
      processors.BertProcessing(("[SEP]", 22), ("[CLS]", 21)),
      processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 21)]
      ),
    ]
  )
  vocabulary = Vocabulary(whole.to_str(), "it")
  assert vocabulary.fixed == {*range(8), 20, 21, 22, 23}
  content = vocabulary.cut([*range(8), 15, 20, 21, 22, 23])
  assert content["padding"]["pad_id"] == 12
  first, second = content["post_processor"]["processors"]
  assert (first["sep"], first["cls"]) == (["[SEP]", 11], ["[CLS]", 10])
  assert second["special_tokens"]["[CLS]"]["ids"] == [10]
  assert [token["id"] for token in content["added_tokens"]] == [9, 10, 11, 12]
  fewer = tokenizers.Tokenizer.from_str(json.dumps(content))
  assert fewer.token_to_id("w15") == 8
  assert fewer.token_to_id("w16") is None


def test_an_id_in_a_config_may_be_written_with_a_point(tmp_path):
  vocabulary = Vocabulary(wordpiece(random.Random(0)).to_str(), "it")
  ids = {"pad_token_id": 40.0, "eos_token_id": [41.0, 42], "bos_token_id": None}
  (tmp_path / "config.json").write_text(json.dumps(ids))
  named = named_ids(tmp_path, vocabulary, {"a"})
  assert sorted(named) == sorted({40, 41, 42, vocabulary.ids["a"]})
  assert {type(token_id) for token_id in named} == {int}


def test_ancestors():
  ranks = {("t", "h"): 0, ("th", "e"): 1, ("h", "e"): 2, ("q", "u"): 3}
  vocabulary = {*"the", "th", "the", "he"}
  for token, expected in {
    "the": {"t", "h", "e", "th", "the"},
    "he": {"h", "e", "he"},
    "xyz": {"xyz"},  # Added whole, made by no merge.
    "q": set(),  # Falls back to bytes.
  }.items():
    assert ancestors(token, ranks, vocabulary) == expected


def test_bytes_stay():
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  ids = {token: i for i, token in enumerate([*alphabet, "ab", "cd", "Ñĭ"])}
  whole = tokenizers.Tokenizer(
    models.BPE(ids, [("a", "b"), ("c", "d"), ("Ñ", "ĭ")])
  )
  whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  vocabulary = Vocabulary(whole.to_str(), "it")
  assert {ids[letter] for letter in alphabet} == vocabulary.fixed
  assert vocabulary.text(ids["Ñĭ"]) == "ы"
  assert vocabulary.text(ids["Ñ"]) == ""  # Half of it.
  assert vocabulary.text(ids["ab"]) == "ab"
  assert (
    ids["Ñ"] in vocabulary.unreadable and ids["a"] not in vocabulary.unreadable
  )


@pytest.mark.parametrize(
  "model",
  [
    models.WordLevel({"a": 0}),
    models.BPE({"a": 0}, [], end_of_word_suffix="</w>"),
  ],
)
def test_other_models_are_refused(model):
  text = tokenizers.Tokenizer(model).to_str()
  with pytest.raises(UserError, match="it is .* which cannot be trimmed"):
    Vocabulary(text, "it")
