"""From the seconds of rounds to the numbers of a table's row."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from time_jax.bench.common import report, rounds
from time_jax.bench.pipeline import gold

Rounds = Mapping[str, Sequence[Mapping[str, Any]]]  # see `Measured.seconds`


@dataclasses.dataclass(frozen=True)
class Sample:
  """What every pipeline annotates in a round.

  Attributes:
    items: sentences, all given at once.
    batches: number of sentences -> batches of as many, by their numbers.
  """

  items: Sequence[Any]
  batches: Mapping[int, Sequence[Sequence[int]]]

  @property
  def counts(self) -> dict[str, int]:
    """The numbers of sentences and words."""
    words = gold.number_of_words(self.items)
    return {"sentences": len(self.items), "words": words}


def speed(name: str, times: Rounds, sample: Sample) -> dict[str, Any]:
  """Returns throughput and latency of a pipeline.

  Args:
    name: its name.
    times: what the rounds have measured, of all pipelines; the first one is
      compared with.
    sample: what was annotated.

  Returns:
    A row of the JSON file. "to_first" says how many times as fast as the first
    pipeline it is, with the file and with each batch size; "over_encoder" how
    many times as long as its encoder alone it takes. Both are medians of the
    ratios of rounds.
  """
  own, first = times[name], times[next(iter(times))]
  whole = [of_round["file"] for of_round in own]
  alone = [of_round["encoder"] for of_round in own]
  median = statistics.median(whole)
  return {
    "model": name,
    "words_s": sample.counts["words"] / median,
    "sentences_s": sample.counts["sentences"] / median,
    "file_s": report.spread(whole),
    "latency_s": {
      str(size): report.spread(
        [*itertools.chain(*(of_round["batches"][size] for of_round in own))]
      )
      for size in sample.batches
    },
    "encoder_s": None if None in alone else statistics.median(alone),
    "over_encoder": None if None in alone else rounds.ratio(whole, alone),
    "to_first": {
      "file": rounds.ratio([r["file"] for r in first], whole),
      **{
        str(size): rounds.ratio(_sums(first, size), _sums(own, size))
        for size in sample.batches
      },
    },
  }


def _sums(own: Sequence[Mapping[str, Any]], size: int) -> list[float]:
  """Returns the seconds of all batches of a size, round by round."""
  return [sum(of_round["batches"][size]) for of_round in own]


def energy_of_each(
  measured: Mapping[str, Any], sample: Sample
) -> dict[str, Any]:
  """Returns energy for each sentence and word, from that of all.

  Args:
    measured: what `Measured.energy` returns.
    sample: what was annotated.
  """
  energy = dict(measured)
  joules = energy.pop("joules", None)
  if joules is not None:
    energy["joules_per_sentence"] = joules / sample.counts["sentences"]
    energy["joules_per_word"] = joules / sample.counts["words"]
  return energy
