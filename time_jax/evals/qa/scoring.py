"""Scores answers by exact match and F1.

As SQuAD v1.1 defines them (arXiv 1606.05250, and the evaluation program that
came with it): an answer is lower-cased, loses ASCII punctuation and the
English articles, and is split at whitespace. XQuAD is scored so in every
language. MLQA (arXiv 1910.07475) has rules of its own for seven languages: all
of Unicode's punctuation, each language's articles (none in Hindi and Chinese),
and Chinese split into characters. XQuAD and MLQA share
languages, so the recipe says whose rules are meant.
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
from time_jax.report.per_item import Ratios

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
  """Names the definition by which answers are scored, for reports.

  Args:
    lang: ISO code; empty: English.
    rules: "squad", or "mlqa".

  Raises:
    UserError: the language is unknown, or MLQA does not have it.
  """
  code = _mlqa_code(lang, rules)
  return f"the definition of {f'MLQA ({code})' if code else 'SQuAD v1.1'}"


def score(
  gold: Sequence[Question],
  predicted: Sequence[Question],
  lang: str,
  rules: str = "squad",
) -> dict[str, float]:
  """Scores predicted answers.

  Args:
    gold: questions with all right answers.
    predicted: the same questions with one answer each.
    lang: ISO code; empty: English.
    rules: "squad", or "mlqa".

  Returns:
    Metric -> percent: the mean over the questions, where the right answer that
    is closest to the predicted one counts.
  """
  items = per_item(gold, predicted, lang, rules)
  return {
    name: 100 * sum(own.right) / sum(own.whole) for name, own in items.items()
  }


def per_item(
  gold: Sequence[Question],
  predicted: Sequence[Question],
  lang: str,
  rules: str = "squad",
) -> dict[str, Ratios]:
  """Scores every answer; otherwise as `score`.

  Returns:
    Metric -> the score of each question, of 1.
  """
  split = functools.lru_cache(1 << 16)(splitter(lang, rules))
  found: dict[str, list[float]] = {name: [] for name in METRICS}
  for right, guess in zip(gold, predicted, strict=True):
    words = split(guess.answers[0].text)
    golds = [split(answer.text) for answer in right.answers]
    found["F1"].append(max(_f1(gold_words, words) for gold_words in golds))
    found["EM"].append(int(words in golds))
  whole = [1] * len(gold)
  return {name: Ratios(own, whole) for name, own in found.items()}


def splitter(lang: str, rules: str) -> Callable[[str], tuple[str, ...]]:
  """Returns a function that splits an answer into the words to compare."""
  code = _mlqa_code(lang, rules)
  removed = dict.fromkeys(map(ord, string.punctuation)) | (
    _unicode_punctuation() if code else {}
  )
  articles = re.compile(_ARTICLES[code] if code else _ENGLISH)

  def split(text: str) -> tuple[str, ...]:
    text = text.lower().translate(removed)
    if articles.pattern:
      text = articles.sub(" ", text)
    if code == "zh":
      text = _HAN.sub(r" \1 ", text)
    return tuple(text.split())

  return split


def _f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
  """Returns F1 of the words, each as often as both have it."""
  both = collections.Counter(gold) & collections.Counter(predicted)
  same = sum(both.values())
  return 2 * same / (len(gold) + len(predicted)) if same else 0.0


def _mlqa_code(lang: str, rules: str) -> str:
  """Returns MLQA's code of the language; "" where SQuAD's rules are meant."""
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
  codes = range(sys.maxunicode + 1)
  return {c: None for c in codes if unicodedata.category(chr(c))[0] == "P"}
