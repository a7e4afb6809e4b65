"""Filling up a number of tokens with those that are likely in other text."""

import functools
import json
import math
import random

import numpy as np
import pytest
import tiny_multilingual
import tiny_tokenizers
import tokenizers
from tokenizers import models

from time_jax.cli import main
from time_jax.core.errors import UserError
from time_jax.data.tokenizing import TokenizerSpec
from time_jax.trim import counting, likely_tokens, token_selection
from time_jax.trim.token_selection import Rule
from time_jax.trim.vocabulary import Vocabulary

# Right to left, with combining marks, plain.
LANGUAGES = ["ar", "da", "de", "fr", "hi", "ru"]
# Of all tokens, so that a language's own are many more than a text shows.
SIZES = {"unigram": 4000, "wordpiece": 8000, "byte_bpe": 8000}


def by_hand(texts, weights, text):
  """Log-probability of a text, as Witten and Bell have it, n-gram by n-gram."""
  alphabet = {character for some in texts for character in some}
  found = 0.0
  for place, character in enumerate(text):
    probability = 1 / len(alphabet)
    for length in range(min(place, 4) + 1):
      context = text[place - length : place]
      after = dict.fromkeys(alphabet, 0.0)
      for some, weight in zip(texts, weights, strict=True):
        for i in range(length, len(some)):
          if some[i - length : i] == context:
            after[some[i]] += weight
      total, kinds = sum(after.values()), sum(n > 0 for n in after.values())
      if total:
        probability = (after[character] + kinds * probability) / (total + kinds)
    found += math.log(probability)
  return found


def words(source, count):
  lengths = (source.randint(1, 8) for _ in range(count))
  return ["".join(source.choices("abc", k=length)) for length in lengths]


@pytest.mark.parametrize("seed", range(4))
def test_characters_are_as_likely_as_they_are_by_hand(seed):
  source = random.Random(seed)
  texts = [*words(source, 12), "", "d", "é"]
  weights = np.array([source.choice([0, 0.5, 1, 7]) for _ in texts])
  found = likely_tokens.log_probabilities(texts, weights)
  expected = [by_hand(texts, weights, text) for text in texts]
  np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("context", ["", "b", "ab", "cab", "bcab", "xbcab"])
def test_probabilities_after_a_context_sum_to_one(context):
  texts = [*words(random.Random(1), 30), "xbcab"]
  # Of no weight: asked for, not learnt from.
  asked = [context, *(context + character for character in "abcx")]
  weights = np.array([3.0] * len(texts) + [0.0] * len(asked))
  found = likely_tokens.log_probabilities([*texts, *asked], weights)
  before, *after = found[-len(asked) :]
  assert np.exp(np.array(after) - before).sum() == pytest.approx(1)


def test_without_weights_every_character_is_as_likely():
  found = likely_tokens.log_probabilities(["ab", "c"], np.zeros(2))
  np.testing.assert_allclose(found, [2 * math.log(1 / 3), math.log(1 / 3)])
  assert likely_tokens.log_probabilities([], np.zeros(0)).shape == (0,)


def unigram(scores):
  names = [("<unk>", 0.0), *((f"<{i}>", 0.0) for i in range(7))]
  model = models.Unigram([*names, *scores.items()], unk_id=0)
  return Vocabulary(tokenizers.Tokenizer(model).to_str(), "it")


def test_what_looks_like_the_text_comes_first():
  scores = {"<first>": 0.0, "▁last": -9.0}  # Of these the scores are bounds.
  scores |= {"xaxa": -7.0, "oson": -4.0, "osono": -5.0, "axax": -6.0}
  scores |= {"noso": -3.0, "axa": -8.0, "<user>": 0.0}
  vocabulary = unigram(scores)
  ids = vocabulary.ids
  tokens = np.zeros(len(vocabulary.tokens), np.int64)
  unseen = [ids[t] for t in scores if t not in ("<first>", "▁last", "axa")]
  # No text: as the tokenizer has them, and last what has no probability.
  found = likely_tokens.by_expected_use(vocabulary, tokens, unseen)
  texts = [vocabulary.tokens[i] for i in found]
  assert texts == ["noso", "oson", "osono", "axax", "xaxa", "<user>"]
  tokens[ids["axa"]] = 1000
  found = likely_tokens.by_expected_use(vocabulary, tokens, unseen)
  texts = [vocabulary.tokens[i] for i in found]
  assert texts[:2] == ["axax", "xaxa"] and texts[-1] == "<user>"


@pytest.fixture(scope="module")
def tokenizer_of():
  """Kind of `tiny_tokenizers` -> one of all languages, and its tokens."""

  @functools.cache
  def tokenizer(kind):
    train = tiny_tokenizers.KINDS[kind]
    text = train(tiny_multilingual.texts(), SIZES[kind]).to_str()
    return TokenizerSpec(text, 0, SIZES[kind]), Vocabulary(text, "")

  return tokenizer


