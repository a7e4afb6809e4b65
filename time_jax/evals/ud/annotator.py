"""The network of `finetune ud`: tags, lemmas and a dependency tree."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from time_jax.evals.common import batches
from time_jax.evals.common.task import Beat
from time_jax.evals.common.word_network import Labels, WordBatch, WordNetwork
from time_jax.evals.common.word_tokens import Chunk
from time_jax.evals.ud import labels as ud_labels
from time_jax.evals.ud.conllu import Sentence
from time_jax.evals.ud.heads import ParserHeads, Scores, possible_heads
from time_jax.evals.ud.labels import RELATION, Classes
from time_jax.evals.ud.trees import best_tree
from time_jax.models.family import Params
from time_jax.parallel import sharding

# The relation of a later chunk of a sentence that was too long to be read at
# once, to the first one: "side by side, without a clearer relation" in UD.
_JOINT = "parataxis"


class Annotator(WordNetwork):
  """Annotates sentences."""

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

  def annotate(
    self, params: Params, items: Sequence[Sentence], beat: Beat = lambda: None
  ) -> list[Sentence]:
    """Returns the sentences with all columns that the network predicts."""
    forms = [sentence.column("FORM") for sentence in items]
    labels = self._joined(self.label(params, forms, beat))
    return [
      sentence.with_columns(ud_labels.columns(words, numbers, self.classes))
      for sentence, words, numbers in zip(items, forms, labels, strict=True)
    ]

  def run(self, params: Params, host: WordBatch) -> dict[str, np.ndarray]:
    """Returns the labels of a host batch.

    The host searches the best tree between the two compiled parts.
    """
    batch = batches.place(host, self.mesh)
    scores, labels, arcs = self.program(params, batch)
    labels = {name: np.asarray(numbers) for name, numbers in labels.items()}
    heads = np.zeros_like(host.word_of_token)
    arcs = np.asarray(arcs, np.float64)
    for row, count in enumerate(np.asarray(host.num_words)):
      if count:
        heads[row, :count] = best_tree(arcs[row, :count, : count + 1])
    labels["HEAD"] = heads
    if self.classes[RELATION]:
      placed = sharding.place(heads, sharding.batch_sharding(self.mesh))
      relations = self.relation_program(params, scores, placed)
      labels[RELATION] = np.asarray(relations)
    return labels

  def outputs(
    self, params: Params, batch: WordBatch
  ) -> tuple[Scores, dict[str, Array], Array]:
    """Returns what relations need, the words' classes, and log p of heads."""
    scores: Any = self.scores(params, batch)
    labels = {k: jnp.argmax(v, axis=-1) for k, v in scores.tags.items()}
    arcs = jnp.where(possible_heads(batch), scores.heads, -1e9)
    arcs = jnp.maximum(jax.nn.log_softmax(arcs), -1e3)
    return scores._replace(tags={}, heads=None), labels, arcs

  @functools.cached_property
  def relation_program(self) -> Callable[..., Any]:
    """Compiled: (params, scores, heads) -> the relation of each word."""
    roots = np.array([*map(ud_labels.is_root, self.classes[RELATION])], bool)

    def relations(
      params: Params, scores: Scores, heads: Int[Array, "B W"]
    ) -> Array:
      variables = {"params": params["heads"]}
      logits: Any = self.heads.apply(
        variables, scores, heads, method="relations"
      )
      # UD ties them: `root` is the relation of a head 0, and of no other.
      fits = roots[None, None] == (heads == 0)[..., None]
      return jnp.argmax(jnp.where(fits, logits, -jnp.inf), axis=-1)

    return jax.jit(relations, out_shardings=NamedSharding(self.mesh, P()))

  def _joined(
    self, chunks: Iterable[tuple[Chunk, Labels]]
  ) -> list[dict[str, np.ndarray]]:
    """Returns the labels of whole sentences, from those of their chunks."""
    joined: list[dict[str, np.ndarray]] = []
    for chunk, labels in chunks:
      labels = dict(labels)
      if not chunk.start:
        joined.append(labels)
        continue
      root = int(np.flatnonzero(joined[-1]["HEAD"] == 0)[0]) + 1
      heads = labels["HEAD"]
      labels["HEAD"] = np.where(heads > 0, heads + chunk.start, root)
      names = list(self.classes.get(RELATION, ()))
      if _JOINT in names:
        joint = names.index(_JOINT)
        labels[RELATION] = np.where(heads > 0, labels[RELATION], joint)
      joined[-1] = {
        name: np.concatenate([before, labels[name]])
        for name, before in joined[-1].items()
      }
    return joined


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
