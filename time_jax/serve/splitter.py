"""Sentences and words of raw text: a model of `finetune split`."""

from collections.abc import Sequence
from typing import Any

from time_jax.evals.common.word_tokens import Labels, WordTokenizer
from time_jax.evals.split import raw_text
from time_jax.evals.split.boundaries import BOUNDARY, WORDS, assemble, check
from time_jax.evals.split.passage import Passage, Token
from time_jax.evals.split.reading import Reading, forms_of_windows, join
from time_jax.serve.folder import Folder
from time_jax.serve.items import read_all
from time_jax.serve.items import text as as_text
from time_jax.serve.rows import Beat, Row, RowGraph


class Splitter:
  """Splits text into sentences, tokens and words.

  An item is a text, in which an empty line ends a sentence. What is found for
  it has "sentences", and each of them "tokens": their "start" and "end" in the
  item's text (characters), and their "words", which are several for a token
  such as `des`.
  """

  example = "It works."

  def __init__(self, folder: Folder) -> None:
    """Opens the model of a folder; raises UserError where it cannot."""
    self._graph = RowGraph(folder.file())
    self._tokenizer = WordTokenizer(folder.tokenizer, folder.longest)
    self._classes = folder.description["classes"]
    check(self._classes)
    self._columns = [BOUNDARY, *([WORDS] if self._classes[WORDS] else [])]

  def __call__(
    self, items: Sequence[Any], beat: Beat = lambda: None
  ) -> list[dict[str, Any]]:
    """See `model.Model`."""
    texts = read_all(as_text, items)
    # All that does not wait for what is found elsewhere is computed together.
    some = [part for text in texts for part in raw_text.paragraphs(text)]
    known = dict(zip(some, self.split(some, beat), strict=True))

    def split(passages: Sequence[Passage]) -> list[Passage]:
      if new := [p.text for p in passages if p.text not in known]:
        known.update(zip(new, self.split(new, beat), strict=True))
      return [Passage(p.text, known[p.text]) for p in passages]

    found = (raw_text.tokens(text, "inputs", split) for text in texts)
    return [{"sentences": [*map(_shown, own)]} for own in found]

  def split(
    self, texts: Sequence[str], beat: Beat = lambda: None
  ) -> list[tuple[tuple[Token, ...], ...]]:
    """Returns the tokens of each sentence of each text, read as one passage.

    Args:
      texts: the texts.
      beat: see `model.Model`.
    """
    readings = [*map(Reading, texts)]
    forms = forms_of_windows(readings)
    chunks = self._tokenizer.chunks(forms, windows=True)
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
