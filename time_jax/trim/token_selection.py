"""Chooses the tokens of a vocabulary that are kept for one language.

These are always kept: `Vocabulary.fixed`, and of the tokens that are a single
character those that occur in the text, those of its scripts and of Latin, which
names and addresses are written in everywhere, and signs of no script, such as
digits and punctuation. Then come the most frequent ones, as many as the user's
rule asks for, each with the tokens that it is made of. Where the user has no
rule, tokens that a short text did not happen to show are added (see `widen`).
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
_NO_SCRIPT = ("", "COMBINING", "DIGIT", "MODIFIER", "VARIATION")
COVERAGE = 0.9999
# Share of a new document's tokens that are to be kept, so that 0.999 of them
# stay the same: a missing one changes its neighbours, and most of a text's rare
# tokens are in few of its documents. In 36 held-out parts of texts of six
# languages, 0.9998 gave at least 0.9989, 0.9999 gave 0.9993, and this 0.9996.
_ENOUGH = 0.99995


@dataclasses.dataclass(frozen=True)
class Rule:
  """How many tokens are kept; exactly one attribute is set.

  Attributes:
    keep: keeps at most this many tokens.
    min_count: keeps the tokens that occur this often in the text.
    coverage: keeps as many as make up this share of the text's tokens.
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
  """Returns the ids of the tokens that are kept, in ascending order.

  Args:
    vocabulary: all tokens.
    counts: counts of the text.
    named: ids that stay for a reason outside of the tokenizer.
    rule: how many are kept.

  Raises:
    UserError: the rule asks for fewer than must stay.
  """
  alphabet = _alphabet(counts.characters)
  always = vocabulary.fixed | set(named)
  for token_id in vocabulary.tokens:
    character = vocabulary.text(token_id)
    if len(character) == 1 and _written_in(alphabet, character):
      always.add(token_id)
  kept = set().union(*map(vocabulary.needed, always))
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

  They are added in the order of the tokenizer, whose training saw more text:
  first those in the text's characters and scripts, then the rest; as many as it
  would take if each document of the text were new. A new document would miss
  the tokens that occur in it alone: the estimate of Good and Turing (Good 1953,
  "The population frequencies of species and the estimation of population
  parameters"), counted by documents. A text of many million tokens needs few or
  none; one of some thousand cannot tell, and gets all that its characters and
  scripts can write.

  Args:
    vocabulary: all tokens.
    old_ids: the tokens that are kept for the text.
    counts: counts of the text.
  """
  kept = set(old_ids)
  alphabet = _alphabet(counts.characters)

  def foreign(token_id: int) -> bool:
    text = vocabulary.text(token_id)
    return not text or not _written_in(alphabet, text)

  order = sorted(
    vocabulary.tokens, key=lambda i: (foreign(i), vocabulary.rank(i), i)
  )
  in_one_document = np.where(counts.document_frequency == 1, counts.tokens, 0)
  missing = in_one_document.sum()
  bound = (1 - _ENOUGH) * counts.tokens.sum()
  for token_id in order:
    # One more than was seen, or a short text would have enough too soon; what
    # is foreign to it is not expected unseen.
    if missing + (not foreign(token_id)) <= bound:
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
  """Returns the tokens that the rule adds to those that are always kept."""
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
  """Returns the characters of a text, and names of scripts (see `script`)."""
  scripts: collections.Counter[str] = collections.Counter()
  for character, number in characters.items():
    scripts[script(character)] += number
  total = scripts.total()
  bound = _OWN_SCRIPT * (total - scripts["SIGN"])
  own = {name for name, number in scripts.items() if number >= bound}
  seen = {c for c, number in characters.items() if number >= _RARE * total}
  return seen | own | {"LATIN", "SIGN"}


def _written_in(alphabet: Container[str], text: str) -> bool:
  return all(c in alphabet or script(c) in alphabet for c in text)


def script(character: str) -> str:
  """Returns the script of a character, such as "LATIN" or "CJK".

  That is the first word of its Unicode name; "SIGN" for what belongs to all
  scripts: punctuation, digits, symbols, accents; "" for no character.
  """
  if not character:
    return ""
  kind = unicodedata.category(character)
  word = unicodedata.name(character, "").partition(" ")[0]
  of_one = kind[0] in "LM" or kind == "Nd"
  return word if of_one and word not in _NO_SCRIPT else "SIGN"
