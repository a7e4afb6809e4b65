"""What spaCy says, in the columns of CoNLL-U."""

import types

import pytest

from time_jax.bench.pipeline import spacy_pipeline
from time_jax.evals.ud import conllu


def test_a_tree_gets_one_root():
  tokens = [
    types.SimpleNamespace(
      i=i, pos_="NOUN", tag_="NN", morph="", lemma_="word", dep_="obl:arg"
    )
    for i in range(4)
  ]
  for token, head in zip(tokens, (1, 1, 2, 2), strict=True):
    token.head = tokens[head]
  columns = spacy_pipeline.columns(tokens)
  assert columns["HEAD"] == ["2", "0", "2", "3"]
  assert columns["DEPREL"] == ["obl:arg", "root", "parataxis", "obl:arg"]
  assert columns["FEATS"] == ["_"] * 4 and columns["XPOS"] == ["NN"] * 4


@pytest.mark.parametrize(
  ("labels", "trees"),
  [
    (["ROOT", "nsubj", "flat:name"], ["UAS", "LAS"]),
    (["ROOT", "nsubj", "dobj"], []),  # of OntoNotes
    ([], []),
  ],
)
def test_relations_of_other_treebanks_are_not_scored(labels, trees):
  parser = types.SimpleNamespace(labels=labels)
  pipeline = types.SimpleNamespace(
    pipe_names=["parser"] if labels else [], get_pipe=lambda name: parser
  )
  assert spacy_pipeline.metrics(pipeline) == ["UPOS", "Lemmas", *trees]


def test_a_real_pipeline():
  spacy = pytest.importorskip("spacy")
  if not spacy.util.is_package("fr_core_news_sm"):
    pytest.skip("fr_core_news_sm is not installed")
  opened = spacy_pipeline.load("fr_core_news_sm")
  sentence = conllu.make_sentence(["Le", "chat", "boit", "du", "lait", "."])
  (found,) = opened.annotate([sentence])
  assert found.column("UPOS")[:3] == ["DET", "NOUN", "VERB"]
  assert found.column("HEAD")[:3] == ["2", "3", "0"]
  assert found.column("FORM") == sentence.column("FORM")
  assert opened.about["metrics"] == ["UPOS", "Lemmas", "UAS", "LAS"]
