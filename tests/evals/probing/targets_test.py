"""What is asked of words, of sentences made by hand."""

import numpy as np

from time_jax.evals.probing import targets
from time_jax.evals.ud import conllu

THE_OLD_DOG = """\
1	The	the	DET	_	_	3	det	_	_
2	old	old	ADJ	_	_	3	amod	_	_
3	dog	dog	NOUN	_	Number=Sing	4	nsubj	_	_
4	barks	bark	VERB	_	Number=Sing	0	root	_	_
5	loudly	loudly	ADV	_	_	4	advmod	_	_

"""
# Two nouns lie between a word and the noun that is its head, on each side.
FAR = """\
1	a	a	NOUN	_	_	0	root	_	_
2	b	b	NOUN	_	_	1	x	_	_
3	c	c	NOUN	_	_	6	x	_	_
4	d	d	X	_	_	1	x	_	_
5	e	e	NOUN	_	_	4	x	_	_
6	f	f	NOUN	_	_	1	x	_	_

"""


def parsed(text):
  return conllu.parse(text.encode().splitlines(keepends=True), "a.conllu")


def test_heads_are_counted_among_words_of_their_tag():
  (dog,) = parsed(THE_OLD_DOG)
  assert targets.heads_by_tag(dog) == [
    *("+1NOUN", "+1NOUN", "+1VERB", "root", "-1VERB")
  ]
  (far,) = parsed(FAR)
  assert targets.heads_by_tag(far) == [
    *("root", "-1NOUN", "+2NOUN", "-3NOUN", "-1X", "-4NOUN")
  ]


def test_every_head_can_be_found_again():
  """No two words of a sentence have the same place in these terms."""
  for sentence in parsed(THE_OLD_DOG + FAR):
    tags = sentence.column("UPOS")
    for word, name in enumerate(targets.heads_by_tag(sentence), 1):
      head = int(sentence.column("HEAD")[word - 1])
      if name == "root":
        assert head == 0
        continue
      number = int(name[1:].rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
      tag = name[1:].lstrip("0123456789")
      before = [i for i in range(word - 1, 0, -1) if tags[i - 1] == tag]
      after = [i for i in range(word + 1, len(tags) + 1) if tags[i - 1] == tag]
      assert (after if name[0] == "+" else before)[number - 1] == head


def test_classes_are_those_of_training_and_others_are_unknown():
  dog, far = parsed(THE_OLD_DOG + FAR)
  classes = targets.learn([dog])
  assert list(classes) == ["UPOS", "FEATS", "DEPREL", "heads"]
  assert classes["FEATS"] == ["_", "Number=Sing"]
  assert classes["heads"] == ["+1NOUN", "+1VERB", "-1VERB", "root"]
  own = targets.targets(dog, classes)
  assert own["heads"].tolist() == [0, 0, 1, 3, 2]
  for name in ("UPOS", "FEATS", "DEPREL"):
    names = np.array(classes[name])[own[name]]
    assert names.tolist() == dog.column(name)
  other = targets.targets(far, classes)
  assert set(own) == set(other) == set(classes)
  assert other["heads"].tolist() == [3, -1, -1, -1, -1, -1]


def test_a_treebank_without_features_is_asked_for_none():
  text = THE_OLD_DOG.replace("Number=Sing", "_")
  assert list(targets.learn(parsed(text))) == ["UPOS", "DEPREL", "heads"]


def test_without_parts_of_speech_heads_are_counted_in_words():
  rows = [line.split("\t") for line in THE_OLD_DOG.splitlines()]
  rows = ["\t".join([*r[:3], "_", *r[4:]]) for r in rows if len(r) > 1]
  sentences = parsed("\n".join([*rows, "", ""]))
  classes = targets.learn(sentences)
  assert "UPOS" not in classes
  assert targets.heads_by_tag(sentences[0]) == [
    *("+2_", "+1_", "+1_", "root", "-1_")
  ]
