"""Tags, lemmas and trees of sentences: a model of `finetune ud`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from time_jax.evals.common.word_tokens import Labels, WordTokenizer
from time_jax.evals.ud import labels as ud_labels
from time_jax.evals.ud import trees
from time_jax.evals.ud.labels import RELATION
from time_jax.evals.ud.long_sentences import join_chunks
from time_jax.hf.onnx_names import (
  ARCS,
  AS_DEPENDENTS,
  AS_GOVERNORS,
  HEADS,
  RELATIONS,
)
from time_jax.serve.folder import Folder
from time_jax.serve.items import read_all
from time_jax.serve.items import sentence as as_sentence
from time_jax.serve.rows import Batch, Beat, Row, RowGraph, open_graph

_BETWEEN = (AS_DEPENDENTS, AS_GOVERNORS)
_COLUMNS = ("LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", RELATION)


class Parser:
  """Annotates sentences as Universal Dependencies does.

  An item is a text, whose words stand between spaces, or a list of words. What
  is found for it are the columns of CoNLL-U, each a list with a value for every
  word: "form", "lemma", "upos", "xpos", "feats", "head" (numbers from 1; 0 is
  the root) and "deprel". A column that the treebank does not have is left out.
  """

  example = "It works ."

  def __init__(self, folder: Folder) -> None:
    """Opens the model of a folder; raises UserError where it cannot."""
    self._graph = RowGraph(folder.file())
    self._tokenizer = WordTokenizer(folder.tokenizer, folder.longest)
    self._classes = folder.description["classes"]
    self._relations = None
    if self._classes.get(RELATION):
      self._relations = open_graph(folder.file(RELATIONS))

  def __call__(
    self, items: Sequence[Any], beat: Beat = lambda: None
  ) -> list[dict[str, Any]]:
    """See `model.Model`."""
    sentences = read_all(as_sentence, items)
    parsed = iter(self._parse([s.words for s in sentences if s.words], beat))
    nothing: Labels = {name: np.zeros(0, np.int64) for name in _COLUMNS}
    return [
      self._found(s.words, next(parsed) if s.words else nothing)
      for s in sentences
    ]

  def _parse(
    self, sentences: Sequence[Sequence[str]], beat: Beat
  ) -> list[Labels]:
    """Returns the numbers of classes, and heads, of sentences with words."""
    chunks = self._tokenizer.chunks(sentences)
    rows = [Row(c.tokens, owners=c.word_of_token) for c in chunks]
    tags = [k for k, some in self._classes.items() if some and k != RELATION]
    between = _BETWEEN if self._relations else ()
    found: dict[int, Labels] = {}
    for batch in self._graph.run(rows, [ARCS, *between, *tags], beat):
      counts = [chunks[i].num_words for i in batch.numbers]
      columns = {name: batch.outputs[name] for name in tags}
      columns |= self._edges(batch, counts)
      for row, (i, count) in enumerate(zip(batch.numbers, counts, strict=True)):
        found[i] = {k: array[row, :count] for k, array in columns.items()}
    pairs = ((chunk, found[i]) for i, chunk in enumerate(chunks))
    return join_chunks(pairs, self._classes.get(RELATION, ()))

  def _edges(
    self, batch: Batch, counts: Sequence[int]
  ) -> dict[str, np.ndarray]:
    """Returns the heads of words, and the relations to them if there are any.

    Args:
      batch: what the first graph gives.
      counts: words of each row.
    """
    arcs = batch.outputs[ARCS]
    words = np.arange(arcs.shape[1]) < np.array(counts)[:, None]
    heads = trees.search_trees(arcs, words.astype(np.int32)).in_row
    edges = {"HEAD": heads}
    if self._relations:
      feeds = {name: batch.outputs[name] for name in _BETWEEN}
      feeds[HEADS] = heads.astype(np.int64)
      (edges[RELATION],) = self._relations.run([RELATION], feeds)
    return edges

  def _found(self, words: Sequence[str], numbers: Labels) -> dict[str, Any]:
    texts = ud_labels.columns(words, numbers, self._classes)
    known = {name for name, some in self._classes.items() if some}
    found: dict[str, Any] = {"form": [*words]}
    for name in _COLUMNS:
      if name == "HEAD":
        found["head"] = [*map(int, texts[name])]
      elif name in known:
        found[name.lower()] = texts[name]
    return found
