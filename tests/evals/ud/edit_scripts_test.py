"""Lemmas are classes: exact on what they were learned from, and shared."""

import collections
import os
import pathlib

import pytest

from time_jax.evals.ud import conllu, edit_scripts
from time_jax.evals.ud.edit_scripts import apply_script, script_of

UD = pathlib.Path(__file__).parent


# TREEBANKS=FOLDER tests all files of a release of UD, too.
FILES = sorted(
  path
  for folder in [UD, *filter(None, [os.environ.get("TREEBANKS")])]
  for path in pathlib.Path(folder).rglob("*.conllu*")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_lemma_of_a_treebank_comes_back(path):
  scripts = collections.Counter()
  for sentence in conllu.read(path):
    pairs = zip(sentence.column("FORM"), sentence.column("LEMMA"), strict=True)
    for form, lemma in pairs:
      scripts[script_of(form, lemma)] += 1
      assert apply_script(script_of(form, lemma), form) == lemma
  assert len(scripts) < sum(scripts.values()) / 4


@pytest.mark.parametrize(
  ("pairs", "script"),
  [
    ([("walked", "walk"), ("Jumped", "jump"), ("TALKED", "talk")], "|*--"),
    ([("bhean", "bean"), ("chat", "cat")], "|=-*"),
    ([("Paris", "Paris"), ("LONDON", "London")], "U0L1|*"),
    ([("gekauft", "kaufen"), ("gelernt", "lernen")], "|--*-+e+n"),
    ([("10 000", "10 000"), ("?", "?")], "|*"),
  ],
)
def test_words_that_change_alike_share_a_script(pairs, script):
  assert {script_of(*pair) for pair in pairs} == {script}


@pytest.mark.parametrize(
  ("form", "lemma"),
  [
    ("went", "go"),
    ("İstanbul", "i̇stanbul"),
    ("STRASSE", "Straße"),
    ("ΟΔΟΣ", "οδός"),
    ("ǅ", "ǆ"),
    ("a*b", "c*d+e"),
    ("x", "x|*-"),
    ("SID-huset", "SID-hus"),
    ("'s", "be"),
    ("x", ""),
    ("e\u0301t", "été"),
    ("漢字", "かんじ"),
    ("n", "\n+"),
  ],
)
def test_odd_pairs_come_back_too(form, lemma):
  assert apply_script(script_of(form, lemma), form) == (lemma or form)


def test_a_script_that_does_not_fit_leaves_the_form():
  assert apply_script(script_of("walking", "walk"), "I") == "I"
  assert apply_script(script_of("running", "run"), "") == ""


def test_letters_become_small_one_for_one():
  """Not as in a word, where a last sigma has a form of its own."""
  words = [
    "ΟΔΟΣ",
    "ΣΑΣ ΑΣ.",
    "İSTANBUL",
    "STRASSE",
    "ẞ",
    "ǅ",
    "ÉTÉ",
    "x\u0130Σ",
  ]
  for form in words + [chr(code) for code in range(0x2D00)]:
    small = (c.lower() if len(c.lower()) == 1 else c for c in form)
    assert apply_script("|*", form) == "".join(small)


def test_words_that_are_no_words_are_not_kept():
  """A server would hold every long one that anybody has ever sent."""
  script = script_of("Hunde", "Hund")
  before = edit_scripts._lemma.cache_info().currsize
  for size in range(101, 120):
    assert apply_script(script, "x" * size + "e") == "x".title() + "x" * (
      size - 1
    )
  assert edit_scripts._lemma.cache_info().currsize == before
