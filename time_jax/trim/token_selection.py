"""Which tokens of a vocabulary are kept for the text of one language.

Always: what `Vocabulary.fixed` says; and of the tokens that are one character
those that the text has, all of its scripts and of Latin, which names and
addresses are written in everywhere, and signs of no script, such as digits and
punctuation. Then the most frequent ones, as many as the user's rule asks for,
each with what it is made of. Where the user has no rule, tokens that a short
text did not happen to show are added (see `widen`).
"""

import collections
import dataclasses
import math
import unicodedata
from collections.abc import Container, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from time_jax.core.errors import UserError
from time_jax.trim.counting import Counts
from time_jax.trim.vocabulary import Vocabulary

# A script is the text's own from this share of its letters on: names and
# quotations in other scripts stay below it.
_OWN_SCRIPT = 0.01
# A big text from the web has every character there is, somewhere.
_RARE = 1e-6
_OF_ALL = ("", "COMBINING", "DIGIT", "MODIFIER", "VARIATION")
COVERAGE = 0.9999
# Of the tokens of a new document, so that 0.999 of them stay the same: one that
# is missing changes its neighbours, and few documents of a text have most of
# its rare tokens. In 36 held-out parts of texts of six languages, 0.9998 gave
# 0.9989 at least, 0.9999 gave 0.9993, and this 0.9996.
_ENOUGH = 0.99995


@dataclasses.dataclass(frozen=True)
class Rule:
  """How many tokens are kept; exactly one attribute is set.

  Attributes:
    keep: at most so many.
    min_count: those that occur so often in the text.
    coverage: as many as make up this share of the text's tokens.
  """

  keep: int | None = None
  min_count: int | None = None
  coverage: float | None = None

  def __post_init__(self) -> None:
    given = {k: v for k, v in vars(self).items() if v is not None}
    if len(given) != 1:
      shown = " ".join(f"--{k}={v}" for k, v in given.items()) or "nothing"
      raise UserError(
        f"{shown} is given; expected one of --keep, --min_count, --coverage."
      )
    for name in ("keep", "min_count"):
      if given.get(name, 1) < 1:
        raise UserError(f"--{name}={given[name]}; expected 1 or more.")
    if not 0 < given.get("coverage", 1) <= 1:
      raise UserError(
        f"--coverage={self.coverage}; expected a share of the text's tokens, "
        f"more than 0 and at most 1, such as {COVERAGE}."
      )

  def __str__(self) -> str:
    return " ".join(f"{k}={v}" for k, v in vars(self).items() if v is not None)


def choose(
  vocabulary: Vocabulary, counts: Counts, named: Iterable[int], rule: Rule
) -> list[int]:
  """Ids of the tokens that are kept, in ascending order.

  Args:
    vocabulary: all tokens.
    counts: of the text.
    named: ids that stay for a reason outside of the tokenizer.
    rule: how many are kept.

  Raises:
    UserError: the rule asks for fewer than must stay.
  """
  kept: set[int] = set()
  alphabet = _alphabet(counts.characters)
  always = vocabulary.fixed | set(named)
  for token_id in vocabulary.tokens:
    character = vocabulary.text(token_id)
    if len(character) == 1 and _written_in(alphabet, character):
      always.add(token_id)
  for token_id in always:
    kept |= vocabulary.needed(token_id)
  if rule.keep is not None and rule.keep < len(kept):
    raise UserError(
      f"--keep={rule.keep} is less than the {len(kept)} tokens that must stay: "
      "special tokens, bytes, and single characters of the text's scripts; "
      f"give at least {len(kept)}."
    )
  return sorted(kept | _most_frequent(vocabulary, counts.tokens, kept, rule))


def widen(
  vocabulary: Vocabulary, old_ids: Iterable[int], counts: Counts
) -> list[int]:
  """Adds tokens that a short text of the language did not happen to show.

  In the order of the tokenizer, whose training saw more: first those in the
  text's characters and scripts, then the rest; as many as it would take if each
  document of the text were new. What it then would miss are the tokens that
  occur in that document only: Good and Turing's estimate (Good 1953), counted
  by documents. A text of many million tokens needs few or none; one of some
  thousand cannot tell, and gets all that its characters and scripts can write.

  Args:
    vocabulary: all tokens.
    old_ids: the tokens that are kept for the text.
    counts: of the text.
  """
  kept = set(old_ids)
  alphabet = _alphabet(counts.characters)

  def strange(token_id: int) -> bool:
    words = vocabulary.text(token_id)
    return not words or not _written_in(alphabet, words)

  order = sorted(
    vocabulary.tokens, key=lambda i: (strange(i), vocabulary.rank(i), i)
  )
  in_one_document = np.where(counts.spread == 1, counts.tokens, 0)
  missing = in_one_document.sum()
  bound = (1 - _ENOUGH) * counts.tokens.sum()
  for token_id in order:
    # One more than was seen, or a short text would have enough too soon; what
    # is strange to it is not expected unseen.
    if missing + (not strange(token_id)) <= bound:
      break
    kept |= vocabulary.needed(token_id)
    missing -= in_one_document[token_id]
  return sorted(kept)


def _most_frequent(
  vocabulary: Vocabulary,
  tokens: NDArray[np.int64],
  always: set[int],
  rule: Rule,
) -> set[int]:
  """The tokens that the rule adds to those that are kept always."""
  added: set[int] = set()
  # Equally frequent ones by their ids: the same text gives the same tokens.
  order = np.argsort(-tokens, kind="stable")[: np.count_nonzero(tokens)]
  missing = tokens.sum() - tokens[sorted(always)].sum()
  bound = (1 - (rule.coverage or 0)) * tokens.sum()
  for token_id in map(int, order):
    if rule.coverage is not None and missing <= bound:
      break
    if rule.min_count is not None and tokens[token_id] < rule.min_count:
      break
    more = vocabulary.needed(token_id) - always - added
    room = (rule.keep or math.inf) - len(always) - len(added)
    if len(more) > room:
      break
    added |= more
    missing -= tokens[sorted(more)].sum()
  return added


def _alphabet(characters: Mapping[str, int]) -> set[str]:
  """The characters of a text, and names of scripts (see `script`)."""
  letters: collections.Counter[str] = collections.Counter()
  for character, number in characters.items():
    letters[script(character)] += number
  bound = _OWN_SCRIPT * (letters.total() - letters["SIGN"])
  scripts = {name for name, number in letters.items() if number >= bound}
  total = letters.total()
  seen = {c for c, number in characters.items() if number >= _RARE * total}
  return seen | scripts | {"LATIN", "SIGN"}


def _written_in(alphabet: Container[str], words: str) -> bool:
  return all(c in alphabet or script(c) in alphabet for c in words)


def script(character: str) -> str:
  """The script of a character, as Unicode's names begin: "LATIN", "CJK".

  "SIGN" for what belongs to all of them: punctuation, digits, symbols, accents.
  Empty for no character.
  """
  if not character:
    return ""
  kind = unicodedata.category(character)
  word = unicodedata.name(character, "").partition(" ")[0]
  of_one = kind[0] in "LM" or kind == "Nd"
  return word if of_one and word not in _OF_ALL else "SIGN"
