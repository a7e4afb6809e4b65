"""What a measuring process does with the pipeline that lives in it.

Nothing here imports JAX: a process imports what its own pipeline needs.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from time_jax.bench.common.energy import make_meter
from time_jax.bench.common.host_memory import host_peak

Work = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Opened:
  """A pipeline that is ready to annotate.

  Attributes:
    annotate: sentences -> the same with what is predicted for them.
    platform: cpu, gpu or tpu: where it computes, and whose energy counts.
    about: what it is, for the JSON file. "metrics", where it is there, names
      the scores that can be compared; else all can.
    encoder_pass: sentences -> a function that runs the encoder alone over the
      same rows of tokens; None: there is no such thing.
  """

  annotate: Callable[[Sequence[Any]], list[Any]]
  platform: str
  about: Mapping[str, Any]
  encoder_pass: Callable[[Sequence[Any]], Work] | None = None


class Measured:
  """A pipeline with the sentences that it annotates, in its own process."""

  def __init__(
    self,
    load: Callable[..., Opened],
    source: Any,
    items: Sequence[Any],
    batches: Mapping[int, Sequence[Sequence[int]]],
  ) -> None:
    """Opens the pipeline.

    Args:
      load: opens what `source` names.
      source: argument of `load`.
      items: the sentences to measure with.
      batches: number of sentences -> batches of as many, by their numbers.
    """
    self._opened, self._items = load(source), items
    self._batches = {
      size: [[items[i] for i in numbers] for numbers in some]
      for size, some in batches.items()
    }
    self._encode: Work | None = None

  def first(self) -> None:
    """Annotates the first sentence."""
    self._opened.annotate(self._items[:1])

  def about(self) -> Mapping[str, Any]:
    """Returns what the pipeline is; see `Opened`."""
    return self._opened.about

  def annotated(self, items: Sequence[Any]) -> list[Any]:
    """Returns sentences with what is predicted for them."""
    return self._opened.annotate(items)

  def warm_up(self) -> int:
    """Does once what `seconds` measures.

    Returns:
      The peak of main memory in bytes, before the encoder runs alone.
    """
    self.seconds()
    peak = host_peak()
    if self._opened.encoder_pass:
      self._encode = self._opened.encoder_pass(self._items)
      self._encode()
    return peak

  def seconds(self) -> dict[str, Any]:
    """Times a round.

    Returns:
      "file": seconds of all sentences at once; "batches": number of sentences
      -> seconds of each batch of as many; "encoder": seconds of the encoder
      alone over the rows of all sentences, or None.
    """
    annotate = self._opened.annotate
    return {
      "file": _timed(lambda: annotate(self._items)),
      "batches": {
        size: [_timed(lambda batch=batch: annotate(batch)) for batch in some]
        for size, some in self._batches.items()
      },
      "encoder": _timed(self._encode) if self._encode else None,
    }

  def energy(self, at_least: float) -> dict[str, Any]:
    """Measures the energy of annotating all sentences.

    Args:
      at_least: seconds to measure for.

    Returns:
      "platform", and see `energy.Meter.measure`.
    """
    platform = self._opened.platform
    measured = make_meter(platform).measure(
      lambda: self._opened.annotate(self._items), at_least
    )
    return {"platform": platform, **measured}


def _timed(work: Work) -> float:
  start = time.perf_counter()
  work()
  return time.perf_counter() - start
