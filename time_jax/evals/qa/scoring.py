"""Exact match and F1 of answers.

As SQuAD v1.1 defines them (arXiv 1606.05250, and the evaluation program that
came with it): an answer is lower-cased, loses ASCII punctuation and the
English articles, and is split at whitespace. XQuAD is scored so in every
language. MLQA (arXiv 1910.07475) has rules of its own for seven languages: all
of Unicode's punctuation, each language's articles (none in Hindi and Chinese),
and Chinese split into characters. Both have files in
the same languages, so whose rules are meant has to be said.
"""

import collections
import functools
import re
import string
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from time_jax.catalog import languages
from time_jax.core.errors import UserError
from time_jax.evals.qa.squad import Question

METRICS = ("F1", "EM")
_ENGLISH = r"\b(?:a|an|the)\b"
# What MLQA takes for articles. Its Arabic rule is for the letters anywhere.
_ARTICLES: Mapping[str, str] = {
  "en": _ENGLISH,
  "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
  "hi": "",
  "vi": r"\b(?:của|là|cái|chiếc|những)\b",
  "de": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
  "ar": "ال",
  "zh": "",
}
_HAN = re.compile("([\u4e00-\u9fa5])")  # MLQA's range


def definition(lang: str, rules: str = "squad") -> str:
  """Whose definition is used for a language, for reports.

  Args:
    lang: ISO code; empty: English.
    rules: "squad", or "mlqa".

  Raises:
    UserError: MLQA does not have the language.
  """
  code = _mlqa_code(lang, rules)
  return f"the definition of {f'MLQA ({code})' if code else 'SQuAD v1.1'}"


def score(
  gold: Sequence[Question],
  predicted: Sequence[Question],
  lang: str,
  rules: str = "squad",
) -> dict[str, float]:
  """Means over the questions, each against its best answer, in percent.

  Args:
    gold: with all right answers.
    predicted: the same questions with one answer each.
    lang: ISO code; empty: English.
    rules: "squad", or "mlqa".
  """
  words = functools.lru_cache(1 << 16)(words_of(lang, rules))
  total = dict.fromkeys(METRICS, 0.0)
  for right, found in zip(gold, predicted, strict=True):
    answer = words(found.answers[0].text)
    golds = [words(one.text) for one in right.answers]
    total["F1"] += max(_f1(one, answer) for one in golds)
    total["EM"] += max(one == answer for one in golds)
  return {name: 100 * value / len(gold) for name, value in total.items()}


def words_of(lang: str, rules: str) -> Callable[[str], tuple[str, ...]]:
  """What turns the text of an answer into the words that are compared."""
  code = _mlqa_code(lang, rules)
  removed = (
    _unicode_punctuation()
    if code
    else dict.fromkeys(map(ord, string.punctuation))
  )
  articles = re.compile(_ARTICLES[code] if code else _ENGLISH)

  def words(text: str) -> tuple[str, ...]:
    text = text.lower().translate(removed)
    if articles.pattern:
      text = articles.sub(" ", text)
    if code == "zh":
      text = _HAN.sub(r" \1 ", text)
    return tuple(text.split())

  return words


def _f1(gold: Sequence[str], found: Sequence[str]) -> float:
  """Of the words, each as often as both have it."""
  both = collections.Counter(gold) & collections.Counter(found)
  same = sum(both.values())
  return 2 * same / (len(gold) + len(found)) if same else 0.0


def _mlqa_code(lang: str, rules: str) -> str:
  """The language, where rules of MLQA's own are meant; else empty."""
  code = languages.find(lang).iso1 if lang else "en"
  if rules == "squad":
    return ""
  if code not in _ARTICLES:
    raise UserError(
      f"data.rules=mlqa: MLQA has no language {lang!r}; expected one of "
      f"{', '.join(_ARTICLES)}, or data.rules=squad, as XQuAD is scored."
    )
  return code


@functools.cache
def _unicode_punctuation() -> dict[int, None]:
  """ASCII's, and what Unicode calls punctuation."""
  codes = (
    code
    for code in range(sys.maxunicode + 1)
    if unicodedata.category(chr(code)).startswith("P")
  )
  return dict.fromkeys([*map(ord, string.punctuation), *codes])
