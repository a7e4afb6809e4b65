"""Raw text of treebanks, and CoNLL-U from which the text can be rebuilt."""

import re

import pytest
import tiny_split
import tiny_ud
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_split import row

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
  sentences = []
  for start, stop in atoms:
    drawn = random.random() if sentences else 0
    if drawn > 0.6:  # This atom is a part of the token before it.
      start = sentences[-1].pop().start
    elif drawn < 0.3:
      sentences.append([])
    form = " ".join(text[start:stop].split())
    words = (form, "le") if random.random() < 0.2 else (form,)
    sentences[-1].append(Token(start, stop, words))
  found = to_conllu(Passage(text, tuple(map(tuple, sentences))))
  assert tiny_split.rebuild(found) == (text if atoms else "")
  parsed = (
    conllu.parse(conllu.to_text(found).encode().split(b"\n"), "x", trees=False)
    if found
    else []
  )
  assert [s.rows for s in parsed] == [s.rows for s in found]


def test_spaces_in_a_token():
  """In MISC of the token, or of the range of its words."""
  text = "50\u00a0000\xa0va \n au bal"
  tokens = Token(0, 6, ("50 000",)), Token(7, 14, ("va", "à le"))
  (sentence,) = to_conllu(Passage(text, ((*tokens, Token(15, 18, ("bal",))),)))
  nothing = ["_"] * 7
  assert sentence.rows[1:] == (
    ("1", "50 000", *nothing, "SpacesAfter=\xa0|SpacesInToken=50\u00a0000"),
    ("2-3", "va au", *nothing, "SpacesInToken=va\\s\\n\\sau"),
    ("2", "va", *nothing, "_"),
    ("3", "à le", *nothing, "_"),
    ("4", "bal", *nothing, "SpaceAfter=No"),
  )
  assert tiny_split.rebuild([sentence]) == text


# Of each treebank its rows, its text, and the words of its tokens.
ODD = {
  "spaces of other kinds in a word": (
    row("1", "a\x85b\u2028 \x0bc\x1fd") + row("2", "e"),
    "a\x85b\u2028 \x0bc\x1fd e",
    [["a b c d"], ["e"]],
  ),
  "spaces at the ends of a word": (
    row("1", "\xa0a")
    + row("2", "b\xa0", "SpaceAfter=No")
    + row("3", "\u2003 c", "SpaceAfter=No")
    + row("4", "d\xa0"),
    "\xa0a b\xa0\u2003 cd",
    [["a"], ["b"], ["cd"]],
  ),
  "a range of one word": (
    row("1", "a") + row("2-2", "du") + row("2", "de") + row("3", "b"),
    "a du b",
    [["a"], ["de"], ["b"]],
  ),
  "spaces in a range and its words": (
    row("1-2", "a\x85b ")
    + row("1", "a\xa0")
    + row("2", "\x0bb")
    + row("3", "c"),
    "a\x85b  c",
    [["a", "b"], ["c"]],
  ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_treebanks(name):
  rows, text, words = ODD[name]
  (passage,) = tiny_split.read(rows)
  assert passage.text == text
  (tokens,) = passage.sentences
  assert tokens[-1].stop <= len(text)
  found = tiny_split.oracle(passage)
  assert [[*token.words] for token in found.sentences[0]] == words
  if name != "spaces at the ends of a word":  # `d` begins within `cd`.
    assert found.sentences == passage.sentences
  assert tiny_split.rebuild(to_conllu(found)) == text
  written = conllu.to_text(to_conllu(passage)).encode().split(b"\n")
  (again,) = treebank.passages(conllu.parse(written, "x", trees=False))
  assert again.words == passage.words


def test_trees_are_not_needed(tmp_path):
  """So what `predict` writes can be corrected, and learnt from."""
  passages = tiny_split.read(tiny_split.SAMPLE)
  path = tmp_path / "found.conllu"
  rows = [s for passage in passages for s in to_conllu(passage)]
  path.write_text(conllu.to_text(rows))
  (found,) = treebank.read(path)
  assert found.words == [word for p in passages for word in p.words]


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("l'an 2000-2001", ["l", "'", "an", "2000", "-", "2001"]),
    ("e\u0301te\u0301", ["e\u0301te\u0301"]),
    ("हिन्दी में", ["हिन्दी", "में"]),
    ("\u0661\u0662km²", ["\u0661\u0662", "km²"]),
    ("a_b", ["a", "_", "b"]),
    ("我们2024年abc字。", ["我", "们", "2024", "年", "abc", "字", "。"]),
    ("東京タワーへ", ["東", "京", "タ", "ワ", "ー", "へ"]),
    ("か\u3099き人々", ["か\u3099", "き", "人", "々"]),
    ("ที่ไทย ๑๒", ["ที่", "ไ", "ท", "ย", "๑๒"]),
    ("ລາວ", ["ລ", "າ", "ວ"]),
    ("ខ្ញុំ", ["ខ្", "ញុំ"]),
    ("မြန်မာ", ["မြ", "န်", "မာ"]),
    ("한국어", ["한국어"]),
    ("", []),
    (" \n\u3000", []),
  ],
)
def test_atoms(text, expected):
  assert [text[a:b] for a, b in find_atoms(text)] == expected
