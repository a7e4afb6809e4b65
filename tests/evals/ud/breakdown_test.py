"""Counts by feature and part of speech, beside the scores of udtools."""

import collections

import pytest
import tiny_ud

from time_jax.evals.ud import breakdown, conllu, scoring

pytest.importorskip("udtools.udeval")


def spoiled(sentence):
  """Every third word is wrong in some column."""
  columns = {
    name: list(sentence.column(name))
    for name in ("UPOS", "FEATS", "LEMMA", "DEPREL")
  }
  for i in range(0, len(sentence.words), 3):
    columns["UPOS"][i] = "X"
    columns["FEATS"][i] = "Case=Voc"
    columns["LEMMA"][i] += "x"
    columns["DEPREL"][i] = columns["DEPREL"][i] + ":odd"  # Only a subtype.
    columns["DEPREL"][i // 2] = "vocative"
  heads = list(sentence.column("HEAD"))
  others = [i for i, head in enumerate(heads) if head != "0"]
  for i in others[::4]:  # Another head, which need not make a tree.
    heads[i] = str(heads.index("0") + 1)
  columns["HEAD"] = heads
  return sentence.with_columns(columns)


def test_the_counts_add_up_to_the_scores_of_udtools():
  path = tiny_ud.UD / "ga-dev.conllu.gz"
  gold = conllu.read(path)
  found = [spoiled(sentence) for sentence in gold]
  scores = scoring.score(gold, found)
  by_pos = breakdown.count(gold, found)["upos"]
  words = sum(row["words"] for row in by_pos.values())
  assert words == sum(len(sentence.words) for sentence in gold)
  items = scoring.per_item(gold, found)
  assert items.keys() == set(scoring.COUNTED)
  for metric, own in items.items():
    right = sum(row[metric] for row in by_pos.values())
    assert 100 * right / words == pytest.approx(scores[metric])
    assert 0 < right < words
    assert sum(own.right) == right
    assert list(own.whole) == [len(sentence.words) for sentence in gold]
  one = scoring.per_item(gold[3:4], found[3:4])
  assert one["LAS"].right == items["LAS"].right[3:4]


def test_features_are_counted_one_by_one():
  gold = conllu.read(tiny_ud.UD / "ga-dev.conllu.gz")
  every = collections.Counter(
    feature
    for sentence in gold
    for text in sentence.column("FEATS")
    for feature in text.split("|")
    if feature != "_"
  )
  same = breakdown.count(gold, gold)["feats"]
  assert {name: row["gold"] for name, row in same.items()} == every
  assert all(len(set(row.values())) == 1 for row in same.values())
  columns = {"FEATS": ["Case=Gen"] * len(gold[0].words)}
  changed = breakdown.count(gold[:1], [gold[0].with_columns(columns)])
  row = changed["feats"]["Case=Gen"]
  assert row["predicted"] == len(gold[0].words)
  assert row["right"] == row["gold"] < row["predicted"]
  assert changed["feats"]["Number=Sing"]["predicted"] == 0
