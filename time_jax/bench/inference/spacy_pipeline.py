"""A pipeline of spaCy, as others annotate the same sentences."""

import importlib
import time
from collections.abc import Sequence
from typing import Any

from time_jax.core.errors import UserError

ENGINE = "spacy"


class Pipeline:
  """What `spacy.load` gives, all of its components at work."""

  def __init__(self, name: str) -> None:
    """Loads it.

    Args:
      name: of an installed package of spaCy, or a folder.

    Raises:
      UserError: spaCy or the pipeline is not installed.
    """
    try:
      spacy: Any = importlib.import_module("spacy")
    except ImportError:
      raise UserError(
        f"--spacy={name} needs spaCy, which is not installed; expected "
        f"`pip install spacy` and `python -m spacy download {name}`."
      ) from None
    try:
      self._pipeline = spacy.load(name)
    except OSError:
      raise UserError(
        f"--spacy={name}: spaCy has no such pipeline; expected one that is "
        f"installed, by `python -m spacy download {name}`, or a folder."
      ) from None

  def about(self) -> str:
    """Name and version, in the place of a fingerprint."""
    meta = self._pipeline.meta
    return f"spacy:{meta['lang']}_{meta['name']}-{meta['version']}"

  def seconds(
    self, subject: str, batches: Sequence[Sequence[str]]
  ) -> list[float]:
    """Of a call with the sentences of each batch; see `engines.Engine`."""
    del subject
    found = []
    for batch in batches:
      start = time.perf_counter()
      list(self._pipeline.pipe(batch, batch_size=len(batch)))
      found.append(time.perf_counter() - start)
    return found