def parts(language):
  """Every other document of a language, and those between."""
  documents = tiny_tokenizers.documents(language)
  return documents[::2], documents[1::2]


def held_out_share(tokenizer, old_ids, language):
  spec, vocabulary = tokenizer
  trimmed = TokenizerSpec(json.dumps(vocabulary.cut(old_ids)), 0, len(old_ids))
  _, held_out = parts(language)
  compared = counting.compare(
    spec, trimmed, old_ids, held_out, vocabulary.unreadable
  )
  return compared.share_of_tokens


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
def test_likely_tokens_are_those_of_other_text(tokenizer_of, monkeypatch, kind):
  """More so than by the tokenizer's own order, or by id."""
  tokenizer = tokenizer_of(kind)
  spec, vocabulary = tokenizer
  orders = {
    "likely": likely_tokens.by_expected_use,
    "own": lambda vocabulary, tokens, ids: token_selection.by_share(
      vocabulary, ids
    ),
    "id": lambda vocabulary, tokens, ids: sorted(ids),
  }
  shares = {name: [] for name in orders}
  for language in LANGUAGES:
    counts = counting.count(spec, parts(language)[0])
    for name, order in orders.items():
      monkeypatch.setattr(token_selection, "by_expected_use", order)
      always = token_selection.choose(vocabulary, counts, (), Rule(min_count=1))
      keep = len(always) + 300
      chosen = token_selection.choose(vocabulary, counts, (), Rule(keep=keep))
      assert len(chosen) == keep
      assert {i: s for i, s in chosen.items() if i in always} == always
      assert {chosen[i] for i in chosen.keys() - always} == {"likely"}
      share = held_out_share(tokenizer, sorted(chosen), language)
      shares[name].append(share)
  better = [
    likely > max(others)
    for likely, *others in zip(*shares.values(), strict=True)
  ]
  assert sum(better) >= 5, shares


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
def test_any_number_of_tokens_that_can_be_kept(tokenizer_of, kind):
  spec, vocabulary = tokenizer_of(kind)
  counts = counting.count(spec, parts("ru")[0])
  everything = set(vocabulary.tokens)
  with pytest.raises(UserError) as caught:
    token_selection.choose(vocabulary, counts, (), Rule(keep=1))
  least = int(caught.value.args[0].split()[-1].rstrip("."))
  before: set[int] = set()
  of_sources = []
  for keep in [*range(least, least + 5), 1500, 3900, SIZES[kind] + 9]:
    chosen = token_selection.choose(vocabulary, counts, (), Rule(keep=keep))
    again = token_selection.choose(vocabulary, counts, (), Rule(keep=keep))
    assert list(again.items()) == list(chosen.items())
    assert len(chosen) == min(keep, len(everything))
    for token_id in chosen:
      assert vocabulary.needed(token_id) <= chosen.keys()
    held_out_share((spec, vocabulary), sorted(chosen), "ru")
    if vocabulary.kind != "BPE":  # There, what fits depends on the room.
      assert before <= chosen.keys()
    before = set(chosen)
    of_sources.append(list(dict.fromkeys(chosen.values())))
  assert before == everything
  assert of_sources[0] == ["always"]
  assert of_sources[-1] == [*token_selection.SOURCES]


def trim(teacher, text, out, *more):
  return main.main(
    ["trim", f"--teacher={teacher}", f"--text={text}", f"--out={out}", *more]
  )


@pytest.mark.parametrize("kind", ["xlm_roberta", "mbert", "roberta"])
def test_sources_are_in_the_record_and_the_report(
  teachers, tmp_path, capsys, kind
):
  """Of a text of two lines, and of more tokens than there are."""
  text = tmp_path / "two.jsonl"
  text.write_text('{"text": "En kort tekst"}\n{"text": "og en til"}\n')
  assert trim(teachers(kind), text, tmp_path / "out", "--keep=2500") == 0
  output = capsys.readouterr().out
  record = json.loads((tmp_path / "out" / "trim.json").read_text())
  sources = record["sources"]
  assert list(sources) == ["always", "seen", "likely", "rest"]
  assert sum(sources.values()) == len(record["old_ids"]) == 2500
  assert sources["always"] + sources["seen"] == record["of_text"]
  assert 0 < sources["seen"] < 15 and sources["likely"] > 300
  always, seen, likely, rest = (f"{number:,}" for number in sources.values())
  assert (
    f"  kept             {always} whatever the text is, {seen} seen in it, "
    f"{likely} likely in other text, {rest} of the rest\n"
  ) in output
  assert "note: --keep" not in output
  size = record["vocab_size"]["before"]
  assert trim(teachers(kind), text, tmp_path / "all", f"--keep={size + 9}") == 0
  record = json.loads((tmp_path / "all" / "trim.json").read_text())
  everything = len(record["old_ids"])
  assert size - 5 <= everything <= size and record["sources"]["rest"] > 0
  assert f"note: --keep={size + 9}, but {everything:,} tokens are all" in (
    capsys.readouterr().out
  )
