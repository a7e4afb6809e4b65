"""Which tokens are kept, of vocabularies that are small enough to see."""

import numpy as np
import pytest
import tokenizers
from tokenizers import models

from time_jax.core.errors import UserError
from time_jax.trim import token_selection
from time_jax.trim.counting import Counts
from time_jax.trim.token_selection import Rule
from time_jax.trim.vocabulary import Vocabulary

FIRST = ["<unk>", *(f"<{i}>" for i in range(7))]  # stay, as configs know them
# Of the pieces besides, the highest and the lowest score stay.
ENDS = {"<high>": 0.0, "<low>": -99.0}


def unigram(scores):
  pieces = [*((name, 0.0) for name in FIRST), *(ENDS | scores).items()]
  model = models.Unigram(pieces, unk_id=0)
  return Vocabulary(tokenizers.Tokenizer(model).to_str(), "it")


def bpe(letters, *merges):
  tokens = [*FIRST, *letters, *("".join(pair) for pair in merges)]
  ids = {token: i for i, token in enumerate(tokens)}
  model = models.BPE(ids, list(merges), unk_token="<unk>")
  return Vocabulary(tokenizers.Tokenizer(model).to_str(), "it")


def counted(vocabulary, tokens, characters=None, documents=None):
  """Counts of a text, by token."""
  numbers = np.zeros((2, len(vocabulary.tokens)), np.int64)
  for place, given in enumerate((tokens, documents or {})):
    for token, number in given.items():
      numbers[place, vocabulary.ids[token]] = number
  if characters is None:
    characters = {c: n for token, n in tokens.items() for c in token}
  return Counts(9, *numbers, characters)


def choose(vocabulary, counts, rule, *named):
  """Token -> source, of those that are not kept for themselves."""
  chosen = token_selection.choose(
    vocabulary, counts, [vocabulary.ids[token] for token in named], rule
  )
  return {
    vocabulary.tokens[i]: source
    for i, source in chosen.items()
    if i not in vocabulary.fixed
  }


SEEN = {"aa": 3, "bb": 9, "cc": 3, "dd": 3}


@pytest.mark.parametrize(
  ("keep", "kept"),
  [
    (0, []),
    (1, ["bb"]),
    (2, ["bb", "aa"]),  # of equally frequent ones the first
    (3, ["bb", "aa", "cc"]),
    (4, ["bb", "aa", "cc", "dd"]),
  ],
)
def test_frequent_tokens_come_first(keep, kept):
  vocabulary = unigram({"aa": -4.0, "bb": -5.0, "cc": -3.0, "dd": -2.0})
  rule = Rule(keep=len(vocabulary.fixed) + keep)
  found = choose(vocabulary, counted(vocabulary, SEEN), rule)
  assert list(found) == kept and {*found.values()} <= {"seen"}


def test_tokens_that_the_text_lacks_fill_the_room():
  """Likely ones, then those of other scripts and of no text, by their share."""
  scores = {"ωω": -3.0, "βδ": -2.0, "δβ": -3.0, "▁▁": -4.0, "aa": -5.0}
  vocabulary = unigram(scores | {"bb": -6.0, "ab": -7.0})
  counts = counted(vocabulary, {"aa": 3})
  sources = [("aa", "seen"), ("ab", "likely"), ("bb", "likely")]
  sources += [("βδ", "rest"), ("ωω", "rest"), ("δβ", "rest"), ("▁▁", "rest")]
  least = len(vocabulary.fixed)
  for room in range(len(sources) + 1):
    found = choose(vocabulary, counts, Rule(keep=least + room))
    kept = [*found.items()]
    assert len(kept) == room
    if room != 2:  # Which is likelier of the two is for likely_tokens_test.
      assert {*kept} == {*sources[:room]}
    assert kept[3:] == sources[3:room]
  found = choose(vocabulary, counts, Rule(keep=least + 99))
  assert len(found) == len(sources)


LETTERS = "abcdwxyz"
MERGES = [("a", "b"), ("c", "d"), ("x", "y"), ("ab", "cd"), ("z", "w")]


def test_what_does_not_fit_leaves_its_room_to_what_does():
  vocabulary = bpe(LETTERS, *MERGES)
  tokens = {"abcd": 9, "xy": 5, "zw": 1}
  counts = counted(vocabulary, tokens, dict.fromkeys(LETTERS, 5))
  always = {letter: "always" for letter in LETTERS}
  least = len(vocabulary.fixed) + len(always)
  for room, kept in [
    (0, []),
    (1, ["xy"]),  # "abcd" needs "ab" and "cd"
    (2, ["xy", "zw"]),
    (3, ["ab", "cd", "abcd"]),
    (4, ["ab", "cd", "abcd", "xy"]),
  ]:
    found = choose(vocabulary, counts, Rule(keep=least + room))
    assert found == always | dict.fromkeys(kept, "seen")
  with pytest.raises(UserError, match=f"give at least {least}"):
    choose(vocabulary, counts, Rule(keep=least - 1))


