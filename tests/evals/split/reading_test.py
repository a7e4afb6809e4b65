"""Windows decide each atom once; labels and sentences say the same."""

import itertools

import numpy as np
import pytest
import tiny_split
from hypothesis import given
from hypothesis import strategies as st
from tiny_split import row

from time_jax.evals.common.word_tokens import Chunk
from time_jax.evals.split import boundaries, reading
from time_jax.evals.split.boundaries import BOUNDARY, KINDS, WORDS
from time_jax.evals.split.reading import CONTEXT, GAPS, STEP, Reading
from time_jax.evals.ud.edit_scripts import script_of

NONE = np.zeros(0, np.int32)


@pytest.mark.parametrize("count", [0, 1, STEP, STEP + 1, 5 * STEP + 7])
def test_windows_decide_each_atom_once(count):
  windows = Reading("a " * count).windows
  decided = [range(count)[window.decided] for window in windows]
  assert [*itertools.chain(*decided)] == [*range(count)]
  for window in windows:
    around = window.decided.start - CONTEXT, window.decided.stop + CONTEXT
    assert window.start == max(around[0], 0)
    assert window.stop == min(around[1], count)


def test_labels_of_windows_are_joined():
  """Also where a window was read in two parts, or a text has no atom."""
  texts = ["a " * (2 * STEP + 5), "", "b"]
  readings = [Reading(text) for text in texts]
  labeled = []
  numbers = itertools.count()
  for own in readings:
    for window in own.windows:
      number, middle = next(numbers), (window.start + window.stop) // 2
      for start, stop in ((window.start, middle), (middle, window.stop)):
        chunk = Chunk(number, start - window.start, stop - start, NONE, NONE)
        labeled.append((chunk, {"X": np.arange(start, stop)}))
  found = reading.join(readings, labeled)
  assert found[1] == {}
  assert found[0]["X"].tolist() == [*range(2 * STEP + 5)]
  assert found[2]["X"].tolist() == [0]


def test_gaps():
  assert Reading("l'an (x)").gaps.tolist() == [2, 0, 1, 2, 0, 1]
  assert Reading("").gaps.tolist() == []
  assert Reading(" a ").gaps.tolist() == [3]


def test_right_labels_give_the_sentences_back():
  passages = tiny_split.read(tiny_split.SAMPLE)
  classes = boundaries.learn(passages)
  assert classes[BOUNDARY] == ["join", "token", "sentence"]
  assert len(classes[WORDS]) == 2 and classes[WORDS][0] == boundaries.WHOLE
  for passage in passages:
    own = Reading(passage.text)
    targets = boundaries.targets(passage, own, classes)
    assert (targets[BOUNDARY] // len(KINDS)).tolist() == own.gaps.tolist()
    scores = tiny_split.by_gap(own, targets)
    found = boundaries.assemble(own, scores, classes)
    assert found == passage.sentences


def test_words_of_a_token_that_training_did_not_have():
  """A script fits more than the token that it was learnt from."""
  script = script_of("du", "de le")
  classes = {BOUNDARY: KINDS, WORDS: [script]}
  labels = {BOUNDARY: np.zeros((1, GAPS, len(KINDS))), WORDS: np.array([0])}
  for text, words in {"du": ("de", "le"), "nu": ("ne", "le")}.items():
    ((token,),) = boundaries.assemble(Reading(text), labels, classes)
    assert token.words == words


def test_words_of_tokens_that_are_all_alike():
  """A single class says what it makes of each token."""
  (passage,) = tiny_split.read(
    row("1-2", "du") + row("1", "de") + row("2", "le")
  )
  assert boundaries.learn([passage])[WORDS] == [script_of("du", "de le")]
  assert tiny_split.oracle(passage).words == ["de", "le"]
  (passage,) = tiny_split.read(row("1", "du"))
  assert boundaries.learn([passage])[WORDS] == []


def test_a_script_does_not_take_a_word_away():
  """Of a token that it does not fit it makes one word, not the token."""
  script = script_of("abc", "c d")
  classes = {BOUNDARY: KINDS, WORDS: [script, script_of("du", "de")]}
  labels = {BOUNDARY: np.ones((2, GAPS, len(KINDS))) * [0, 1, 0]}
  labels[WORDS] = np.array([0, 1])
  ((first, second),) = boundaries.assemble(Reading("xy du"), labels, classes)
  assert first.words == ("xy",) and second.words == ("de",)


@pytest.mark.parametrize("entry", ["?x", "|", "U0", "du", "|+*", "X1|*", 3, []])
def test_a_class_that_is_no_script(entry):
  with pytest.raises(ValueError, match="is a class of WORDS, where edit scr"):
    boundaries.check({BOUNDARY: [*KINDS], WORDS: ["", entry]})


@given(st.text("aAb *|!+-=é\n", max_size=8), st.text("aAb *|!+-=É", min_size=1))
def test_every_script_is_one(form, words):
  classes = {WORDS: ["", script_of(form, words)]}
  boundaries.check(classes)


def test_a_text_without_atoms():
  assert boundaries.assemble(Reading(" \n"), {}, {WORDS: []}) == ()
