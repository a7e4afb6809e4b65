"""Where a tagger and parser is right: by feature and by part of speech.

Numbers are counts of words, so that they add up over files and seeds.
"""

from collections.abc import Iterator, Sequence

from time_jax.evals.ud import scoring
from time_jax.evals.ud.conllu import Sentence
from time_jax.evals.ud.labels import NONE

Counts = dict[str, dict[str, int]]  # class -> what is counted -> words

_OF_POS = ("UPOS", "UFeats", "Lemmas", "LAS")


def count(
  gold: Sequence[Sentence], found: Sequence[Sentence]
) -> dict[str, Counts]:
  """Counts what is right.

  Args:
    gold: annotated sentences.
    found: the same ones with predicted columns.

  Returns:
    "feats": of every feature, such as Case=Gen, the words that have it (gold),
    that are said to (predicted), and both (right). "upos": of every part of
    speech the words, and those with each metric of udtools right.
  """
  return {"feats": _by_feature(gold, found), "upos": _by_pos(gold, found)}


def _by_feature(gold: Sequence[Sentence], found: Sequence[Sentence]) -> Counts:
  table: Counts = {}
  for right, guess in zip(_features(gold), _features(found), strict=True):
    for name in right | guess:
      row = table.setdefault(name, {"gold": 0, "predicted": 0, "right": 0})
      row["gold"] += name in right
      row["predicted"] += name in guess
      row["right"] += name in right & guess
  return dict(sorted(table.items()))


def _features(sentences: Sequence[Sentence]) -> Iterator[set[str]]:
  for sentence in sentences:
    for text in sentence.column("FEATS"):
      yield set(text.split("|")) - {NONE}


def _by_pos(gold: Sequence[Sentence], found: Sequence[Sentence]) -> Counts:
  table: Counts = {}
  pairs = zip(scoring.compared(gold), scoring.compared(found), strict=True)
  for right, guess in pairs:
    if right["UPOS"] == NONE:
      continue  # It is not annotated.
    row = table.setdefault(right["UPOS"], dict.fromkeys(("words", *_OF_POS), 0))
    row["words"] += 1
    for metric, same in (
      ("UPOS", right["UPOS"] == guess["UPOS"]),
      ("UFeats", right["FEATS"] == guess["FEATS"]),
      ("Lemmas", right["LEMMA"] in (NONE, guess["LEMMA"])),
      ("LAS", all(right[c] == guess[c] for c in ("HEAD", "DEPREL"))),
    ):
      row[metric] += same
  return dict(sorted(table.items()))
