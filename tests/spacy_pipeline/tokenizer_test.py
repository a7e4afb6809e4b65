"""A document has the text as it is, and the tokens that were found."""

import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc

import time_jax
from time_jax.evals.split.passage import Token
from time_jax.evals.split.reading import Reading
from time_jax.spacy_pipeline.tokenizer import make_pieces

BLANK = spacy.blank("xx")
TEXTS = (
  "Il va  au bal.\n\n L'été du chat ! ",
  "\t Marie Curie va à Paris.\r\nEt le lac ?",
  " \u00a0a\u2028b \n c",
  "a" * 300 + "\n" + "b c " * 300,
)


@settings(deadline=None)
@given(
  st.text(st.sampled_from("aé😀. \n\t\u00a0\u200d"), max_size=40),
  st.randoms(use_true_random=False),
)
def test_any_text_stays_as_it_is(text, draw):
  atoms = [Token(a, b, (text[a:b],)) for a, b in Reading(text).atoms]
  sentences = []
  for token in atoms:
    if not sentences or draw.random() < 0.3:
      sentences.append([])
    sentences[-1].append(token)
  pieces = make_pieces(text, sentences)
  doc = Doc(
    BLANK.vocab, words=pieces.words, spaces=pieces.spaces,
    sent_starts=pieces.starts,
  )  # fmt: skip
  assert doc.text == text
  words = [t for t in doc if not t.is_space]
  assert [(t.idx, t.text) for t in words] == [(t[0], *t[2]) for t in atoms]
  assert all(t.text for t in doc)
  if atoms:
    found = [[t.idx for t in s if not t.is_space] for s in doc.sents]
    assert found == [[t.start for t in some] for some in sentences]


@pytest.mark.parametrize(
  "text", ["a b", "a  b", " a\n\nb ", "a\n b", "\n", " "]
)
def test_white_space_is_as_spacy_has_it(text):
  tokens = [Token(a, b, (text[a:b],)) for a, b in Reading(text).atoms]
  pieces = make_pieces(text, [tokens] if tokens else [])
  expected = [(t.text, bool(t.whitespace_)) for t in BLANK(text)]
  assert [*zip(pieces.words, pieces.spaces, strict=True)] == expected


@pytest.mark.parametrize("text", TEXTS)
def test_sentences_and_words_are_those_of_predict(nlp, exports, text):
  doc = nlp.make_doc(text)
  assert doc.text == text
  sentences = time_jax.predict(exports["split"], text).strip().split("\n\n")
  assert len(sentences) == len([*doc.sents])
  for sentence, lines in zip(doc.sents, sentences, strict=True):
    rows = [r.split("\t") for r in lines.split("\n") if r[0] != "#"]
    words = []
    for token in sentence:
      several = token._.ud_words
      if several:
        words.append(" ".join(token.text.split()))
      if not token.is_space:
        words += several.split() if several else [" ".join(token.text.split())]
    assert words == [row[1] for row in rows]


def test_it_needs_a_model():
  blank = spacy.blank(
    "fr",
    config={"nlp": {"tokenizer": {"@tokenizers": "time_jax.tokenizer.v1"}}},
  )
  with pytest.raises(ValueError, match="Tokenizer of a spaCy pipeline has no"):
    blank("a")
