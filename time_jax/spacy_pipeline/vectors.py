"""The component `time_vectors`: what a student computes of each token."""

from collections.abc import Sequence

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc

from time_jax.serve.folder import VECTORS
from time_jax.spacy_pipeline.component import Component, read


@Language.factory(
  "time_vectors", assigns=["doc.tensor"], default_config={"int8": False}
)
def make_vectors(nlp: Language, name: str, int8: bool) -> "Vectors":
  """Returns the component, without an export; see `Exported`."""
  del nlp
  return Vectors(name, int8=int8)


class Vectors(Component):
  """Writes `doc.tensor`: of each token the mean of its last hidden states.

  White space has zeros. `vector` and `similarity` of a document, a span and a
  token are made of it, where the vocabulary has no vectors.
  """

  task = VECTORS

  def annotate(self, docs: Sequence[Doc]) -> None:
    """Writes vectors."""
    numbers, words = read(docs)
    found = iter(self.opened.of_words(words))
    for doc, some in zip(docs, numbers, strict=True):
      vectors = [next(found) for _ in some]
      doc.tensor = np.zeros((len(doc), self.opened.width), np.float32)
      for tokens, own in zip(some, vectors, strict=True):
        doc.tensor[tokens] = own
