"""A component of a pipeline: an export that annotates documents."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from spacy.attrs import IS_SPACE, SENT_START
from spacy.tokens import Doc
from spacy.util import minibatch, raise_error

from time_jax.spacy_pipeline.exported import Exported


class Component(Exported):
  """Annotates documents, many at once in `pipe`."""

  def __init__(self, name: str, *, int8: bool = False) -> None:
    """Begins without an export; see `Exported`.

    Args:
      name: its name in the pipeline.
      int8: see `Exported`.
    """
    super().__init__(int8=int8)
    self.name = name
    self._handler: Callable[..., Any] = raise_error

  def annotate(self, docs: Sequence[Doc]) -> None:
    """Writes into documents what the model finds."""
    raise NotImplementedError

  def __call__(self, doc: Doc) -> Doc:
    """Annotates a document."""
    for done in self.pipe([doc]):
      return done
    return doc

  def pipe(
    self, stream: Iterable[Doc], *, batch_size: int = 128
  ) -> Iterator[Doc]:
    """Yields documents, annotated; those of a batch are computed together."""
    for docs in minibatch(stream, size=batch_size):
      try:
        self.annotate(docs)
      except Exception as error:  # spaCy's components leave all to it, too.
        self._handler(self.name, self, docs, error)
      else:
        yield from docs

  def set_error_handler(self, handler: Callable[..., Any]) -> None:
    """Sets what is called with a batch that failed; see spaCy's `Pipe`."""
    self._handler = handler

  def get_error_handler(self) -> Callable[..., Any]:
    """Returns what is called with a batch that failed."""
    return self._handler


def sentences(doc: Doc) -> list[list[int]]:
  """Returns the numbers of the tokens of each sentence, without white space.

  A document whose sentences are not known is one sentence.
  """
  marks = doc.to_array([SENT_START, IS_SPACE]).reshape(-1, 2)
  if not len(marks):
    return []
  number = np.cumsum(marks[:, 0] == 1)
  words = np.flatnonzero(marks[:, 1] == 0)
  cuts = np.flatnonzero(np.diff(number[words])) + 1
  return [part.tolist() for part in np.split(words, cuts) if len(part)]


def read(docs: Sequence[Doc]) -> tuple[list[list[list[int]]], list[list[str]]]:
  """Returns `sentences` of each document, and the words of all of them."""
  found = [*map(sentences, docs)]
  pairs = zip(docs, found, strict=True)
  words = [[doc[i].text for i in own] for doc, some in pairs for own in some]
  return found, words