def test_what_is_named_stays_with_its_parts():
  vocabulary = bpe(LETTERS, *MERGES)
  counts = counted(vocabulary, {"xy": 5}, {"x": 5, "y": 5})
  found = choose(vocabulary, counts, Rule(min_count=1), "abcd")
  always = dict.fromkeys([*LETTERS, "ab", "cd", "abcd"], "always")
  assert found == always | {"xy": "seen"}


@pytest.mark.parametrize(
  ("rule", "kept"),
  [
    (Rule(min_count=36), ["abcd"]),
    (Rule(min_count=35), ["abcd", "xy"]),
    (Rule(coverage=0.65), ["abcd"]),  # with its parts just so many
    (Rule(coverage=0.651), ["abcd", "xy"]),
    (Rule(coverage=1.0), ["abcd", "xy"]),
  ],
  ids=str,
)
def test_a_share_counts_the_parts_of_tokens(rule, kept):
  vocabulary = bpe(LETTERS, *MERGES)
  tokens = {"abcd": 40, "xy": 35, "ab": 15, "cd": 10}
  counts = counted(vocabulary, tokens, dict.fromkeys(LETTERS, 5))
  found = choose(vocabulary, counts, rule)
  parts = {"ab", "cd"} | {*kept}
  assert found.keys() - {*LETTERS} == parts


@pytest.mark.parametrize(
  ("characters", "kept"),
  [
    # Letters of the text's own scripts, of which it need not have each, ...
    ({"a": 980, "β": 20, "1": 99_999}, "aqδβ17é"),
    # ... not of others but for those that it has, nor of what is too rare.
    ({"a": 9980, "β": 20}, "aqβ17é"),
    ({"a": 9_999_999, "β": 1}, "aq17é"),
    ({"a": 999_999, "β": 1}, "aqβ17é"),
    # Latin is in every text.
    ({"β": 100, "δ": 1}, "aqδβ17é"),
    ({"ж": 100}, "aq17éж"),
  ],
)
def test_single_characters_of_the_text_and_of_its_scripts(characters, kept):
  letters = "aqδβ17éж"
  vocabulary = unigram({letter: -2.0 for letter in letters})
  counts = counted(vocabulary, {}, characters)
  found = choose(vocabulary, counts, Rule(min_count=1))
  assert found == dict.fromkeys(kept, "always")


def widened(rows, **more):
  """Token -> source, of tokens with counts, documents and scores."""
  vocabulary = unigram({t: score for t, (_, _, score) in rows.items()})
  counts = counted(
    vocabulary,
    {token: number for token, (number, _, _) in rows.items()},
    {"a": 1000, **more},
    {token: number for token, (_, number, _) in rows.items()},
  )
  chosen = {vocabulary.ids[t]: "seen" for t, (n, _, _) in rows.items() if n}
  found = token_selection.widen(vocabulary, chosen, counts)
  fixed = vocabulary.fixed
  return {vocabulary.tokens[i]: s for i, s in found.items() if i not in fixed}


@pytest.mark.parametrize(
  ("once", "more"),
  [
    # Of 120,000 tokens nearly 6 may be others in a new document: those that are
    # in one document and, of unseen ones, one more.
    (4, []),
    (5, ["ab", "ba"]),
    (60, ["ab", "ba"]),
  ],
)
def test_a_text_is_widened_by_what_a_new_document_would_miss(once, more):
  rows = {
    "aaaa": (120_000 - once, 9, -1.0),  # in many documents
    "ab": (0, 0, -2.0),
    "ba": (0, 0, -2.0),
    "aa": (once, 1, -3.0),
    "bb": (0, 0, -4.0),
    "βδ": (0, 0, -1.5),
  }
  expected = {"aaaa": "seen", "aa": "seen"} | dict.fromkeys(more, "likely")
  assert widened(rows) == expected


def test_a_short_text_is_widened_by_all_that_there_is():
  rows = {"aaaa": (9, 1, -1.0), "ab": (0, 0, -2.0), "βδ": (1, 1, -3.0)}
  rows |= {"δβ": (0, 0, -2.0), "ωω": (0, 0, -4.0)}
  found = widened(rows)
  expected = {"aaaa": "seen", "βδ": "seen", "ab": "likely", "δβ": "rest"}
  assert found == expected
