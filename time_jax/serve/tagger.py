"""Names in sentences: a model of `finetune ner`."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from time_jax.evals.common.word_tokens import WordTokenizer
from time_jax.evals.ner import iob
from time_jax.hf.onnx_names import LOGITS
from time_jax.serve.folder import Folder
from time_jax.serve.items import Sentence, read_all
from time_jax.serve.items import sentence as as_sentence
from time_jax.serve.rows import Beat, Row, RowGraph

_TAGS = "TAG"  # name of the classes in task.json
_OUTSIDE = "O"


class Tagger:
  """Finds names in sentences.

  An item is a text, whose words stand between spaces, or a list of words. What
  is found for it has "words" and their "tags" (IOB2), and "entities": each its
  "type", its "text", where that has its "start" and "end" in the item's text
  (characters; of a list, of its words with a space between them), and "score",
  the mean probability of its words' tags.
  """

  example = "Ada Lovelace ."

  def __init__(self, folder: Folder) -> None:
    """Opens the model of a folder; raises UserError where it cannot."""
    self._graph = RowGraph(folder.file())
    self._tokenizer = WordTokenizer(folder.tokenizer, folder.longest)
    self._tags = folder.description["classes"][_TAGS]

  def __call__(
    self, items: Sequence[Any], beat: Beat = lambda: None
  ) -> list[dict[str, Any]]:
    """See `model.Model`."""
    sentences = read_all(as_sentence, items)
    chosen, sure = self._best([s.words for s in sentences], beat)
    return [*map(self._found, sentences, chosen, sure)]

  def _best(
    self, sentences: Sequence[Sequence[str]], beat: Beat
  ) -> tuple[list[list[int]], list[list[float]]]:
    """Returns the tag of each word of each sentence, and its probability."""
    chosen: list[list[int]] = [[] for _ in sentences]
    sure: list[list[float]] = [[] for _ in sentences]
    full = [i for i, words in enumerate(sentences) if words]
    chunks = self._tokenizer.chunks([sentences[i] for i in full])
    by_chunk: dict[int, np.ndarray] = {}
    rows = [Row(chunk.tokens) for chunk in chunks]
    for numbers, outputs in self._graph.run(rows, LOGITS, beat):
      for i, logits in zip(numbers, outputs[LOGITS[0]], strict=True):
        by_chunk[i] = logits[chunks[i].first_tokens]
    for i, chunk in enumerate(chunks):
      logits = by_chunk[i]
      shares = np.exp(logits - logits.max(-1, keepdims=True))
      best = logits.argmax(-1)
      chosen[full[chunk.sentence]] += best.tolist()
      sure[full[chunk.sentence]] += (1 / shares.sum(-1)).tolist()
    return chosen, sure

  def _found(
    self, sentence: Sentence, chosen: Sequence[int], sure: Sequence[float]
  ) -> dict[str, Any]:
    tags = iob.repair(self._tags[number] for number in chosen)
    entities = []
    for first, stop in spans(tags):
      start = sentence.starts[first]
      end = sentence.starts[stop - 1] + len(sentence.words[stop - 1])
      entities.append(
        {
          "type": tags[first][2:],
          "text": sentence.text[start:end],
          "start": start,
          "end": end,
          "score": round(float(np.mean(sure[first:stop])), 6),
        }
      )
    return {"words": sentence.words, "tags": tags, "entities": entities}


def spans(tags: Sequence[str]) -> Iterator[tuple[int, int]]:
  """Yields the words of each entity, from its first to the one after it.

  Args:
    tags: the tag of each word, in IOB2.
  """
  starts = [i for i, tag in enumerate(tags) if tag.startswith("B-")]
  for start in starts:
    stop = start + 1
    while stop < len(tags) and tags[stop].startswith("I-"):
      stop += 1
    yield start, stop
