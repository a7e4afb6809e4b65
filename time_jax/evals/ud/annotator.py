"""The joint model at work: sentences in, annotated sentences out."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from time_jax.evals.common import batches
from time_jax.evals.common.network import Network
from time_jax.evals.common.subwords import Cutter, Piece
from time_jax.evals.common.word_batches import WordBatch, WordExamples
from time_jax.evals.ud import labels as ud_labels
from time_jax.evals.ud.conllu import Sentence
from time_jax.evals.ud.labels import RELATION, Vocabulary
from time_jax.evals.ud.model import Output, possible_heads
from time_jax.evals.ud.trees import best_tree
from time_jax.models.family import Params
from time_jax.parallel import sharding

# Of a later part of a sentence that was too long to be read at once, to the
# first part's: "side by side, without a clearer relation" in UD's terms.
_JOINT = "parataxis"


@dataclasses.dataclass(frozen=True)
class Annotator(Network):
  """See `network.Network`.

  Attributes:
    vocabulary: the classes of every column.
  """

  vocabulary: Vocabulary

  @functools.cached_property
  def cutter(self) -> Cutter:
    """Words to tokens."""
    return Cutter(self.opened.words, self.buckets.longest)

  def annotate(
    self,
    params: Params,
    sentences: Sequence[Sentence],
    beat: Callable[[], None] = batches.silent,
  ) -> list[Sentence]:
    """Replaces what the model predicts in every sentence; keeps the rest."""
    words = [sentence.column("FORM") for sentence in sentences]
    pieces = self.cutter.pieces(words)
    found: list[dict[str, np.ndarray]] = [{} for _ in pieces]
    examples = WordExamples(pieces, self.opened.words.pad_id)
    with sharding.use_mesh(self.mesh):
      for chosen, batch in batches.in_order(examples, self.buckets, beat):
        labels = self._of_batch(params, batch)
        for row, i in enumerate(chosen):
          count = pieces[i].num_words
          found[i] = {name: all_[row, :count] for name, all_ in labels.items()}
    return [
      sentence.with_columns(
        ud_labels.columns(words[i], labels, self.vocabulary)
      )
      for i, (sentence, labels) in enumerate(
        zip(sentences, self._join(pieces, found), strict=True)
      )
    ]

  def _of_batch(
    self, params: Params, host: WordBatch
  ) -> dict[str, Int[np.ndarray, "B W"]]:
    batch = batches.place(host, self.mesh)
    output, tags, arcs = self.programs[0](params, batch)
    labels = {name: np.asarray(numbers) for name, numbers in tags.items()}
    heads = np.zeros_like(np.asarray(host.word_of_token))
    scores = np.asarray(arcs, np.float64)
    for row, count in enumerate(np.asarray(host.num_words)):
      if count:
        heads[row, :count] = best_tree(scores[row, :count, : count + 1])
    labels["HEAD"] = heads
    if self.vocabulary[RELATION]:
      layout = sharding.batch_sharding(self.mesh)
      placed = sharding.place(heads, layout)
      labels[RELATION] = np.asarray(self.programs[1](params, output, placed))
    return labels

  @functools.cached_property
  def programs(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Two compiled parts; between them the host searches the best tree."""
    everywhere = NamedSharding(self.mesh, P())
    rows = sharding.batch_sharding(self.mesh)
    roots = np.array([*map(ud_labels.is_root, self.vocabulary[RELATION])], bool)

    @functools.partial(jax.jit, out_shardings=(rows, everywhere, everywhere))
    def read(params: Params, batch: WordBatch) -> tuple:
      states = self.states(params, batch)
      output: Any = self.heads.apply({"params": params["heads"]}, states, batch)
      tags = {k: jnp.argmax(v, axis=-1) for k, v in output.tags.items()}
      arcs = jnp.where(possible_heads(batch), output.heads, -1e9)
      arcs = jnp.maximum(jax.nn.log_softmax(arcs), -1e3)
      return output._replace(tags={}, heads=None), tags, arcs

    @functools.partial(jax.jit, out_shardings=everywhere)
    def relate(params: Params, output: Output, heads: Array) -> Array:
      scores: Any = self.heads.apply(
        {"params": params["heads"]}, output, heads, method="relations"
      )
      # UD ties them: `root` is the relation of a head 0, and of no other.
      fits = roots[None, None] == (heads == 0)[..., None]
      return jnp.argmax(jnp.where(fits, scores, -jnp.inf), axis=-1)

    return read, relate

  def _join(
    self, pieces: Sequence[Piece], found: Sequence[dict[str, np.ndarray]]
  ) -> list[dict[str, np.ndarray]]:
    """The labels of sentences from those of their pieces, which follow."""
    joined: list[dict[str, np.ndarray]] = []
    for piece, labels in zip(pieces, found, strict=True):
      if not piece.start:
        joined.append(labels)
        continue
      root = int(np.flatnonzero(joined[-1]["HEAD"] == 0)[0]) + 1
      below, labels = labels["HEAD"], dict(labels)
      labels["HEAD"] = np.where(below > 0, below + piece.start, root)
      names = list(self.vocabulary.get(RELATION, ()))
      if _JOINT in names:
        labels[RELATION] = np.where(
          below > 0, labels[RELATION], names.index(_JOINT)
        )
      joined[-1] = {
        name: np.concatenate([all_, labels[name]])
        for name, all_ in joined[-1].items()
      }
    return joined


def piece_targets(
  pieces: Sequence[Piece], sentences: Sequence[Sentence], vocabulary: Vocabulary
) -> list[dict[str, Int[np.ndarray, " words"]]]:
  """The targets of every piece; a head in another piece is none."""
  whole = [ud_labels.targets(sentence, vocabulary) for sentence in sentences]
  found = []
  for piece in pieces:
    words = slice(piece.start, piece.start + piece.num_words)
    labels = {name: all_[words] for name, all_ in whole[piece.sentence].items()}
    heads = labels["HEAD"] - piece.start
    inside = (heads > 0) & (heads <= piece.num_words)
    labels["HEAD"] = np.where(
      labels["HEAD"] == 0, 0, np.where(inside, heads, -1)
    )
    found.append(labels)
  return found
