"""Chooses the tokens of a vocabulary that are kept for one language.

These are always kept: `Vocabulary.fixed`, and of the tokens that are a single
character those that occur in the text, those of its scripts and of Latin, which
names and addresses are written in everywhere, and signs of no script, such as
digits and punctuation. Then come the most frequent ones, as many as the user's
rule asks for, each with the tokens that it is made of. A number of tokens that
is more than the text has is filled up with those likely in other text of the
language (see `likely_tokens`), then with any others. Where the user has no
rule, tokens that a short text did not happen to show are added (see `widen`).
"""

import collections
import dataclasses
import unicodedata
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from time_jax.core.errors import UserError
from time_jax.trim.counting import Counts
from time_jax.trim.likely_tokens import by_expected_use
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

# Why a token is kept: whatever the text is; for the text; for other text of its
# language; or because there was room.
Source = Literal["always", "seen", "likely", "rest"]
SOURCES: tuple[Source, ...] = get_args(Source)
Selection = dict[int, Source]  # by id


@dataclasses.dataclass(frozen=True)
class Rule:
  """How many tokens are kept; exactly one attribute is set.

  Attributes:
    keep: keeps this many tokens; fewer only where the tokenizer has no more, or
      none that fits with those it needs.
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
) -> Selection:
  """Chooses the tokens that are kept.

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
  always = set().union(*map(vocabulary.needed, always))
  # Equally frequent ones by their ids: the same text gives the same tokens.
  order = np.argsort(-counts.tokens, kind="stable")
  seen = order[: np.count_nonzero(counts.tokens)].tolist()
  chosen: Selection = dict.fromkeys(always, "always")
  if rule.keep is None:
    _add_seen(vocabulary, counts.tokens, seen, chosen, rule)
    return chosen
  if rule.keep < len(always):
    raise UserError(
      f"--keep={rule.keep} is less than the {len(always)} tokens that must "
      "stay: special tokens, bytes, and single characters of the text's "
      f"scripts; give at least {len(always)}."
    )
  _fill(vocabulary, seen, chosen, "seen", rule.keep)
  if len(chosen) < rule.keep:
    unseen = vocabulary.tokens.keys() - chosen.keys()
    foreign = _foreign(vocabulary, unseen, alphabet)
    likely = by_expected_use(vocabulary, counts.tokens, unseen - foreign)
    _fill(vocabulary, likely, chosen, "likely", rule.keep)
    _fill(vocabulary, by_share(vocabulary, foreign), chosen, "rest", rule.keep)
  return chosen


def widen(
  vocabulary: Vocabulary, chosen: Selection, counts: Counts
) -> Selection:
  """Adds tokens that a short text of the language did not happen to show.

  They are added in the order of the tokenizer, whose training saw more text:
  first those in the text's characters and scripts, then the rest; as many as it
  would take if each document of the text were new. A new document would miss
  the tokens that occur in it alone: the estimate of Good and Turing (Good 1953,
  "The population frequencies of species and the estimation of population
  parameters"), counted by documents. A text of many million tokens needs few or
  none; one of some thousand cannot tell, and gets all that its characters and
  scripts can write.

  Not in the order of `by_expected_use`: there a token's own occurrences make it
  likely, and the estimate would be too low.

  Args:
    vocabulary: all tokens.
    chosen: the tokens that are kept for the text.
    counts: counts of the text.
  """
  widened = dict(chosen)
  alphabet = _alphabet(counts.characters)
  foreign = _foreign(vocabulary, vocabulary.tokens, alphabet)
  rest = by_share(vocabulary, foreign)
  likely = by_share(vocabulary, vocabulary.tokens.keys() - foreign)
  in_one_document = np.where(counts.document_frequency == 1, counts.tokens, 0)
  missing = in_one_document.sum()
  bound = (1 - _ENOUGH) * counts.tokens.sum()
  for token_id in [*likely, *rest]:
    # One more than was seen, or a short text would have enough too soon; what
    # is foreign to it is not expected unseen.
    if missing + (token_id not in foreign) <= bound:
      break
    source: Source = "rest" if token_id in foreign else "likely"
    for needed in vocabulary.needed(token_id):
      widened.setdefault(needed, source)
    missing -= in_one_document[token_id]
  return widened


def _add_seen(
  vocabulary: Vocabulary,
  tokens: NDArray[np.int64],
  seen: Sequence[int],
  chosen: Selection,
  rule: Rule,
) -> None:
  """Adds the tokens of the text, frequent ones first, until the rule says."""
  source: Source = "seen"
  missing = tokens.sum() - tokens[sorted(chosen)].sum()
  bound = (1 - (rule.coverage or 0)) * tokens.sum()
  for token_id in seen:
    if rule.coverage is not None and missing <= bound:
      break
    if rule.min_count is not None and tokens[token_id] < rule.min_count:
      break
    more = vocabulary.needed(token_id) - chosen.keys()
    chosen |= dict.fromkeys(more, source)
    missing -= tokens[sorted(more)].sum()


def _fill(
  vocabulary: Vocabulary,
  order: Iterable[int],
  chosen: Selection,
  source: Source,
  keep: int,
) -> None:
  """Adds tokens in their order, each with what it needs, as far as they fit."""
  for token_id in order:
    if len(chosen) == keep:
      break
    more = vocabulary.needed(token_id) - chosen.keys()
    if len(more) <= keep - len(chosen):
      chosen |= dict.fromkeys(more, source)


def _foreign(
  vocabulary: Vocabulary, ids: Iterable[int], alphabet: Container[str]
) -> set[int]:
  """Returns the ids of tokens that are not written in an alphabet."""
  texts = {i: vocabulary.text(i) for i in ids}
  return {i for i, t in texts.items() if not t or not _written_in(alphabet, t)}


def by_share(vocabulary: Vocabulary, ids: Iterable[int]) -> list[int]:
  """Sorts tokens by their share of the text the tokenizer was trained on.

  Args:
    vocabulary: all tokens.
    ids: the tokens to sort.

  Returns:
    The ids, the most frequent first, equal ones in ascending order.
  """
  return sorted(ids, key=lambda i: (-vocabulary.log_probability(i), i))


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
