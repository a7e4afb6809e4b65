"""A pipeline of spaCy with the texts that it reads, in a process of its own."""

import time
from collections.abc import Sequence

from time_jax.bench.common import spacy_pipelines
from time_jax.bench.common.host_memory import host_peak


class Measured:
  """A pipeline and its texts."""

  def __init__(self, name: str, texts: Sequence[str]) -> None:
    """Opens a pipeline.

    Args:
      name: see `spacy_pipelines.load`.
      texts: what it reads.
    """
    self._pipeline, self._texts = spacy_pipelines.load(name), texts

  def first(self) -> str:
    """Reads the first text; returns name and version of the pipeline."""
    self._pipeline(self._texts[0])
    return spacy_pipelines.describe(self._pipeline)

  def peak(self) -> int:
    """Returns the most bytes of main memory that it has had."""
    return host_peak()

  def together(self, processes: int) -> float:
    """Returns the seconds of all texts, given at once to some processes."""
    start = time.perf_counter()
    for _ in self._pipeline.pipe(self._texts, n_process=processes):
      pass
    return time.perf_counter() - start

  def alone(self) -> list[float]:
    """Returns the seconds of each text, given alone."""
    seconds = []
    for text in self._texts:
      start = time.perf_counter()
      self._pipeline(text)
      seconds.append(time.perf_counter() - start)
    return seconds
