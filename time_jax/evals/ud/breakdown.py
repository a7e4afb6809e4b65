"""Counts what a tagger and parser gets right, by feature and by UPOS.

Numbers are counts of words, so that they add up over files and seeds.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence

from time_jax.evals.ud import scoring
from time_jax.evals.ud.conllu import Sentence
from time_jax.evals.ud.labels import NONE

Counts = dict[str, dict[str, int]]  # class -> what is counted -> words


def count(
  gold: Sequence[Sentence], predicted: Sequence[Sentence]
) -> dict[str, Counts]:
  """Counts what is right, by feature and by part of speech.

  Args:
    gold: annotated sentences.
    predicted: the same sentences with predicted columns.

  Returns:
    "feats": for each feature, such as Case=Gen, the words that have it (gold),
    that are predicted to have it (predicted), and both (right). "upos": for
    each part of speech its words, and those with each metric of udtools right.
  """
  return {
    "feats": _by_feature(gold, predicted),
    "upos": _by_pos(gold, predicted),
  }


def _by_feature(
  gold: Sequence[Sentence], predicted: Sequence[Sentence]
) -> Counts:
  names = "gold", "predicted", "right"
  counters = {name: collections.Counter[str]() for name in names}
  for right, guess in zip(_features(gold), _features(predicted), strict=True):
    counters["gold"].update(right)
    counters["predicted"].update(guess)
    counters["right"].update(right & guess)
  return _table(counters)


def _features(sentences: Sequence[Sentence]) -> Iterator[set[str]]:
  for sentence in sentences:
    for text in sentence.column("FEATS"):
      yield set(text.split("|")) - {NONE}


def _by_pos(gold: Sequence[Sentence], predicted: Sequence[Sentence]) -> Counts:
  names = "words", *scoring.COUNTED
  counters = {name: collections.Counter[str]() for name in names}
  words = scoring.compared(gold), scoring.compared(predicted)
  for word, guess in zip(*words, strict=True):
    pos = word["UPOS"]
    if pos == NONE:
      continue  # It is not annotated.
    counters["words"][pos] += 1
    for name, is_right in scoring.right(word, guess).items():
      counters[name][pos] += is_right
  return _table(counters)


def _table(counters: Mapping[str, collections.Counter[str]]) -> Counts:
  classes = sorted({name for counter in counters.values() for name in counter})
  return {
    name: {kind: counter[name] for kind, counter in counters.items()}
    for name in classes
  }
