"""Raw text of treebanks, and CoNLL-U from which the text can be rebuilt."""

import re

import pytest
import tiny_split
import tiny_ud
from hypothesis import given, settings
from hypothesis import strategies as st

from time_jax.evals.split import treebank
from time_jax.evals.split.atoms import find_atoms
from time_jax.evals.split.passage import Passage, Token, to_conllu
from time_jax.evals.ud import conllu

LETTERS = "ab1.é\u0301 \t\n\r|\\_\u00a0\u200d😀\u0663"


def test_the_text_of_a_treebank():
  first, second = tiny_split.read(tiny_split.SAMPLE)
  assert (first.text, second.text) == ("Il va au bal. 50 000", "Non")
  assert first.words == ["Il", "va", "à", "le", "bal", ".", "50 000"]
  assert [len(tokens) for tokens in first.sentences] == [5, 1]
  assert first.sentences[0][2] == Token(6, 8, ("à", "le"))
  assert (first.name, second.name) == ("sample:1", "sample:14")
  rows = [row for sentence in to_conllu(first) for row in sentence.rows]
  assert ("3-4", "au", *["_"] * 8) in rows and ("4", "le", *["_"] * 8) in rows
  assert ("5", "bal", *["_"] * 7, "SpaceAfter=No") in rows
  assert tiny_split.rebuild(to_conllu(first)) == first.text


def test_sentences_are_those_of_the_file():
  """But for comments, and the columns that are left empty."""
  sentences = conllu.read(tiny_ud.UD / "ga-train.conllu.gz")
  again = [s for p in treebank.passages(sentences) for s in to_conllu(p)]
  forms = [sentence.column("FORM") for sentence in again]
  assert forms == [sentence.column("FORM") for sentence in sentences]


@settings(deadline=None)
@given(
  st.text(st.sampled_from(LETTERS), max_size=30),
  st.randoms(use_true_random=False),
)
def test_any_text_can_be_rebuilt(text, random):
  atoms = find_atoms(text)
  assert re.sub(r"\s", "", text) == "".join(text[a:b] for a, b in atoms)
  tokens = [Token(a, b, (text[a:b],)) for a, b in atoms]
  sentences = []
  for token in tokens:
    if not sentences or random.random() < 0.3:
      sentences.append([])
    sentences[-1].append(token)
  found = to_conllu(Passage(text, tuple(map(tuple, sentences))))
  assert tiny_split.rebuild(found) == (text if atoms else "")
  parsed = (
    conllu.parse(conllu.to_text(found).encode().split(b"\n"), "x", trees=False)
    if found
    else []
  )
  assert [s.rows for s in parsed] == [s.rows for s in found]


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("l'an 2000-2001", ["l", "'", "an", "2000", "-", "2001"]),
    ("e\u0301te\u0301", ["e\u0301te\u0301"]),
    ("हिन्दी में", ["हिन्दी", "में"]),
    ("\u0661\u0662km²", ["\u0661\u0662", "km²"]),
    ("a_b", ["a", "_", "b"]),
    ("", []),
    (" \n\u3000", []),
  ],
)
def test_atoms(text, expected):
  assert [text[a:b] for a, b in find_atoms(text)] == expected
