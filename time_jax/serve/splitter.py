"""Sentences and words of raw text: a model of `finetune split`."""

from collections.abc import Sequence
from typing import Any

from time_jax.evals.common.word_tokens import Labels, WordTokenizer
from time_jax.evals.split.boundaries import BOUNDARY, WORDS, assemble
from time_jax.evals.split.passage import Token
from time_jax.evals.split.reading import Reading, forms_of_windows, join
from time_jax.serve.folder import Folder
from time_jax.serve.items import read_all
from time_jax.serve.items import text as as_text
from time_jax.serve.rows import Beat, Row, RowGraph


class Splitter:
  """Splits text into sentences, tokens and words.

  An item is a text. What is found for it has "sentences", and each of them
  "tokens": their "start" and "end" in the item's text (characters), and their
  "words", which are several for a token such as `des`.
  """

  example = "It works."

  def __init__(self, folder: Folder) -> None:
    """Opens the model of a folder; raises UserError where it cannot."""
    self._graph = RowGraph(folder.file())
    self._tokenizer = WordTokenizer(folder.tokenizer, folder.longest)
    self._classes = folder.description["classes"]
    self._columns = [BOUNDARY, *([WORDS] if self._classes[WORDS] else [])]

  def __call__(
    self, items: Sequence[Any], beat: Beat = lambda: None
  ) -> list[dict[str, Any]]:
    """See `model.Model`."""
    found = self.split(read_all(as_text, items), beat)
    return [{"sentences": [*map(_shown, some)]} for some in found]

  def split(
    self, texts: Sequence[str], beat: Beat = lambda: None
  ) -> list[tuple[tuple[Token, ...], ...]]:
    """Returns the tokens of each sentence of each text.

    Args:
      texts: the texts.
      beat: see `model.Model`.
    """
    readings = [*map(Reading, texts)]
    chunks = self._tokenizer.chunks(forms_of_windows(readings))
    rows = [Row(c.tokens, owners=c.word_of_token) for c in chunks]
    labels: list[Labels] = [{}] * len(chunks)
    for batch in self._graph.run(rows, self._columns, beat):
      for row, i in enumerate(batch.numbers):
        count = chunks[i].num_words
        labels[i] = {k: x[row, :count] for k, x in batch.outputs.items()}
    found = join(readings, zip(chunks, labels, strict=True))
    return [
      assemble(reading, own, self._classes)
      for reading, own in zip(readings, found, strict=True)
    ]


def _shown(tokens: Sequence[Token]) -> dict[str, Any]:
  return {
    "tokens": [
      {"start": token.start, "end": token.stop, "words": [*token.words]}
      for token in tokens
    ]
  }
