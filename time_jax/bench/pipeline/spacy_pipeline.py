"""Pipelines of spaCy on the words of a treebank."""

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

from time_jax.bench.common import spacy_pipelines
from time_jax.bench.pipeline.measured import Opened
from time_jax.evals.ud.conllu import Sentence

# universaldependencies.org/u/dep. Parsers that were trained on other treebanks,
# such as English ones on OntoNotes, have relations that are not among these.
_RELATIONS = frozenset(
  (
    *("acl", "advcl", "advmod", "amod", "appos", "aux", "case", "cc", "ccomp"),
    *("clf", "compound", "conj", "cop", "csubj", "dep", "det", "discourse"),
    *("dislocated", "expl", "fixed", "flat", "goeswith", "iobj", "list"),
    *("mark", "nmod", "nsubj", "nummod", "obj", "obl", "orphan", "parataxis"),
    *("punct", "reparandum", "root", "vocative", "xcomp"),
  )
)
_JOINT = "parataxis"


def load(name: str) -> Opened:
  """Loads a pipeline with all of its components.

  Args:
    name: see `spacy_pipelines.load`.
  """
  pipeline = spacy_pipelines.load(name)
  make_doc: Any = importlib.import_module("spacy.tokens").Doc

  def annotate(items: Sequence[Sentence]) -> list[Sentence]:
    docs = pipeline.pipe(_docs(items, make_doc, pipeline.vocab))
    pairs = zip(items, docs, strict=True)
    return [sentence.with_columns(columns(doc)) for sentence, doc in pairs]

  about = {
    "fingerprint": spacy_pipelines.describe(pipeline),
    "metrics": metrics(pipeline),
  }
  return Opened(annotate=annotate, platform="cpu", about=about)


def metrics(pipeline: Any) -> list[str]:
  """Returns the scores that mean the same for a pipeline as for a treebank."""
  labels = set()
  if "parser" in pipeline.pipe_names:
    labels = {*map(_universal, pipeline.get_pipe("parser").labels)}
  trees = ["UAS", "LAS"] if labels and labels <= _RELATIONS else []
  return ["UPOS", "Lemmas", *trees]


def _universal(label: str) -> str:
  """Returns a relation in lower case and without its subtype."""
  return label.partition(":")[0].lower()


def _docs(
  items: Iterable[Sentence], make_doc: Any, vocab: Any
) -> Iterable[Any]:
  """Yields documents of one sentence each, whose words are the treebank's."""
  for sentence in items:
    words = sentence.column("FORM")
    starts = [True, *[False] * (len(words) - 1)]
    yield make_doc(vocab, words=words, sent_starts=starts)


def columns(doc: Iterable[Any]) -> dict[str, list[str]]:
  """Returns the columns of CoNLL-U that spaCy fills in.

  The tree has one root, as CoNLL-U wants it: further ones are joined to the
  first.

  Args:
    doc: the tokens of a sentence.
  """
  tokens = [*doc]
  heads = [token.head.i + 1 for token in tokens]
  relations = [token.dep_ or "dep" for token in tokens]
  roots = [i for i, head in enumerate(heads) if head == i + 1]
  for i in roots:
    heads[i], relations[i] = roots[0] + 1, _JOINT
  heads[roots[0]], relations[roots[0]] = 0, "root"
  return {
    "LEMMA": [token.lemma_ or "_" for token in tokens],
    "UPOS": [token.pos_ or "_" for token in tokens],
    "XPOS": [token.tag_ or "_" for token in tokens],
    "FEATS": [str(token.morph) or "_" for token in tokens],
    "HEAD": [*map(str, heads)],
    "DEPREL": relations,
    "DEPS": ["_"] * len(tokens),
  }
