"""What is learnt of a treebank, and that what is written is UD."""

import numpy as np
import pytest

from time_jax.evals.ud import conllu, labels

# Of the last two words nothing is known but where they stand in the tree.
PARTLY = """\
1	Dogs	dog	NOUN	NNS	Number=Plur	2	nsubj	_	_
2	bark	bark	VERB	VBP	_	0	root	_	_
3	_	_	SYM	_	_	2	dep	_	_
4	very	_	_	_	_	5	_	_	_
5	loudly	_	_	_	_	2	_	_	_

"""


def parsed(text):
  return conllu.parse(text.encode().splitlines(keepends=True), "a.conllu")


def test_nothing_is_no_class():
  """But for a word without an XPOS or without features, which is one."""
  sentences = parsed(PARTLY)
  found = labels.learn(sentences)
  assert {name: sorted(classes) for name, classes in found.items()} == {
    "UPOS": ["NOUN", "SYM", "VERB"],
    "XPOS": ["NNS", "VBP", "_"],
    "FEATS": ["Number=Plur", "_"],
    "LEMMA": found["LEMMA"],
    "DEPREL": ["dep", "nsubj", "root"],
  }
  wanted = labels.targets(sentences[0], found)
  missing = {name: list(numbers < 0) for name, numbers in wanted.items()}
  assert missing == {
    "UPOS": [False] * 3 + [True] * 2,
    "XPOS": [False] * 3 + [True] * 2,
    "FEATS": [False] * 3 + [True] * 2,
    "LEMMA": [False] * 3 + [True] * 2,  # The lemma of the word _ is _.
    "DEPREL": [False] * 3 + [True] * 2,
    "HEAD": [False] * 5,
  }


def test_a_treebank_where_few_words_have_an_xpos():
  text = PARTLY.partition("4\t")[0].replace("NNS", "_")
  (sentence,) = parsed(text + "\n")
  found = labels.learn([sentence])
  assert found["XPOS"] == ["_", "VBP"]
  numbers = labels.targets(sentence, found)
  written = labels.columns(sentence.column("FORM"), numbers, found)
  for name, values in written.items():
    assert values == sentence.column(name), name


def test_a_column_of_nothing_is_not_predicted():
  lines = [line.split("\t") for line in PARTLY.splitlines()]
  bare = ["\t".join([*c[:3], "_", "_", *c[5:]]) for c in lines if len(c) > 1]
  sentences = parsed("\n".join([*bare, "", ""]))
  found = labels.learn(sentences)
  assert found["UPOS"] == found["XPOS"] == []
  # Without any part of speech, `_` is a word without features everywhere.
  assert found["FEATS"] == ["_", "Number=Plur"]
  columns = labels.columns(
    ["x"],
    {"HEAD": np.array([0]), **dict.fromkeys(found, np.array([0]))},
    found,
  )
  assert columns["UPOS"] == columns["XPOS"] == ["_"]


def test_words_without_a_label_are_noted(capsys):
  sentences = parsed(PARTLY)
  labels.note_unknown(sentences, labels.learn(sentences))
  assert capsys.readouterr().err.splitlines() == [
    f"time_jax: note: a.conllu:4: no {column} (2 words of this file); such "
    "words count as wrong."
    for column in ("UPOS", "DEPREL")
  ]


@pytest.mark.parametrize(
  ("classes", "heads", "relations", "written"),
  [
    (["root", "det"], [2, 0, 2], [1, 0, 1], ["det", "root", "det"]),
    (["root", "det"], [2, 0, 2], [0, 1, 0], ["dep", "root", "dep"]),
    (["det"], [0, 1], [0, 0], ["root", "det"]),
    (["root:x", "det"], [0, 1], [0, 0], ["root:x", "dep"]),
    ([], [0, 1], [0, 0], ["_", "_"]),
  ],
)
def test_the_root_and_no_other_word_has_its_relation(
  classes, heads, relations, written
):
  numbers = {"HEAD": np.array(heads), "DEPREL": np.array(relations)}
  forms = ["x"] * len(heads)
  found = labels.columns(forms, numbers, {"DEPREL": classes})
  assert found["DEPREL"] == written
