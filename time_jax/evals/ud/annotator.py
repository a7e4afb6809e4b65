"""The network of `finetune ud`: tags, lemmas and a dependency tree."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from time_jax.evals.common.batches import Numbers
from time_jax.evals.common.engine import Engine, Work
from time_jax.evals.common.onnx_engine import Program
from time_jax.evals.common.task import FIRST, Beat
from time_jax.evals.common.word_network import WordBatch, WordNetwork
from time_jax.evals.common.word_tokens import Chunk
from time_jax.evals.ud import labels as ud_labels
from time_jax.evals.ud import onnx_heads, trees
from time_jax.evals.ud.conllu import Sentence
from time_jax.evals.ud.heads import ParserHeads, Scores, possible_heads
from time_jax.evals.ud.labels import RELATION, Classes
from time_jax.evals.ud.long_sentences import join_chunks
from time_jax.models.family import Params


class _Parsed(NamedTuple):
  """A batch whose trees are known: example numbers by row, labels, relations.

  The relations may still be computed; None: there are none.
  """

  rows: Sequence[Numbers]
  labels: dict[str, np.ndarray]
  relations: Any


class Annotator(WordNetwork):
  """Annotates sentences."""

  touch = "everything"

  @property
  def classes(self) -> Classes:
    """The classes of every column."""
    return self.spec["classes"]

  @property
  def heads(self) -> ParserHeads:
    """See `task.Network`."""
    sizes = ((name, len(some)) for name, some in self.classes.items() if some)
    return ParserHeads(
      classes=tuple(sizes),
      dropout=self.dropout,
      dtype=jnp.dtype(self.dtype),
      **self.spec["heads"],
    )

  @property
  def programs(self) -> dict[str, Callable[..., Any]]:
    """See `task.Network`."""
    return {FIRST: self.outputs, RELATION: self.relations}

  def graphs(self, params: Params) -> dict[str, Program]:
    """See `task.Network`."""
    heads, config = self.heads, self.opened.config
    found = {FIRST: onnx_heads.first_program(heads, config, params)}
    if relations := self.classes.get(RELATION):
      roots = [*map(ud_labels.is_root, relations)]
      found[RELATION] = onnx_heads.relation_program(heads, params, roots)
    return found

  def outputs(
    self, params: Params, batch: WordBatch
  ) -> tuple[Scores, dict[str, Array], Array]:
    """Returns what relations need, the words' classes, and log p of heads."""
    scores: Any = self.scores(params, batch)
    labels = {k: jnp.argmax(v, axis=-1) for k, v in scores.tags.items()}
    arcs = jnp.where(possible_heads(batch), scores.heads, -1e9)
    arcs = jnp.maximum(jax.nn.log_softmax(arcs), -1e3)
    return scores._replace(tags={}, heads=None), labels, arcs

  def relations(
    self, params: Params, scores: Scores, heads: Int[Array, "B W"]
  ) -> Int[Array, "B W"]:
    """Returns the relation of each word to its head."""
    variables = {"params": params["heads"]}
    logits: Any = self.heads.apply(variables, scores, heads, method="relations")
    # UD ties them: `root` is the relation of a head 0, and of no other.
    roots = np.array([*map(ud_labels.is_root, self.classes[RELATION])], bool)
    fits = roots[None, None] == (heads == 0)[..., None]
    return jnp.argmax(jnp.where(fits, logits, -jnp.inf), axis=-1)

  def layout(self, program: str) -> Any:
    """See `task.Network`; what relations need stays where it is."""
    layout = super().layout(program)
    return (None, layout, layout) if program == FIRST else layout

  def prepare(self, items: Sequence[Sentence]) -> Work:
    """See `task.Network`."""
    return self.prepare_words(items, [item.column("FORM") for item in items])

  def finish(self, engine: Engine, work: Work, beat: Beat) -> list[Sentence]:
    """Returns the sentences with all columns that the network predicts."""
    relations = self.classes.get(RELATION, ())
    labels = join_chunks(self.label(engine, work, beat), relations)
    forms = [sentence.column("FORM") for sentence in work.items]
    return [
      sentence.with_columns(ud_labels.columns(words, numbers, self.classes))
      for sentence, words, numbers in zip(
        work.items, forms, labels, strict=True
      )
    ]

  def predict(
    self, engine: Engine, work: Work, beat: Beat
  ) -> Iterator[tuple[Sequence[Numbers], dict[str, np.ndarray]]]:
    """Yields the labels of each batch; HEAD counts in the sentence.

    The host searches the trees of a batch between its two programs. Meanwhile
    the engine computes the first program of the next batch. What the second one
    gives comes with the results of the next batch, in one transfer.
    """
    waiting: list[_Parsed] = []  # one batch, until its relations are there
    starting = (
      (rows, host, engine.start(FIRST, host)) for rows, host in work.batches
    )
    following = next(starting, None)
    while following:
      rows, host, (scores, labels, arcs) = following
      following = next(starting, None)
      relations = [parsed.relations for parsed in waiting]
      labels, arcs, relations = jax.device_get((labels, arcs, relations))
      yield from _complete(waiting, relations)
      heads = trees.search_trees(arcs, host.segment_of_word)
      started = None
      if self.classes.get(RELATION):
        started = engine.start(RELATION, scores, heads.in_row)
      waiting = [_Parsed(rows, {**labels, "HEAD": heads.in_chunk}, started)]
      beat()
    yield from _complete(
      waiting, jax.device_get([parsed.relations for parsed in waiting])
    )


def _complete(
  waiting: Iterable[_Parsed], relations: Iterable[np.ndarray | None]
) -> Iterator[tuple[Sequence[Numbers], dict[str, np.ndarray]]]:
  """Yields the labels of batches, with their relations if there are any."""
  for parsed, numbers in zip(waiting, relations, strict=True):
    more = {} if numbers is None else {RELATION: numbers}
    yield parsed.rows, parsed.labels | more


def chunk_targets(
  chunks: Sequence[Chunk], sentences: Sequence[Sentence], classes: Classes
) -> list[dict[str, Int[np.ndarray, " words"]]]:
  """Returns the targets of each chunk; a head in another chunk is none (-1)."""
  whole = [ud_labels.targets(sentence, classes) for sentence in sentences]
  targets = []
  for chunk in chunks:
    words = slice(chunk.start, chunk.start + chunk.num_words)
    labels = {k: v[words] for k, v in whole[chunk.sentence].items()}
    heads = labels["HEAD"] - chunk.start
    inside = (heads > 0) & (heads <= chunk.num_words)
    roots = labels["HEAD"] == 0
    labels["HEAD"] = np.where(roots, 0, np.where(inside, heads, -1))
    targets.append(labels)
  return targets
